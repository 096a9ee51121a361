//! Seal, catch up, open, and the old primary's return.

use std::time::{Duration, Instant};

use cfs_rpc::v1;
use cfs_rpc::v1::append_response::Kind as Response;
use rustix::process::Signal;

use crate::site::{Control, PATIENCE, Producer, Sites, chmod, create, cursor, lease, position};

/// Makes site-a primary of epoch 1, appends a file with inode 10, and waits until site-b has it.
async fn begin(sites: &Sites) -> (Control, Control, Producer) {
    let (mut a, mut b) = (sites.all[0].control().await, sites.all[1].control().await);
    let all = sites.directive(&[(1, 1)]);
    b.order(all.clone()).await;
    a.order(v1::Directive { primary: true, lease_deadline_boot_ns: lease(120_000), ..all }).await;
    a.until("accepting", |report| report.accepting).await;
    let mut producer = Producer::hello(&sites.all[0], "mds", "").await.unwrap();
    producer.append(1, 1, &[create(10)]).await;
    producer.acked(1).await;
    b.until("the entry at site-b", |report| cursor(report, 1) == (1, 1)).await;
    (a, b, producer)
}

/// Invariants 2, 6 and 7. A sealed site takes old batches only as far as ordered, without calling its source broken. The
/// next epoch opens at once; the old primary acknowledges nothing more; its unshipped tail comes late, merges, and what
/// lost the merge is in the audit of both.
#[tokio::test]
async fn a_sealed_site_waits_for_orders_and_the_old_tail_comes_late() {
    let sites = Sites::start(2);
    let (mut a, mut b, mut producer) = begin(&sites).await;

    // Sealed: what site-a still appends, with the lease that it has, does not come.
    let sealed = v1::Directive { floor: 2, ..sites.directive(&[(1, 1)]) };
    let report = b.order(sealed.clone()).await;
    assert_eq!((report.floor, cursor(&report, 1)), (2, (1, 1)));
    assert!(report.waiting_for.contains("sealed"), "{report:?}");
    // Site-b's acks carry its floor, which ends site-a's epoch as soon as it hears it.
    a.until("the floor at site-a", |report| report.floor == 2 && !report.accepting).await;
    producer.append(1, 2, &[create(11)]).await;
    match producer.answer(PATIENCE).await {
        Some(Response::Refusal(_)) | None => {}
        other => panic!("acknowledged below the floor: {other:?}"),
    }

    // Epoch 2 opens at site-b.
    let opened = Instant::now();
    let directive = v1::Directive {
        primary: true,
        lease_deadline_boot_ns: lease(120_000),
        cut: vec![position(1, 1)],
        ..sites.directive(&[(1, 1), (2, 2)])
    };
    let report = b.order(directive).await;
    if !report.accepting {
        b.until("accepting", |report| report.accepting).await;
    }
    assert!(opened.elapsed() < Duration::from_millis(150), "{:?}", opened.elapsed());
    let mut next = Producer::hello(&sites.all[1], "mds", "").await.unwrap();
    assert_eq!(next.highest_seq, 1, "the producer's place came along");
    next.append(2, 2, &[create(11)]).await;
    next.acked(2).await;
    a.order(sites.directive(&[(1, 1), (2, 2)])).await;
    a.until("site-b's entry at site-a", |report| cursor(report, 2) == (1, 1)).await;
}

/// Invariants 3, 4 and 7: what a dead primary acknowledged alone comes late when it returns; the newer epoch's write stays,
/// the other is audited on both sites.
#[tokio::test]
async fn a_returning_primary_discards_nothing() {
    let mut sites = Sites::start(2);
    let (mut a, mut b, mut producer) = begin(&sites).await;
    // Site-b is cut off while site-a acknowledges alone.
    b.order(v1::Directive { held: vec![1], ..sites.directive(&[(1, 1)]) }).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    producer.append(1, 2, &[chmod(10, 0o600), create(20)]).await;
    producer.acked(3).await;
    a.until("the acks in a report", |report| report.acknowledged.is_some_and(|p| p.lsn == 3)).await;
    sites.all[0].kill();

    b.order(v1::Directive { floor: 2, ..sites.directive(&[(1, 1)]) }).await;
    let report = b.report().await.unwrap();
    assert_eq!(cursor(&report, 1), (1, 1));
    let opened = sites.directive(&[(1, 1), (2, 2)]);
    let told = Instant::now();
    let report = b
        .order(v1::Directive {
            primary: true,
            lease_deadline_boot_ns: lease(120_000),
            cut: vec![position(1, 1)],
            ..opened.clone()
        })
        .await;
    if !report.accepting {
        b.until("accepting", |report| report.accepting).await;
    }
    assert!(told.elapsed() < Duration::from_millis(250), "a dead peer delays nothing: {:?}", told.elapsed());
    // The producer goes on after what the dead primary acknowledged.
    let mut next = Producer::hello(&sites.all[1], "mds", "").await.unwrap();
    next.append(2, 4, &[chmod(10, 0o640)]).await;
    next.acked(4).await;

    sites.all[0].spawn();
    let mut a = sites.all[0].control().await;
    a.order(opened).await;
    b.until("the late tail at site-b", |report| cursor(report, 1) == (3, 3)).await;
    a.until("the new epoch at site-a", |report| cursor(report, 2) == (1, 1) && cursor(report, 1) == (3, 3)).await;
    let lost = |text: String| {
        let line = text.lines().find(|line| line.starts_with("claudefs_replication_conflicts_total ")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    for site in &sites.all {
        let mut client = v1::inspect_client::InspectClient::new(site.channel().await);
        let reply = client.metrics(v1::MetricsRequest {}).await.unwrap().into_inner();
        assert_eq!(lost(reply.text), 1, "{}: the write that lost is in the audit", site.name);
    }
    let (at_a, at_b) = (sites.all[0].status().await, sites.all[1].status().await);
    assert!(
        at_a.status == "READY" && at_b.status == "READY",
        "{} {}; {} {}",
        at_a.status,
        at_a.why,
        at_b.status,
        at_b.why
    );
}

/// A stopped peer, which offers entries for ever, does not hold up the next primary.
#[tokio::test]
async fn a_stopped_primary_does_not_delay_the_next() {
    let sites = Sites::start(2);
    let (_a, mut b, producer) = begin(&sites).await;
    sites.all[0].signal(Signal::STOP);
    producer.append(1, 2, &[create(30)]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    b.order(v1::Directive { floor: 2, ..sites.directive(&[(1, 1)]) }).await;
    let told = Instant::now();
    let directive = v1::Directive {
        primary: true,
        lease_deadline_boot_ns: lease(120_000),
        cut: vec![position(1, 1)],
        ..sites.directive(&[(1, 1), (2, 2)])
    };
    let report = b.order(directive).await;
    if !report.accepting {
        b.until("accepting", |report| report.accepting).await;
    }
    assert!(told.elapsed() < Duration::from_millis(150), "{:?}", told.elapsed());
    sites.all[0].signal(Signal::CONT);
}

/// Sites that are held exchange nothing until that ends.
#[tokio::test]
async fn held_sites_exchange_nothing() {
    let sites = Sites::start(2);
    let (_a, mut b, mut producer) = begin(&sites).await;
    b.order(v1::Directive { held: vec![1], ..sites.directive(&[(1, 1)]) }).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    producer.append(1, 2, &[create(40)]).await;
    producer.acked(2).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let report = b.report().await.unwrap();
    assert_eq!(cursor(&report, 1).0, 1);
    b.order(sites.directive(&[(1, 1)])).await;
    b.until("the entry after the hold", |report| cursor(report, 1) == (2, 2)).await;
}

/// Fetched as ordered, and no further.
#[tokio::test]
async fn a_candidate_fetches_up_to_the_order() {
    let sites = Sites::start(2);
    let (_a, mut b, mut producer) = begin(&sites).await;
    b.order(v1::Directive { held: vec![1], ..sites.directive(&[(1, 1)]) }).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    for seq in 2..=6 {
        producer.append(1, seq, &[create(50 + seq)]).await;
        producer.acked(seq).await;
    }
    let sealed = v1::Directive { floor: 2, ..sites.directive(&[(1, 1)]) };
    b.order(v1::Directive { fetch: vec![position(1, 4)], ..sealed.clone() }).await;
    b.until("what was ordered", |report| cursor(report, 1) == (4, 4)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let report = b.report().await.unwrap();
    assert_eq!(cursor(&report, 1), (4, 4));
    assert!(sites.all[1].status().await.cursors.iter().all(|cursor| cursor.state != "stuck"));
    b.order(v1::Directive { fetch: vec![position(1, 6)], ..sealed }).await;
    b.until("the rest", |report| cursor(report, 1) == (6, 6)).await;
}
