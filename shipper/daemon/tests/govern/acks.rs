//! What a producer's acknowledgement promises.

use std::time::Duration;

use cfs_rpc::v1;

use crate::site::{Producer, Sites, create, lease};

const SHORT: Duration = Duration::from_millis(400);

/// Invariant 4: copies are promised first; every rule in force has to be met; a rule is confirmed once all that was
/// acknowledged meets it.
#[tokio::test]
async fn acknowledgements_wait_for_promises_and_for_every_rule() {
    let mut sites = Sites::start(2);
    let (mut a, mut b) = (sites.all[0].control().await, sites.all[1].control().await);
    let all = sites.directive(&[(1, 1)]);
    let only_a = v1::AckRule { id: 1, copies: 0, members: vec![1] };
    let both = v1::AckRule { id: 2, copies: 1, members: vec![1, 2] };
    let primary = |rules: &[&v1::AckRule], promised_copies| v1::Directive {
        primary: true,
        lease_deadline_boot_ns: lease(120_000),
        rules: rules.iter().map(|rule| (*rule).clone()).collect(),
        promised_copies,
        ..all.clone()
    };
    b.order(v1::Directive { incarnation: 1, ..all.clone() }).await;
    a.order(primary(&[&only_a], 0)).await;
    a.until("accepting", |report| report.accepting && report.confirmed_rule == 1).await;

    let mut local = Producer::hello(&sites.all[0], "local", "").await.unwrap();
    local.append(1, 1, &[create(10)]).await;
    local.acked(1).await;
    let mut remote = Producer::hello(&sites.all[0], "remote", "remote(1)").await.unwrap();
    remote.append(1, 1, &[create(11)]).await;
    a.until("a wish for a promise", |report| report.wants_promise == 1).await;
    a.order(primary(&[&only_a], 1)).await;
    assert!(remote.answer(SHORT).await.is_none(), "site-b is no member");
    a.order(primary(&[&only_a, &both], 1)).await;
    assert!(remote.answer(SHORT).await.is_none(), "the old rule holds too");
    a.order(primary(&[&both], 1)).await;
    remote.acked(1).await;
    let report = a.until("the rule confirmed", |report| report.confirmed_rule == 2).await;
    assert_eq!(report.wants_promise, 0);

    // Without its other member a rule confirms nothing and acknowledges nothing.
    sites.all[1].kill();
    local.append(1, 2, &[create(12)]).await;
    assert!(local.answer(SHORT).await.is_none());
    sites.all[1].spawn();
    local.acked(2).await;
}
