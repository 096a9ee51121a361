use cfs_model::Incarnation;

use super::*;

const A: StreamId = StreamId { site: SiteId(1), incarnation: Incarnation(1) };
const FROM_A: u64 = 10;
const FROM_C: u64 = 30;

fn plan() -> Plan {
    let mut plan = Plan::default();
    plan.connected(FROM_A, SiteId(1));
    plan.connected(FROM_C, SiteId(3));
    plan
}

fn to_ask(plan: &mut Plan, session: u64, held: u64) -> Vec<StreamId> {
    plan.to_ask(session, 0, |_| Lsn(held), |_| true)
}

#[test]
fn whoever_is_ahead_serves_and_the_origin_is_preferred() {
    let mut plan = plan();
    plan.offered(FROM_C, A, Lsn(5));
    assert_eq!(to_ask(&mut plan, FROM_C, 0), [A]);
    assert_eq!(to_ask(&mut plan, FROM_C, 3), [], "asked already");
    plan.offered(FROM_A, A, Lsn(9));
    assert_eq!(to_ask(&mut plan, FROM_A, 3), [A]);
    assert!(!plan.pulls(FROM_C, A), "what still comes from there is late");
    assert_eq!(to_ask(&mut plan, FROM_C, 3), [], "the origin keeps it");
}

/// A dead origin or a cut link is bridged by a third site.
#[test]
fn a_lost_source_is_replaced() {
    let mut plan = plan();
    plan.offered(FROM_A, A, Lsn(9));
    plan.offered(FROM_C, A, Lsn(9));
    assert_eq!(to_ask(&mut plan, FROM_A, 0), [A]);
    plan.disconnected(FROM_A);
    assert_eq!(to_ask(&mut plan, FROM_C, 4), [A]);
    assert_eq!(plan.puller(A), Some((FROM_C, SiteId(3))));
}

#[test]
fn a_source_that_fell_behind_is_left_for_one_that_has_more() {
    let mut plan = plan();
    plan.offered(FROM_A, A, Lsn(5));
    assert_eq!(to_ask(&mut plan, FROM_A, 0), [A]);
    plan.offered(FROM_C, A, Lsn(8));
    assert_eq!(to_ask(&mut plan, FROM_C, 4), [], "the origin still has more than is held");
    assert_eq!(to_ask(&mut plan, FROM_C, 5), [], "the origin's word may be on its way");
    assert_eq!(plan.to_ask(FROM_C, PATIENCE_MS - 1, |_| Lsn(5), |_| true), []);
    assert_eq!(plan.to_ask(FROM_C, PATIENCE_MS, |_| Lsn(5), |_| true), [A]);
}

#[test]
fn a_refusal_is_not_repeated_at_once() {
    let mut plan = plan();
    plan.offered(FROM_A, A, Lsn(5));
    assert_eq!(to_ask(&mut plan, FROM_A, 0), [A]);
    plan.refused(FROM_A, A, 1000);
    assert_eq!(plan.to_ask(FROM_A, 999, |_| Lsn(0), |_| true), []);
    assert_eq!(plan.to_ask(FROM_A, 1000, |_| Lsn(0), |_| true), [A]);
}

#[test]
fn streams_that_are_not_wanted_any_more_are_cancelled() {
    let mut plan = plan();
    plan.offered(FROM_A, A, Lsn(5));
    assert_eq!(to_ask(&mut plan, FROM_A, 0), [A]);
    assert_eq!(plan.to_ask(FROM_A, 0, |_| Lsn(0), |_| false), []);
    assert_eq!(plan.puller(A), None);
}

/// What retention has removed at the origin comes from whoever still has it, and the origin does not take the stream away.
#[test]
fn a_source_that_no_longer_has_what_comes_next_is_not_asked() {
    let mut plan = plan();
    for session in [FROM_A, FROM_C] {
        plan.offered(session, A, Lsn(9));
    }
    plan.keeps_from(FROM_A, A, Lsn(5));
    assert_eq!(to_ask(&mut plan, FROM_A, 3), []);
    assert_eq!(to_ask(&mut plan, FROM_C, 3), [A]);
    assert_eq!(plan.to_ask(FROM_A, 60_000, |_| Lsn(3), |_| true), []);
    assert!(plan.pulls(FROM_C, A));
    assert_eq!(to_ask(&mut plan, FROM_A, 4), [A], "it has what follows 4");
}
