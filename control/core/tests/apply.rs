//! Every refusal of `State::apply`, and that a refused command changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

use cfs_control_core::command::{Change, Founding, Parent};
use cfs_control_core::state::{Settings, Site};
use cfs_control_core::{Command, Kind, Outcome, State, caps};
use cfs_model::{ClusterId, Epoch, Incarnation, Level, Lsn, SiteId, SiteName, StreamId, Vector};

const A: SiteId = SiteId(1);
const B: SiteId = SiteId(2);
const C: SiteId = SiteId(3);
const W: SiteId = SiteId(9);

fn site(id: SiteId, name: &str, witness: bool) -> Site {
    Site {
        id,
        name: SiteName::new(name).unwrap(),
        witness,
        node: u64::from(id.0),
        peer: String::new(),
        producer: String::new(),
        control: String::new(),
        http: String::new(),
        priority: 100,
    }
}

fn founding(founder: Site) -> Founding {
    Founding {
        cluster: ClusterId([7; 16]),
        group: 5,
        site: founder,
        settings: Settings::default(),
        level: Level::THIS,
        parent: None,
    }
}

fn apply(state: &mut State, kind: Kind) -> Outcome {
    state.apply(&Command { at_ms: 1, by: "test".into(), kind })
}

fn done(state: &mut State, kind: Kind) {
    let outcome = apply(state, kind.clone());
    assert!(!matches!(outcome, Outcome::Refused(_)), "{kind:?}: {outcome:?}");
}

/// Refused, for a reason that says this, and nothing has changed.
fn refused(state: &State, kind: Kind, says: &str) {
    let mut after = state.clone();
    let Outcome::Refused(why) = apply(&mut after, kind.clone()) else { panic!("{kind:?} was applied") };
    assert!(why.contains(says), "{kind:?}: {why:?} does not say {says:?}");
    assert_eq!(&after, state, "{kind:?} changed something");
}

fn founded() -> State {
    let mut state = State::default();
    done(&mut state, Kind::Found(Box::new(founding(site(A, "site-a", false)))));
    state
}

/// Two data sites and a witness.
fn cluster() -> State {
    let mut state = founded();
    done(&mut state, Kind::Enrol { site: site(B, "site-b", false) });
    done(&mut state, Kind::Enrol { site: site(W, "site-w", true) });
    state
}

fn begin(op: u64, epoch: Epoch, change: Change) -> Kind {
    Kind::Begin { op, epoch, change, reason: "test".into(), evidence: String::new() }
}

fn open(op: u64, epoch: Epoch, site: SiteId, cut: Vector) -> Kind {
    Kind::Open { op, epoch, site, cut, counted: Vec::new(), phases: Vec::new() }
}

fn at(lsn: u64) -> Vector {
    [(StreamId { site: A, incarnation: Incarnation(1) }, Lsn(lsn))].into_iter().collect()
}

const FAILOVER: Change = Change::Failover { to: None };

#[test]
fn nothing_comes_before_the_founding_and_no_second_one_after() {
    let note = Kind::Note { what: "x".into(), site: A, text: String::new(), evidence: String::new() };
    refused(&State::default(), note, "not founded");
    refused(&founded(), Kind::Found(Box::new(founding(site(B, "site-b", false)))), "founded already");
    refused(&State::default(), Kind::Found(Box::new(founding(site(W, "site-w", true)))), "witness");
    let settings = Settings { lease_ms: Some(5), ..Settings::default() };
    let bad = Founding { settings, ..founding(site(A, "site-a", false)) };
    refused(&State::default(), Kind::Found(Box::new(bad)), "out of range");
    let parent = Parent { state: cluster(), highest: Epoch(1), cut: Vector::new(), evidence: String::new() };
    let other = Founding { cluster: ClusterId([8; 16]), parent: Some(parent), ..founding(site(B, "site-b", false)) };
    refused(&State::default(), Kind::Found(Box::new(other)), "another cluster");
}

#[test]
fn a_forced_group_goes_on_above_everything_seen() {
    let highest = Epoch::new(3, C, 9);
    let parent = Parent { state: cluster(), highest, cut: at(4), evidence: "alone".into() };
    let mut state = State::default();
    let forced = Founding { group: 6, parent: Some(parent), ..founding(site(B, "site-b", false)) };
    done(&mut state, Kind::Found(Box::new(forced)));
    assert_eq!((state.epoch, state.primary, state.cut.clone()), (Epoch::new(4, B, 1), Some(B), at(4)));
    assert_eq!(state.sites.len(), 3, "absent sites stay enrolled");
    assert_eq!(state.wanted_voters(), [B].into(), "and have no vote before they rejoin");
    assert!(state.automatic().unwrap_err().contains("site-a"));
    done(&mut state, Kind::Enrol { site: site(A, "site-a", false) });
    done(&mut state, Kind::Enrol { site: site(W, "site-w", true) });
    assert_eq!(state.wanted_voters(), [A, B, W].into());
}

#[test]
fn members_are_who_they_say() {
    let state = cluster();
    refused(&state, Kind::Enrol { site: site(B, "site-x", false) }, "number 2 belongs to site-b");
    refused(&state, Kind::Enrol { site: site(C, "site-b", false) }, "belongs to site number 2");
    refused(&state, Kind::Enrol { site: site(B, "site-b", true) }, "another kind");
    refused(&state, Kind::Enrol { site: site(C, "site-v", true) }, "a witness already");
    refused(&state, Kind::Enrol { site: site(A, "site-a", false) }, "is primary");
    let mut full = state;
    for id in 10..10 + (caps::MAX_SITES - 3) as u8 {
        done(&mut full, Kind::Enrol { site: site(SiteId(id), &format!("site-{id}"), false) });
    }
    refused(&full, Kind::Enrol { site: site(SiteId(200), "site-200", false) }, "at most");
}

#[test]
fn a_node_id_is_never_used_twice() {
    let mut state = cluster();
    let before = state.site(B).unwrap().node;
    let Outcome::Allotted(node) = apply(&mut state, Kind::Enrol { site: site(B, "site-b", false) }) else { panic!() };
    assert!(node > before && state.sites.values().filter(|site| site.node == node).count() == 1);
    done(&mut state, Kind::Remove { site: B, forced: false });
    let Outcome::Allotted(again) = apply(&mut state, Kind::Enrol { site: site(B, "site-b", false) }) else { panic!() };
    assert!(again > node);
}

#[test]
fn what_may_not_be_removed() {
    let state = cluster();
    refused(&state, Kind::Remove { site: A, forced: true }, "is primary");
    refused(&state, Kind::Remove { site: C, forced: true }, "not enrolled");
    // A primary is never the last data site that could be removed; without one the last stays.
    let mut last = cluster();
    done(&mut last, Kind::Remove { site: B, forced: false });
    last.primary = None;
    refused(&last, Kind::Remove { site: A, forced: false }, "last data site");
}

#[test]
fn one_change_of_primary_at_a_time() {
    let mut state = cluster();
    refused(&state, begin(2, Epoch(1), FAILOVER), "begun meanwhile");
    refused(&state, begin(1, Epoch(9), FAILOVER), "opened meanwhile");
    refused(&state, begin(1, Epoch(1), Change::Switchover { to: W, timeout_ms: 1 }), "witness");
    refused(&state, begin(1, Epoch(1), Change::Failover { to: Some(C) }), "not enrolled");
    refused(&state, open(1, Epoch(2), B, Vector::new()), "is over");
    refused(&state, Kind::Abort { op: 1, why: String::new(), phases: Vec::new() }, "is over");
    done(&mut state, begin(1, Epoch(1), FAILOVER));
    refused(&state, begin(2, Epoch(1), FAILOVER), "under way");
    refused(&state, Kind::MoveVote { to: B, timeout_ms: 1 }, "under way");
    refused(&state, Kind::Abort { op: 1, why: String::new(), phases: Vec::new() }, "never by aborting");
    refused(&state, Kind::Abort { op: 7, why: String::new(), phases: Vec::new() }, "is over");
    refused(&state, open(7, Epoch(2), B, Vector::new()), "is over");
    refused(&state, open(1, Epoch(3), B, Vector::new()), "does not follow");
    refused(&state, open(1, Epoch(2), C, Vector::new()), "not enrolled");
    done(&mut state, open(1, Epoch(2), B, at(7)));
    assert_eq!((state.epoch, state.primary), (Epoch(2), Some(B)));
    refused(&state, open(1, Epoch(2), A, at(9)), "is over");
    done(&mut state, begin(2, Epoch(2), FAILOVER));
    refused(&state, open(2, Epoch(3), A, at(6)), "does not cover");
}

#[test]
fn an_open_and_an_abort_exclude_each_other() {
    let switchover = Change::Switchover { to: B, timeout_ms: 1000 };
    let mut state = cluster();
    done(&mut state, begin(1, Epoch(1), switchover));
    let begun = state.clone();
    done(&mut state, Kind::Abort { op: 1, why: "late".into(), phases: Vec::new() });
    assert_eq!((state.epoch, state.primary, state.aborted_op), (Epoch(1), Some(A), 1));
    let aborted = state.changes.back().expect("it is remembered");
    assert_eq!((aborted.from, aborted.to, &*aborted.outcome), (Some(A), Some(B), "aborted"));
    refused(&state, open(1, Epoch(2), B, Vector::new()), "is over");
    let mut opened = begun;
    done(&mut opened, open(1, Epoch(2), B, Vector::new()));
    refused(&opened, Kind::Abort { op: 1, why: "late".into(), phases: Vec::new() }, "is over");
}

#[test]
fn incarnations_follow_each_other() {
    let mut state = cluster();
    refused(&state, Kind::Allot { site: A, after: Incarnation(0), why: String::new() }, "allotted meanwhile");
    refused(&state, Kind::Allot { site: C, after: Incarnation(0), why: String::new() }, "not enrolled");
    done(&mut state, Kind::Allot { site: A, after: Incarnation(1), why: String::new() });
    assert_eq!(state.incarnations.get(&A), Some(&Incarnation(2)));
}

#[test]
fn rules_and_promises() {
    let mut state = cluster();
    refused(&state, Kind::SetRule { copies: 1, members: vec![B] }, "primary always counts");
    refused(&state, Kind::SetRule { copies: 1, members: vec![A, C] }, "not enrolled");
    refused(&state, Kind::Settle { rule: 99 }, "not in force");
    refused(&state, Kind::Promise { epoch: Epoch(9), copies: 1 }, "not the current one");
    refused(&state, Kind::Promise { epoch: Epoch(1), copies: 0 }, "not the current one");
    done(&mut state, Kind::Promise { epoch: Epoch(1), copies: 2 });
    done(&mut state, Kind::Promise { epoch: Epoch(1), copies: 1 });
    done(&mut state, Kind::Promise { epoch: Epoch(1), copies: 3 });
    assert_eq!(state.promised, 1, "the smallest is what failover counts on");
    done(&mut state, Kind::SetRule { copies: 5, members: vec![A, B] });
    let first = state.rules[0].clone();
    done(&mut state, Kind::SetRule { copies: 1, members: vec![A, B] });
    assert_eq!((state.rules.len(), &state.rules[0]), (2, &first), "a rule that nobody can meet is replaced");
    let newest = state.rules[1].id;
    done(&mut state, Kind::Settle { rule: newest });
    assert_eq!(state.rules.len(), 1);
}

#[test]
fn who_is_removed_or_wiped_still_counts_for_what_was_acknowledged() {
    let mut state = cluster();
    done(&mut state, Kind::Enrol { site: site(C, "site-c", false) });
    done(&mut state, Kind::SetRule { copies: 1, members: vec![A, B, C] });
    let rule = state.last_rule;
    done(&mut state, Kind::Settle { rule });
    assert!(state.seals_suffice(&[B, C].into()).is_ok() && state.seals_suffice(&[B].into()).is_err());

    let mut removed = state.clone();
    done(&mut removed, Kind::Remove { site: C, forced: true });
    assert_eq!(removed.seals_suffice(&[B].into()).unwrap_err(), [C].into());
    let rule = removed.last_rule;
    done(&mut removed, Kind::Settle { rule });
    assert!(removed.seals_suffice(&[B].into()).is_ok());

    done(&mut state, Kind::Enrol { site: site(C, "site-c", false) });
    assert!(state.seals_suffice(&[B, C].into()).is_err(), "the seal of a wiped site says nothing of what it held");
    let rule = state.last_rule;
    done(&mut state, Kind::Settle { rule });
    assert!(state.seals_suffice(&[B].into()).is_ok());
}

#[test]
fn settings_have_bounds() {
    let mut state = cluster();
    let lease = |ms| Kind::Set(Settings { lease_ms: Some(ms), ..Settings::default() });
    refused(&state, lease(299), "out of range");
    refused(&state, lease(60_001), "out of range");
    done(&mut state, lease(500));
    assert_eq!(state.longest_lease_ms(), 1000, "leases of the old length still run");
    refused(&state, lease(400), "lowered");
    done(&mut state, Kind::LeaseSettled);
    assert_eq!(state.longest_lease_ms(), 500);
    done(&mut state, lease(400));
}

#[test]
fn streams_end_once() {
    let mut state = cluster();
    let stream = StreamId { site: B, incarnation: Incarnation(1) };
    done(&mut state, Kind::Close { stream, last: Lsn(3), forced: false });
    refused(&state, Kind::Close { stream, last: Lsn(4), forced: true }, "closed already");
}

#[test]
fn votes_and_holds_are_of_members() {
    let state = cluster();
    refused(&state, Kind::MoveVote { to: C, timeout_ms: 1 }, "not enrolled");
    refused(&state, Kind::Hold { site: C, held: true, why: String::new() }, "not enrolled");
}

#[test]
fn a_split_is_resolved_above_both_sides() {
    let mut state = cluster();
    let theirs = Epoch::new(1, B, 4);
    done(&mut state, Kind::Split { group: 6, epoch: theirs, evidence: String::new() });
    assert!(state.automatic().unwrap_err().contains("another group"));
    let resolve = |opened| Kind::Resolve {
        above: theirs,
        opened,
        incarnations: vec![(B, Incarnation(9))],
        forked_at: Vector::new(),
    };
    refused(&state, resolve(vec![(Epoch(1), B)]), "different sites on both sides");
    done(&mut state, resolve(vec![(theirs, B)]));
    assert!(state.next_epoch() > theirs && state.automatic().is_ok());
    assert!(state.next_incarnation(B) > Incarnation(9));
}

/// Invariant 7: what was written on the other side of a split is known as such until that side is back, however often
/// this one is forced or the split is resolved meanwhile.
#[test]
fn the_first_fork_counts_until_the_other_side_is_back() {
    let force = |state: &State, group, cut| {
        let parent = Parent { state: state.clone(), highest: state.epoch, cut: at(cut), evidence: String::new() };
        let mut forced = State::default();
        let founding = Founding { group, parent: Some(parent), ..founding(site(B, "site-b", false)) };
        done(&mut forced, Kind::Found(Box::new(founding)));
        forced
    };
    let mut state = force(&force(&cluster(), 6, 4), 7, 9);
    assert_eq!(state.forked_at, at(4), "forced twice");
    let above = state.epoch;
    let resolve = |forked_at| Kind::Resolve { above, opened: Vec::new(), incarnations: Vec::new(), forked_at };
    done(&mut state, resolve(at(7)));
    assert_eq!(state.forked_at, at(4), "resolved, and the other side has not come back");
    done(&mut state, Kind::Enrol { site: site(W, "site-w", true) });
    assert_eq!(state.forked_at, at(4));
    done(&mut state, Kind::Enrol { site: site(A, "site-a", false) });
    assert_eq!(state.forked_at, Vector::new());
}

#[test]
fn histories_are_bounded() {
    let mut state = cluster();
    for _ in 0..caps::MAX_EVENTS + 50 {
        let text = "x".repeat(caps::MAX_TEXT_BYTES + 10);
        done(&mut state, Kind::Note { what: "note".into(), site: A, text, evidence: String::new() });
    }
    assert_eq!(state.events.len(), caps::MAX_EVENTS);
    assert_eq!(state.events.back().unwrap().text.len(), caps::MAX_TEXT_BYTES);
}

#[test]
fn the_number_of_votes_is_odd() {
    for data in 1..=7_u8 {
        for witness in [false, true] {
            let mut state = founded();
            for n in 2..=data {
                done(&mut state, Kind::Enrol { site: site(SiteId(n), &format!("site-{n}"), false) });
            }
            if witness {
                done(&mut state, Kind::Enrol { site: site(W, "site-w", true) });
            }
            let voters = state.wanted_voters();
            let expected = match (data, witness) {
                (1, _) | (2, false) => 1,
                (2, true) | (3, _) | (4, false) => 3,
                _ => 5,
            };
            assert_eq!(voters.len(), expected, "{data} data sites, witness {witness}: {voters:?}");
            assert!(voters.contains(&A), "the primary votes");
            assert_eq!(voters.contains(&W), witness && (data == 2 || data == 4));
        }
    }
}
