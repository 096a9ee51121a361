//! Changes of primary that do not go on by themselves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use cfs_control_core::command::Change;
use cfs_control_core::report::{Answer, Order, Report, Shipper};
use cfs_control_core::{Action, Coordinator, Kind, State};
use cfs_model::{Epoch, Incarnation, Level, Lsn, SiteId, StreamId, Vector};
use fixture::{A, B, W, apply, cluster};

mod fixture;

/// site-a is primary, and this change of it is under way.
fn changing(change: Change) -> State {
    let mut state = cluster(&[(B, "site-b"), (W, "site-w")]);
    let begin = Kind::Begin { op: 1, epoch: state.epoch, change, reason: String::new(), evidence: String::new() };
    apply(&mut state, begin);
    state
}

fn at(lsn: u64) -> Vector {
    [(StreamId { site: A, incarnation: Incarnation(1) }, Lsn(lsn))].into_iter().collect()
}

fn hear(leader: &mut Coordinator, state: &State, site: SiteId, lsn: u64, now_ms: u64) {
    let durable = at(lsn);
    let shipper = Shipper {
        instance: 1,
        epoch: Epoch(1),
        floor: Epoch(1),
        applied: durable.clone(),
        durable,
        ..Shipper::default()
    };
    let node = state.site(site).unwrap().node;
    let report = Report {
        site,
        node,
        instance: 1,
        sequence: now_ms,
        shipper: Some(shipper),
        resigned: Epoch(0),
        level: Level::THIS,
    };
    leader.heard(state, report, now_ms);
}

/// Answers every order that is given now.
fn obey(
    leader: &mut Coordinator,
    state: &State,
    now_ms: u64,
    answer: impl Fn(SiteId, &Order) -> Option<Answer>,
) -> Vec<Kind> {
    let mut proposed = Vec::new();
    for _ in 0..4 {
        for action in leader.tick(state, None, now_ms) {
            match action {
                Action::Propose(kind) => {
                    leader.proposed();
                    proposed.push(kind);
                }
                Action::Order { op, site, order } => {
                    if let Some(answer) = answer(site, &order) {
                        leader.answered(state, op, site, &order, answer, now_ms);
                    }
                }
            }
        }
    }
    proposed
}

/// A link that carries signs of life and no entries: writers do not wait for it longer than some seconds.
#[test]
fn a_switchover_to_whom_nothing_arrives_is_taken_back() {
    let state = changing(Change::Switchover { to: B, timeout_ms: 30_000 });
    let aborted = |arrives: bool| {
        let mut leader = Coordinator::new(W, 0);
        for step in 0..50 {
            let now_ms = 1000 + 100 * step;
            hear(&mut leader, &state, A, 900, now_ms);
            hear(&mut leader, &state, B, if arrives { 100 + step } else { 100 }, now_ms);
            let drained = |site, order: &Order| {
                let done = Answer::Done { floor: Epoch(1), durable: at(900) };
                (site == A && *order == Order::Drain).then_some(done)
            };
            if let Some(Kind::Abort { why, .. }) = obey(&mut leader, &state, now_ms, drained).pop() {
                assert!(why.contains("site-b lacks the last 800 entries"), "{why}");
                return Some(now_ms);
            }
        }
        None
    };
    let at_ms = aborted(false).expect("it is taken back");
    assert!((4000..=4200).contains(&at_ms), "{at_ms}");
    assert_eq!(aborted(true), None, "it goes on while some arrive");
}

/// A hook says no after the primary was lost: nobody takes over, until an operator overrules it.
#[test]
fn a_hook_is_overruled_in_a_failover_under_way() {
    let state = changing(Change::Failover { to: None });
    let mut leader = Coordinator::new(W, 0);
    let answer = |site, order: &Order| match order {
        Order::Seal { floor } if site == B => Some(Answer::Done { floor: *floor, durable: at(9) }),
        Order::CatchUp { hook: true, .. } => Some(Answer::Vetoed("not today".into())),
        Order::CatchUp { floor, .. } => Some(Answer::Done { floor: *floor, durable: at(9) }),
        _ => None,
    };
    let opened = |leader: &mut Coordinator, now_ms| {
        hear(leader, &state, B, 9, now_ms);
        obey(leader, &state, now_ms, answer).into_iter().any(|kind| matches!(kind, Kind::Open { site: B, .. }))
    };
    for now_ms in (3000..8000).step_by(100) {
        assert!(!opened(&mut leader, now_ms), "at {now_ms}");
    }
    assert!(leader.vetoed(B).is_some_and(|said| said.contains("not today")) && leader.vetoed(A).is_none());
    assert!(leader.past_vetoes(&state).is_some_and(|next| next.ends_with("--to site-b --force")));
    assert_eq!((leader.overrule(A), leader.overrule(B)), (None, Some(1)));
    assert!((8000..9000).step_by(100).any(|now_ms| opened(&mut leader, now_ms)));
}
