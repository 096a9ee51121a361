//! Leases: taking them, losing them, sleeping through them.

use std::time::{Duration, Instant};

use cfs_rpc::v1;
use cfs_rpc::v1::append_response::Kind as Response;
use rustix::process::Signal;

use crate::site::{Producer, Sites, create, lease};

/// Alone, told once: it accepts within a few milliseconds, acknowledges with its deadline, and stops by itself.
#[tokio::test]
async fn a_lease_opens_at_once_and_ends_by_itself() {
    let sites = Sites::start(1);
    let mut control = sites.all[0].control().await;
    let first = control.report().await.unwrap();
    assert!(first.directive == 0 && first.instance != 0 && first.pid != 0 && !first.accepting, "{first:?}");
    let told = Instant::now();
    let lease_deadline_boot_ns = lease(1500);
    let directive = v1::Directive { primary: true, lease_deadline_boot_ns, ..sites.directive(&[(1, 1)]) };
    let answer = control.order(directive.clone()).await;
    assert_eq!(answer.refused, "");
    if !answer.accepting {
        control.until("accepting", |report| report.accepting).await;
    }
    let took = told.elapsed();
    // Sooner than the next regular report, also on a busy machine.
    assert!(took < Duration::from_millis(240), "{took:?}");

    let mut producer = Producer::hello(&sites.all[0], "mds", "local").await.unwrap();
    producer.append(1, 1, &[create(10)]).await;
    match producer.answer(Duration::from_secs(1)).await {
        Some(Response::Ack(ack)) => assert_eq!(ack.lease_deadline_boot_ns, lease_deadline_boot_ns),
        other => panic!("{other:?}"),
    }
    let report = control.until("the ack in a report", |report| report.acknowledged.is_some()).await;
    assert_eq!(report.acknowledged.unwrap().lsn, 1);
    assert!(report.durable_bytes > 0 && report.append_path_age_ms < 1000, "{report:?}");

    // Nobody renews it.
    control.until("the end of the lease", |report| !report.accepting && report.waiting_for == "a lease").await;
    producer.append(1, 2, &[create(11)]).await;
    assert!(matches!(producer.answer(Duration::from_secs(2)).await, Some(Response::Refusal(_)) | None));

    // Renewed in the same epoch, it goes on after what it has.
    control.order(v1::Directive { lease_deadline_boot_ns: lease(60_000), ..directive }).await;
    control.until("accepting again", |report| report.accepting).await;
    let mut producer = Producer::hello(&sites.all[0], "mds", "local").await.unwrap();
    assert_eq!(producer.highest_seq, 1);
    producer.append(1, 2, &[create(11)]).await;
    producer.acked(2).await;
}

/// Invariant 2: a process that slept past its lease, with entries on their way, acknowledges nothing when it wakes.
#[tokio::test]
async fn a_process_that_sleeps_past_its_lease_acknowledges_nothing() {
    let sites = Sites::start(1);
    let site = &sites.all[0];
    let mut control = site.control().await;
    let directive = v1::Directive { primary: true, lease_deadline_boot_ns: lease(1200), ..sites.directive(&[(1, 1)]) };
    control.order(directive).await;
    control.until("accepting", |report| report.accepting).await;
    let mut producer = Producer::hello(site, "mds", "local").await.unwrap();
    producer.append(1, 1, &[create(10)]).await;
    producer.acked(1).await;

    site.signal(Signal::STOP);
    // A thread that runs on another core stops a little later.
    tokio::time::sleep(Duration::from_millis(100)).await;
    for seq in 2..12 {
        producer.append(1, seq, &[create(100 + seq)]).await;
    }
    tokio::time::sleep(Duration::from_millis(1400)).await;
    site.signal(Signal::CONT);
    while let Some(answer) = producer.answer(Duration::from_secs(2)).await {
        assert!(!matches!(answer, Response::Ack(_)), "{answer:?}");
    }
    // What was on its way was not written either: it would be late for no reason.
    let report = control.until("the end of the lease", |report| !report.accepting).await;
    assert_eq!(crate::site::cursor(&report, 1).0, 1);
}

/// The append path proves itself without any load.
#[tokio::test]
async fn an_idle_append_path_is_proven_again_and_again() {
    let sites = Sites::start(1);
    let mut control = sites.all[0].control().await;
    let directive =
        v1::Directive { primary: true, lease_deadline_boot_ns: lease(60_000), ..sites.directive(&[(1, 1)]) };
    control.order(directive).await;
    let until = Instant::now() + Duration::from_secs(2);
    let (mut reports, mut longest) = (0, Duration::ZERO);
    let mut last = Instant::now();
    while Instant::now() < until {
        let report = control.report().await.unwrap();
        longest = longest.max(last.elapsed());
        last = Instant::now();
        assert!(report.append_path_age_ms < 800, "{report:?}");
        reports += 1;
    }
    assert!((6..60).contains(&reports), "{reports} reports in two seconds");
    assert!(longest < Duration::from_millis(800), "{longest:?}");
}

/// A later session ends the earlier one; the directive stays in force in between.
#[tokio::test]
async fn a_later_session_takes_over() {
    let sites = Sites::start(1);
    let mut first = sites.all[0].control().await;
    let directive =
        v1::Directive { primary: true, lease_deadline_boot_ns: lease(60_000), ..sites.directive(&[(1, 1)]) };
    first.order(directive).await;
    first.until("accepting", |report| report.accepting).await;
    let mut second = sites.all[0].control().await;
    let report = second.report().await.unwrap();
    assert!(report.accepting && report.directive == 0, "{report:?}");
    let ended = loop {
        if let Err(status) = first.report().await {
            break status;
        }
    };
    assert_eq!(ended.code(), tonic::Code::Aborted, "{ended}");
    drop(second);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(Producer::hello(&sites.all[0], "mds", "").await.is_ok());
}

/// Invariant 1: a control process that lies is refused, and told why.
#[tokio::test]
async fn a_lying_control_process_is_refused() {
    let sites = Sites::start(1);
    let mut control = sites.all[0].control().await;
    let lie = v1::Directive {
        primary: true,
        lease_deadline_boot_ns: lease(60_000),
        opened: vec![v1::Opened { epoch: 1, site: 2 }],
        ..sites.directive(&[(1, 1)])
    };
    let report = control.order(lie).await;
    assert!(report.refused.contains("not opened") && report.directive == 0 && !report.accepting, "{report:?}");
    control.order(v1::Directive { floor: 5, ..sites.directive(&[(1, 1)]) }).await;
    let old = v1::Directive { primary: true, lease_deadline_boot_ns: lease(60_000), ..sites.directive(&[(1, 1)]) };
    let report = control.order(old).await;
    assert!(report.refused.contains("older"), "{report:?}");
    assert!(Producer::hello(&sites.all[0], "mds", "").await.is_err());
}
