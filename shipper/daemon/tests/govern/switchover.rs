//! A planned change of primary: the old one takes its stream to its end.

use std::time::Duration;

use cfs_rpc::v1;
use cfs_rpc::v1::append_response::Kind as Response;
use cfs_rpc::v1::refusal::Reason;

use crate::site::{Producer, Sites, create, cursor, lease};

/// Invariants 1, 4 and 8: everything taken is acknowledged, nothing more is taken, a restart with the old lease at hand
/// does not wake it, an abort does.
#[tokio::test]
async fn a_drain_acknowledges_what_was_taken_and_holds_across_a_restart() {
    let mut sites = Sites::start(1);
    let primary = v1::Directive {
        primary: true,
        lease_deadline_boot_ns: lease(120_000),
        promised_copies: 1,
        ..sites.directive(&[(1, 1)])
    };
    let mut control = sites.all[0].control().await;
    control.order(primary.clone()).await;
    control.until("accepting", |report| report.accepting).await;
    let mut producer = Producer::hello(&sites.all[0], "mds", "").await.unwrap();
    for seq in 1..=200 {
        producer.append(1, seq, &[create(100 + seq)]).await;
    }
    let drain = v1::Directive { drain_op: 9, ..primary.clone() };
    control.order(drain.clone()).await;
    let report = control.until("drained", |report| report.drained_op == 9).await;
    assert!(!report.accepting);
    let taken = cursor(&report, 1).0;
    let mut acked = 0;
    let refusal = loop {
        match producer.answer(Duration::from_secs(5)).await {
            Some(Response::Ack(ack)) => acked = ack.through_seq,
            Some(Response::Refusal(refusal)) => break refusal,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(acked, taken, "what was taken is acknowledged, and nothing else");
    match refusal.reason {
        Some(Reason::NotPrimary(not)) => assert!(not.site.is_empty() && not.why.contains("switchover 9"), "{not:?}"),
        other => panic!("{other:?}"),
    }

    sites.all[0].kill();
    sites.all[0].spawn();
    let mut control = sites.all[0].control().await;
    let report = control.order(primary.clone()).await;
    assert_eq!((report.drained_op, report.refused.as_str()), (9, ""));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let report = control.report().await.unwrap();
    assert!(!report.accepting && cursor(&report, 1).0 == taken, "{report:?}");
    assert!(Producer::hello(&sites.all[0], "mds", "").await.is_err());

    control.order(v1::Directive { aborted_op: 9, ..primary }).await;
    control.until("accepting after the abort", |report| report.accepting && report.drained_op == 0).await;
    let mut producer = Producer::hello(&sites.all[0], "mds", "").await.unwrap();
    assert_eq!(producer.highest_seq, taken);
    producer.append(1, taken + 1, &[create(9000)]).await;
    producer.acked(taken + 1).await;
}
