//! What an operator is told before anything is done: plans and their blockers, removals, forced recoveries, splits, and what a
//! starting control process does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;

use cfs_control_core::alone::{self, BLINK_MS, FORCE_QUIET_MS, Restart};
use cfs_control_core::command::Change;
use cfs_control_core::force::{self, Contact, Survivor};
use cfs_control_core::founding::{self, Start};
use cfs_control_core::local::{Fence, Local, Sealed};
use cfs_control_core::plan::{Plan, plan, time_too_short};
use cfs_control_core::report::{Report, SHIPPER_HANGS_MS, Shipper};
use cfs_control_core::split::{self, Side, Standing, Verdict};
use cfs_control_core::state::Rule;
use cfs_control_core::{Action, Coordinator, Kind, State, mode, removal};
use cfs_model::{Epoch, Incarnation, Level, Lsn, SiteId, StreamId, Vector};
use fixture::{A, B, W, apply, cluster};

mod fixture;

const C: SiteId = SiteId(3);

fn three() -> State {
    cluster(&[(B, "site-b"), (W, "site-w")])
}

fn at(site: SiteId, lsn: u64) -> Vector {
    [(StreamId { site, incarnation: Incarnation(1) }, Lsn(lsn))].into_iter().collect()
}

fn shipper(durable: Vector) -> Shipper {
    Shipper { instance: 1, epoch: Epoch(1), floor: Epoch(1), applied: durable.clone(), durable, ..Shipper::default() }
}

fn report(state: &State, id: SiteId, shipper: Option<Shipper>) -> Report {
    let node = state.site(id).unwrap().node;
    Report { site: id, node, instance: 1, sequence: 1, shipper, resigned: Epoch(0), level: Level::THIS }
}

fn leader(state: &State, reports: &[(SiteId, Option<Shipper>)]) -> Coordinator {
    let mut leader = Coordinator::new(W, 0);
    for (id, shipper) in reports {
        leader.heard(state, report(state, *id, shipper.clone()), 1000);
    }
    leader
}

/// The plan for site-b, both sites heard a moment ago.
fn planned(state: &State, b: Option<Shipper>, now_ms: u64) -> Plan {
    let leader = leader(state, &[(A, Some(shipper(at(A, 5)))), (B, b)]);
    plan(state, &leader, "site-b", &BTreeMap::new(), None, now_ms).unwrap()
}

fn blocked(state: &State, b: Option<Shipper>, now_ms: u64) -> Vec<(&'static str, bool)> {
    planned(state, b, now_ms).blockers.iter().map(|blocker| (blocker.code, blocker.forceable)).collect()
}

#[test]
fn a_healthy_target_has_nothing_against_it() {
    let state = three();
    let plan = planned(&state, Some(shipper(at(A, 5))), 1100);
    assert_eq!(
        (plan.kind, plan.epochs, plan.entries_at_risk, plan.entries_to_apply),
        ("switchover", (Epoch(1), Epoch(2)), Some(0), Some(0))
    );
    assert!(plan.blockers.is_empty() && !plan.already, "{plan:?}");
}

#[test]
fn each_blocker_of_a_failover() {
    let state = three();
    let good = || Some(shipper(at(A, 5)));
    assert_eq!(blocked(&state, good(), 1100), []);
    assert_eq!(blocked(&state, good(), 9000), [("DOWN", false)]);
    assert_eq!(blocked(&state, None, 1100), [("NO_SHIPPER", false)]);
    let said_ms_ago = |age_ms| Some(Shipper { age_ms, ..shipper(at(A, 5)) });
    assert_eq!(blocked(&state, said_ms_ago(SHIPPER_HANGS_MS), 1100), []);
    let hangs = planned(&state, said_ms_ago(SHIPPER_HANGS_MS + 1), 1100).blockers.remove(0);
    assert!(hangs.code == "NO_SHIPPER" && hangs.why.contains("runs and hangs"), "{hangs:?}");
    assert!(hangs.next.starts_with("on site-b: systemctl status claudefs-shipper"), "{hangs:?}");
    let full = Shipper { read_only: true, ..shipper(at(A, 5)) };
    assert_eq!(blocked(&state, Some(full), 1100), [("READ_ONLY", false)]);

    let mut busy = state.clone();
    let change = Change::Switchover { to: B, timeout_ms: 1 };
    let begin = Kind::Begin { op: 1, epoch: Epoch(1), change, reason: String::new(), evidence: String::new() };
    apply(&mut busy, begin);
    assert_eq!(blocked(&busy, good(), 1100), [("BUSY", false)]);

    let mut moving = cluster(&[(B, "site-b")]);
    apply(&mut moving, Kind::MoveVote { to: B, timeout_ms: 1 });
    assert_eq!(blocked(&moving, good(), 1100), [("BUSY", false)]);

    let mut held = state.clone();
    apply(&mut held, Kind::Hold { site: B, held: true, why: String::new() });
    assert_eq!(blocked(&held, good(), 1100), [("FENCED", false)]);

    let leader_of_all = leader(&state, &[(A, Some(shipper(at(A, 5)))), (B, good())]);
    for now_ms in [1100, 9000] {
        let said = plan(&state, &leader_of_all, "site-b", &BTreeMap::new(), Some("a newer generation acts"), now_ms);
        let blocker = said.unwrap().blockers.remove(0);
        assert!(blocker.code == "FENCED" && blocker.why.contains("a newer generation acts"), "{blocker:?}");
        assert_eq!(blocker.next, "on site-b: cfs admin replication rejoin --primary site-a");
    }
    let mut away = state.clone();
    away.sites.get_mut(&B).unwrap().node = 0;
    let said = plan(&away, &leader_of_all, "site-b", &BTreeMap::new(), None, 9000).unwrap();
    assert!(said.blockers[0].code == "DOWN" && said.blockers[0].next.contains("rejoin"), "{said:?}");

    let mut young = state.clone();
    young.cut = at(A, 6);
    assert_eq!(blocked(&young, good(), 1100), [("BOOTSTRAPPING", false)]);

    for part in [
        Shipper { partial: true, ..shipper(at(A, 5)) },
        Shipper { enrolling: "it copies the store of site-a".into(), ..shipper(at(A, 5)) },
    ] {
        let said = planned(&state, Some(part), 1100).blockers.remove(0);
        assert!(said.code == "BOOTSTRAPPING" && said.next.contains("bootstrap-status"), "{said:?}");
    }

    let ahead = leader(&state, &[(A, Some(shipper(at(A, 900_000)))), (B, good())]);
    let far = plan(&state, &ahead, "site-b", &BTreeMap::new(), None, 1100).unwrap();
    assert_eq!((far.blockers[0].code, far.blockers[0].forceable), ("FAR_BEHIND", true));
}

/// Of a shipper that does not answer nobody knows how far it is, and so how long writers would wait for it.
#[test]
fn what_a_silent_target_lacks_is_not_known() {
    let state = three();
    let hangs = Shipper { age_ms: SHIPPER_HANGS_MS + 1, ..shipper(at(A, 5)) };
    for silent in [None, Some(hangs)] {
        let plan = planned(&state, silent, 1100);
        assert_eq!((plan.kind, plan.entries_to_apply, plan.gap_ms), ("switchover", None, None));
        assert_eq!(time_too_short(&plan, 1, 3), None);
    }
    let behind = planned(&state, Some(shipper(at(A, 2))), 1100);
    assert!(behind.entries_to_apply == Some(3) && behind.gap_ms.is_some(), "{behind:?}");
}

/// The shippers' own reports decide, not who hears whose control process: what the primary took last must get there.
#[test]
fn a_switchover_needs_a_way_for_the_last_entries() {
    let state = cluster(&[(B, "site-b"), (C, "site-c"), (W, "site-w")]);
    let deaf_to = |sites: &[SiteId]| {
        let shipper = Shipper { unheard: sites.iter().copied().collect(), ..shipper(at(A, 5)) };
        Some(shipper)
    };
    let of = |b, c, gone: Option<SiteId>| {
        let mut leader = leader(&state, &[(A, deaf_to(&[B])), (B, b), (C, c)]);
        gone.into_iter().for_each(|site| leader.lost(site, 1000));
        plan(&state, &leader, "site-b", &BTreeMap::new(), None, 1100).unwrap()
    };
    let codes = |plan: &Plan| plan.blockers.iter().map(|b| (b.code, b.forceable)).collect::<Vec<_>>();
    let back_through_c = of(deaf_to(&[]), deaf_to(&[]), None);
    assert_eq!(codes(&back_through_c), [], "what a hears does not matter");
    assert_eq!(back_through_c.warnings, [""; 0], "afterwards it gets through site-c what it lacks");
    let deaf_afterwards = of(deaf_to(&[]), deaf_to(&[B]), None);
    assert_eq!(codes(&deaf_afterwards), []);
    assert!(
        deaf_afterwards
            .warnings
            .iter()
            .any(|warning| warning.contains("the shipper of site-a does not hear that of site-b")),
        "{deaf_afterwards:?}"
    );

    let through_c = of(deaf_to(&[A]), deaf_to(&[]), None);
    assert_eq!(codes(&through_c), []);
    assert!(through_c.warnings.iter().any(|warning| warning.contains("comes through site-c")), "{through_c:?}");

    for (b, c) in [(deaf_to(&[A]), deaf_to(&[A])), (deaf_to(&[A, C]), deaf_to(&[])), (deaf_to(&[A]), None)] {
        let plan = of(b, c, None);
        assert_eq!(codes(&plan), [("LINK_DOWN", false)]);
        let said = format!("{}; {}", plan.blockers[0].why, plan.blockers[0].next);
        assert!(
            said.contains("nothing gets over the link from site-a to site-b")
                && said.contains("on site-b: cfs preflight")
        );
    }
    assert_eq!(codes(&of(deaf_to(&[A]), deaf_to(&[]), Some(C))), [("LINK_DOWN", false)], "c is not heard itself");
    let partial = Shipper { partial: true, ..shipper(at(A, 5)) };
    assert_eq!(codes(&of(deaf_to(&[A]), Some(partial), None)), [("LINK_DOWN", false)], "c has not all of it itself");

    let ahead = leader(&state, &[(A, Some(shipper(at(A, 900_000)))), (B, deaf_to(&[A, C])), (C, None)]);
    let far = plan(&state, &ahead, "site-b", &BTreeMap::new(), None, 1100).unwrap();
    assert_eq!(codes(&far), [("FAR_BEHIND", true), ("LINK_DOWN", false)], "--force does not get past it");

    let failover = of(deaf_to(&[A]), deaf_to(&[A]), Some(A));
    assert_eq!((failover.kind, codes(&failover)), ("failover", vec![]), "a lost primary is not waited for");
}

/// An operator whose time ended it is told so, and one whose time did not is not.
#[test]
fn a_time_that_was_too_short_is_called_that() {
    let state = three();
    let plan = planned(&state, Some(shipper(at(A, 5))), 1100);
    let said = time_too_short(&plan, 1, 3).unwrap();
    assert!(
        said.contains("--timeout 1ms") && said.contains(&format!("predicts {} ms", plan.gap_ms.unwrap())),
        "{said}"
    );
    assert_eq!(time_too_short(&plan, 30_000, 30_000), None, "that was long enough for the plan");
    assert_eq!(time_too_short(&plan, 100, 20), None, "it ended before");
}

/// The gap grows with each link that a phase uses, and with no other.
#[test]
fn the_predicted_gap_counts_the_ways_of_each_phase() {
    let with =
        |state: &State, here: SiteId, control: &[(SiteId, u64)], links: &[(SiteId, SiteId, u64)], deaf: &[SiteId]| {
            let mut leader = Coordinator::new(here, 0);
            for id in [A, B, C] {
                if state.site(id).is_some() {
                    let rtts_ms = links.iter().filter(|(at, _, _)| *at == id).map(|(_, of, ms)| (*of, *ms)).collect();
                    let unheard = if id == B { deaf.iter().copied().collect() } else { Default::default() };
                    let said = Shipper { rtts_ms, unheard, ..shipper(at(A, 5)) };
                    leader.heard(state, report(state, id, Some(said)), 1000);
                }
            }
            let control = control.iter().copied().collect();
            plan(state, &leader, "site-b", &control, None, 1100).unwrap().gap_ms.unwrap()
        };
    let state = three();
    let (near, links) = ([(A, 0), (B, 0), (W, 0)], |ms| [(A, B, ms), (B, A, ms)]);
    let alone = with(&state, W, &near, &links(1), &[]);
    assert!(alone < 60, "{alone}");
    // The witness leads and is near both: the last entries travel one way.
    assert_eq!(with(&state, W, &near, &links(200), &[]) - alone, 100 - 1);
    // The target leads: the answer to the drain and the last entries come at the same time, and the witness is its majority.
    assert_eq!(with(&state, B, &[(A, 200), (W, 0)], &links(200), &[]), alone + 99);
    // The witness is as far away from the target: order, answer, opening, report and lease all travel.
    assert_eq!(with(&state, W, &[(A, 0), (B, 200)], &links(200), &[]), alone - 1 + 100 + 100 + 100 + 200);
    // Nobody else is near: each entry of the log and each round waits for the nearer one of the other voters.
    assert_eq!(with(&state, B, &[(A, 200), (W, 40)], &links(200), &[]), alone + 99 + 2 * 40);
    // Through a third site both hops count.
    let three_data = cluster(&[(B, "site-b"), (C, "site-c")]);
    let hops = [(A, C, 60), (C, B, 80), (A, B, 1)];
    assert_eq!(with(&three_data, C, &[(A, 0), (B, 0)], &hops, &[A]), alone - 1 + 70);
}

#[test]
fn who_can_never_be_primary_and_who_is() {
    let state = three();
    let leader = leader(&state, &[(A, Some(shipper(at(A, 5))))]);
    let of = |name: &str| plan(&state, &leader, name, &BTreeMap::new(), None, 1100);
    assert_eq!(of("site-x").unwrap_err().code, "UNKNOWN_SITE");
    assert_eq!(of("site-w").unwrap_err().code, "WITNESS");
    let same = of("site-a").unwrap();
    assert!(same.already && same.kind == "none" && same.epochs == (Epoch(1), Epoch(1)));
}

#[test]
fn a_lost_primary_makes_it_a_failover_with_entries_at_risk() {
    let state = three();
    let mut leader = leader(&state, &[(A, Some(shipper(at(A, 9)))), (B, Some(shipper(at(A, 5))))]);
    leader.lost(A, 1000);
    let plan = plan(&state, &leader, "site-b", &BTreeMap::new(), None, 1100).unwrap();
    assert_eq!((plan.kind, plan.entries_at_risk), ("failover", Some(4)));
}

/// A connection that broke tells nothing of a process that has reported since: it was started again.
#[test]
fn who_reported_after_its_connection_broke_is_not_lost() {
    let state = three();
    let blockers = |broke_ms| {
        let mut leader = leader(&state, &[(A, Some(shipper(at(A, 5)))), (B, Some(shipper(at(A, 5))))]);
        leader.lost(B, broke_ms);
        let plan = plan(&state, &leader, "site-b", &BTreeMap::new(), None, 1100).unwrap();
        plan.blockers.iter().map(|blocker| blocker.code).collect::<Vec<_>>()
    };
    assert_eq!((blockers(999), blockers(1000)), (vec![], vec!["DOWN"]));
}

/// What a primary took after its last word is at risk too, however equal the sites were then.
#[test]
fn a_lost_primary_may_have_taken_more_than_it_told() {
    let risk = |state: &State, lost: bool| {
        let mut leader = leader(state, &[(A, Some(shipper(at(A, 9)))), (B, Some(shipper(at(A, 9))))]);
        if lost {
            leader.lost(A, 1000);
        }
        let plan = plan(state, &leader, "site-b", &BTreeMap::new(), None, 1900).unwrap();
        (plan.entries_at_risk, plan.at_risk_since_ms, plan.acknowledged_is_safe, plan.warnings)
    };
    let state = three();
    let (entries, since_ms, safe, warnings) = risk(&state, true);
    assert_eq!((entries, since_ms, safe), (Some(0), Some(900), false));
    assert!(
        warnings.iter().any(|text| text.contains("0.9 s ago; what site-a took since is not known")),
        "{warnings:?}"
    );
    let (entries, since_ms, ..) = risk(&state, false);
    assert_eq!((entries, since_ms), (Some(0), None), "a planned change loses nothing");
    let rule = |copies, members: &[SiteId]| Rule { id: 1, copies, members: members.iter().copied().collect() };
    let mut remote = three();
    remote.rules = vec![rule(1, &[A, B])];
    assert!(risk(&remote, true).2, "site-b had to hold it before it was acknowledged");
    remote.rules[0].members.insert(C);
    assert!(!risk(&remote, true).2, "it may have been site-c that held it");
    remote.rules = vec![rule(1, &[A, B]), rule(0, &[A, B])];
    assert!(!risk(&remote, true).2, "while durability changes some are acknowledged locally");
}

#[test]
fn each_blocker_of_a_removal() {
    let mut state = cluster(&[(B, "site-b"), (C, "site-c")]);
    let unheard = |state: &State| removal::plan(state, &leader(state, &[]), "site-b", None, 1100).unwrap();
    assert!(unheard(&state).blockers.is_empty(), "it never was primary: it wrote nothing");
    // It was primary once.
    state.opened.insert(Epoch(0), B);
    let heard =
        |b: Option<Shipper>, c: Option<Shipper>| leader(&state, &[(A, Some(shipper(at(B, 5)))), (B, b), (C, c)]);
    let code = |leader: &Coordinator, name: &str| removal::plan(&state, leader, name, None, 1100).unwrap_err().code;
    let all = heard(Some(shipper(at(B, 5))), Some(shipper(at(B, 2))));
    assert_eq!(code(&all, "site-x"), "UNKNOWN_SITE");
    assert_eq!(code(&all, "site-a"), "PRIMARY");
    let next = |leader: &Coordinator| removal::plan(&state, leader, "site-a", None, 1100).unwrap_err().next;
    assert_eq!(next(&all), "cfs admin replication failover --to site-b");
    let deaf = heard(None, Some(shipper(at(B, 2))));
    assert_eq!(next(&deaf), "cfs admin replication failover --to site-c", "rather one that could be primary");
    let alone = removal::plan(&cluster(&[]), &leader(&cluster(&[]), &[]), "site-a", None, 1100).unwrap_err();
    assert_eq!(alone.code, "LAST");
    let fine = removal::plan(&state, &all, "site-b", None, 1100).unwrap();
    assert!(fine.blockers.is_empty() && fine.only_there == Some(0) && fine.warnings.len() == 1, "{fine:?}");
    let more = removal::plan(&state, &heard(Some(shipper(at(B, 8))), None), "site-b", None, 1100).unwrap();
    assert_eq!((more.only_there, more.blockers[0].code, more.blockers[0].forceable), (Some(3), "UNSHARED", true));
    assert!(more.warnings[0].contains("site-c may hold more"), "{more:?}");
    let down = removal::plan(&state, &heard(None, None), "site-b", None, 1100).unwrap();
    assert_eq!((down.only_there, down.blockers[0].code), (None, "NOT_HEARD"));
    let fenced = removal::plan(&state, &heard(None, None), "site-b", Some("it acts for another group"), 1100).unwrap();
    let fenced = &fenced.blockers[0];
    assert!(fenced.code == "FENCED" && fenced.why.contains("acts for another group") && fenced.forceable, "{fenced:?}");
    assert!(fenced.next.starts_with("on site-b: cfs admin replication rejoin --primary site-a,"), "{fenced:?}");
    let with_witness = three();
    let only = removal::plan(&with_witness, &leader(&with_witness, &[]), "site-w", None, 1100).unwrap();
    assert!(only.warnings[0].contains("not be automatic"));
}

#[test]
fn a_sole_voter_waits_for_those_who_may_know_better() {
    let state = cluster(&[(B, "site-b")]);
    let may = |restart: &Restart| alone::may_grant(&state, A, restart);
    assert!(may(&Restart::default()).unwrap_err().next.contains("--alone"));
    assert!(may(&Restart { away_ms: Some(BLINK_MS - 1), ..Restart::default() }).is_ok());
    assert!(may(&Restart { away_ms: Some(BLINK_MS), ..Restart::default() }).is_err());
    assert!(may(&Restart { answered: [(B, 0)].into(), ..Restart::default() }).is_ok());
    assert!(
        may(&Restart { answered: [(B, 1)].into(), ..Restart::default() }).unwrap_err().why.contains("generation 1")
    );
    assert!(may(&Restart { alone: true, ..Restart::default() }).is_ok());
    assert!(may(&Restart { current: true, ..Restart::default() }).is_ok());
    assert!(alone::may_grant(&cluster(&[]), A, &Restart::default()).is_ok(), "there is nobody else");
    assert!(alone::may_grant(&three(), A, &Restart::default()).is_ok(), "others would have to agree");
}

#[test]
fn a_sole_voter_that_is_told_to_go_on_alone_says_what_it_does() {
    let state = cluster(&[(B, "site-b")]);
    let leader = leader(&state, &[(A, Some(shipper(at(A, 5))))]);
    let planned = || plan(&state, &leader, "site-a", &BTreeMap::new(), None, 1100).unwrap();
    let fine = planned();
    assert!(fine.already && fine.blockers.is_empty() && fine.epochs == (state.epoch, state.epoch));
    let mut waits = planned();
    waits.waits_for_word(&state, alone::may_grant(&state, A, &Restart::default()).unwrap_err());
    assert!(!waits.already && waits.blockers[0].code == "ALONE" && !waits.blockers[0].forceable, "{waits:?}");
    assert!(waits.blockers[0].next.ends_with("failover --to site-a --alone"), "{waits:?}");
    assert_eq!(waits.epochs, (state.epoch, state.epoch));
    let mut goes_on = planned();
    goes_on.goes_on_by_word(&state);
    assert!(!goes_on.already && goes_on.blockers.is_empty() && goes_on.steps[0].contains("goes on"), "{goes_on:?}");
    assert!(goes_on.warnings[0].contains("if site-b was made primary"), "{goes_on:?}");
}

fn survivor(state: State) -> Survivor {
    Survivor {
        here: B,
        state,
        shipper: Some((Epoch(1), at(A, 5))),
        primary_silent_ms: Some(FORCE_QUIET_MS),
        ..Survivor::default()
    }
}

fn refusal(survivor: &Survivor, to: SiteId) -> &'static str {
    match force::decide(survivor, to) {
        force::Decision::Refuse { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_survivor_founds_above_all_that_was_seen() {
    let mut here = survivor(cluster(&[(B, "site-b")]));
    here.contacts.insert(C, Contact { highest: Epoch::new(2, C, 1), ..Contact::default() });
    let force::Decision::Found { parent, warnings } = force::decide(&here, B) else { panic!("{here:?}") };
    assert_eq!((parent.highest, parent.cut.clone()), (Epoch::new(2, C, 1), at(A, 5)));
    assert!(warnings.iter().any(|warning| warning.contains("site-a may still accept writes")), "{warnings:?}");
    assert!(parent.evidence.contains("site-a did not answer"));
    assert!(!warnings.iter().any(|warning| warning.contains("was heard")), "two minutes are over: {warnings:?}");
    here.contacts.insert(A, Contact { stopped: true, ..Contact::default() });
    let force::Decision::Found { warnings, .. } = force::decide(&here, B) else { panic!("{here:?}") };
    assert!(!warnings.iter().any(|warning| warning.contains("may still accept")), "{warnings:?}");
}

#[test]
fn what_a_survivor_lacks_is_told_where_it_is_known() {
    use force::{Lacking, lacking};
    let known = |entries, bytes| Lacking { entries: Some(entries), bytes };
    assert_eq!(lacking(&at(A, 5), Some(&at(A, 9)), 700), known(4, Some(700)));
    assert_eq!(lacking(&at(A, 5), Some(&at(A, 9)), 0), known(4, None));
    assert_eq!(lacking(&at(A, 9), Some(&at(A, 9)), 700), known(0, Some(0)));
    assert_eq!(lacking(&at(A, 9), None, 700), Lacking::default());
    assert!(force::gap_ms(true) > force::gap_ms(false));
}

#[test]
fn a_sealed_site_takes_part_in_nothing_and_says_for_whom() {
    let state = cluster(&[(B, "site-b")]);
    let mut local = Local::new(A, 0);
    local.granted(&state, state.epoch, 1000, 0, 1);
    assert!(local.deadline_ns(&state) > 0 && local.fenced() == Fence::None);
    let sealed = Sealed { target: B, by: "root@host".into(), at_ms: 7, group: state.group, epoch: state.epoch };
    local.fence(Fence::SealedFor(sealed.clone()));
    assert!(!local.unseal_if_over(&state) && local.fenced() == Fence::SealedFor(sealed.clone()));
    assert!(local.is_fenced() && local.directive(&state).fenced && local.deadline_ns(&state) == 0);
    // What a newer generation fences takes part again once its own group has come further than that.
    let newer = Standing { generation: 1, epoch: Epoch::new(1, B, 1) };
    local.fence(Fence::Newer(newer));
    assert!(!local.unseal_if_over(&state) && local.fenced() == Fence::Newer(newer));
    assert!(!local.unseal_if_over(&State { generation: 1, ..state.clone() }), "the other side opened an epoch in it");
    assert!(!local.unseal_if_over(&State { generation: 2, group: 0, ..state.clone() }), "it is about to join");
    assert!(local.unseal_if_over(&State { generation: 2, ..state.clone() }));
    local.fence(Fence::None);
    assert!(!local.is_fenced() && !local.directive(&state).fenced);

    // A later epoch of its group ends that, unless it is its own; so does another group that it has joined.
    let mut over = |change: &dyn Fn(&mut State)| {
        let mut later = state.clone();
        change(&mut later);
        local.fence(Fence::SealedFor(sealed.clone()));
        local.unseal_if_over(&later)
    };
    assert!(!over(&|later| later.epoch = state.next_epoch()), "it is primary again");
    assert!(over(&|later| (later.epoch, later.primary) = (state.next_epoch(), Some(B))));
    assert!(!over(&|later| later.primary = Some(B)), "whom it was sealed for was primary before");
    assert!(over(&|later| later.group += 1));
    assert!(!over(&|later| later.group = 0), "it is about to join");
}

/// The generation was raised for a site that forces itself, while an operator has sealed the primary for it: the leader opens
/// nothing for the sealed one by itself, and does not choose it.
#[test]
fn no_epoch_opens_by_itself_for_a_sealed_site() {
    let mut state = cluster(&[(B, "site-b")]);
    state.generation = 1;
    let begun = |fenced| {
        let of_a = Shipper { fenced, ..shipper(at(A, 5)) };
        let mut leader = leader(&state, &[(A, Some(of_a)), (B, Some(shipper(at(A, 5))))]);
        let actions = leader.tick(&state, None, 1100);
        actions.iter().any(|action| matches!(action, Action::Propose(Kind::Begin { .. })))
    };
    assert!(begun(false) && !begun(true));
}

#[test]
fn the_epoch_that_a_forced_recovery_opens_is_told_before() {
    let here = survivor(cluster(&[(B, "site-b")]));
    assert_eq!(force::next_epoch(&here, true), Epoch::new(1, B, 1));
    assert_eq!(force::next_epoch(&here, false), Epoch::new(1, A, 1), "in its own group, by the name of its primary");
    let mut state = here.state.clone();
    apply(
        &mut state,
        Kind::Resolve { above: force::highest(&here), opened: vec![], incarnations: vec![], forked_at: Vector::new() },
    );
    assert_eq!(state.next_epoch(), force::next_epoch(&here, false));
}

#[test]
fn when_a_forced_recovery_is_refused() {
    let two = || cluster(&[(B, "site-b")]);
    assert_eq!(refusal(&survivor(two()), C), "UNKNOWN_SITE");
    assert_eq!(refusal(&survivor(three()), W), "WITNESS");
    assert_eq!(refusal(&Survivor { has_leader: true, ..survivor(three()) }, B), "QUORUM");
    let other = Contact { has_leader: true, ..Contact::default() };
    assert_eq!(refusal(&Survivor { contacts: [(W, other)].into(), ..survivor(three()) }, B), "QUORUM");
    assert_eq!(refusal(&Survivor { shipper: None, ..survivor(two()) }, B), "NO_SHIPPER");
    let mut ahead = two();
    ahead.cut = at(A, 6);
    assert_eq!(refusal(&survivor(ahead), B), "BOOTSTRAPPING");
}

#[test]
fn a_primary_that_may_be_restarting_is_a_risk_that_is_told() {
    let told = |state: State, primary_silent_ms, contact: Option<Contact>| {
        let contacts = contact.map(|contact| (A, contact)).into_iter().collect();
        let here = Survivor { primary_silent_ms, contacts, ..survivor(state) };
        let force::Decision::Found { warnings, .. } = force::decide(&here, B) else { panic!("{here:?}") };
        let has = |text: &str| warnings.iter().any(|warning| warning.contains(text));
        (has("site-a may still accept writes"), has("site-a was heard 119 s ago: if it is only restarting"))
    };
    let two = || cluster(&[(B, "site-b")]);
    let recent = Some(FORCE_QUIET_MS - 1);
    assert_eq!(told(two(), recent, None), (true, true));
    assert_eq!(told(two(), Some(FORCE_QUIET_MS), None), (true, false));
    assert_eq!(told(two(), None, None), (true, false));
    assert_eq!(told(three(), recent, None), (true, false), "others would have to agree");
    assert_eq!(told(two(), Some(0), Some(Contact::default())), (true, false), "it answers");
}

#[test]
fn run_on_the_wrong_site_it_seals_that_and_says_where_to_run_it() {
    let here = survivor(three());
    let force::Decision::SealHere { floor, next } = force::decide(&here, A) else { panic!("{here:?}") };
    assert!(floor > here.state.epoch && next.starts_with("on site-a: "), "{next}");
    let served = Survivor { has_leader: true, ..here };
    assert!(matches!(force::decide(&served, A), force::Decision::Already(_)));
}

#[test]
fn two_groups_and_which_of_them_is_fenced() {
    let mut state = cluster(&[(B, "site-b")]);
    let here = Side {
        group: 5,
        epoch: Epoch(1),
        highest: Epoch(1),
        opened: state.opened.clone(),
        durable: at(A, 9),
        ..Side::default()
    };
    let forced = Epoch::new(1, B, 1);
    let mut theirs = at(A, 5);
    theirs.set(StreamId { site: B, incarnation: Incarnation(3) }, Lsn(4));
    let mut opened = state.opened.clone();
    opened.insert(forced, B);
    let there =
        Side { group: 6, epoch: forced, highest: forced, opened, durable: theirs, generation: 1, forked_at: at(A, 5) };
    assert_eq!(split::compare(&state, &here, &here), Verdict::None);
    assert_eq!(split::compare(&state, &here, &Side::default()), Verdict::None);
    assert_eq!(split::compare(&state, &here, &there), Verdict::HereFenced);
    assert_eq!(split::compare(&state, &there, &here), Verdict::ThereFenced);

    // What a side has merely seen, or sealed at, fences nobody.
    let sealed = Side { highest: Epoch(forced.0 + 1), ..here.clone() };
    assert_eq!(split::compare(&state, &there, &sealed), Verdict::ThereFenced);
    assert_eq!(split::compare(&state, &sealed, &there), Verdict::HereFenced);
    // Both sides of a cut were forced: one of the two gives way.
    let both = Side { group: 7, epoch: Epoch::new(1, A, 4), generation: 1, ..Side::default() };
    assert_eq!(split::compare(&state, &both, &there), Verdict::HereFenced);
    assert_eq!(split::compare(&state, &there, &both), Verdict::ThereFenced);

    apply(&mut state, Kind::Split { group: 6, epoch: forced, evidence: String::new() });
    apply(&mut state, split::resolve(&here, &there));
    assert!(state.next_epoch() > forced && state.opened.get(&forced) == Some(&B));
    assert_eq!(state.forked_at, at(A, 5), "the other side has not come back: it may still be the one that is kept");
    assert_eq!(state.incarnations.get(&B), Some(&Incarnation(3)));
    let resolved = Side { generation: state.generation, ..here };
    assert_eq!(split::compare(&state, &resolved, &there), Verdict::Resolved, "before an epoch has opened, too");
    let opened = Side { epoch: state.next_epoch(), ..resolved };
    assert_eq!(split::compare(&state, &opened, &there), Verdict::Resolved);
}

#[test]
fn what_a_side_has_alone_is_counted_or_said_to_be_not_known() {
    let other = |durable: Option<Vector>| [split::Other { name: "site-b".into(), durable }];
    let of_a = |durable| split::unshared(A, Some(&at(A, 9)), &Vector::new(), &other(durable));
    assert_eq!(of_a(Some(at(A, 9))), Ok(0));
    assert_eq!(of_a(Some(at(A, 5))), Ok(4));
    // A site that has just come back, or that was never heard, may hold everything.
    assert!(of_a(None).unwrap_err().contains("site-b"));
    let two = [other(None), other(Some(at(A, 9)))].concat();
    assert_eq!(split::unshared(A, Some(&at(A, 9)), &Vector::new(), &two), Ok(0), "somebody holds them all");
    assert!(split::unshared(A, None, &Vector::new(), &other(Some(at(A, 9)))).is_err());
    // What was received is not its own, however little of it the site that wrote it has told.
    let mut own = at(A, 9);
    own.set(StreamId { site: B, incarnation: Incarnation(3) }, Lsn(7));
    assert_eq!(split::unshared(A, Some(&own), &Vector::new(), &other(Some(at(A, 9)))), Ok(0));
    // One that was not heard since they parted holds what there was then; once it was heard, what it says.
    let parted = |durable| split::unshared(A, Some(&own), &at(A, 5), &other(durable));
    assert_eq!((parted(None), parted(Some(at(A, 7))), parted(Some(own.clone()))), (Ok(4), Ok(2), Ok(0)));
}

#[test]
fn who_has_to_hold_an_entry_for_it_to_be_shared() {
    let others = |groups: &[(u64, &str)]| {
        let other = |name: &str| split::Other { name: name.into(), durable: None };
        groups.iter().map(|(group, name)| (*group, other(name))).collect::<Vec<_>>()
    };
    let names = |group, others| {
        let side = split::other_side(group, others);
        side.into_iter().map(|other| other.name).collect::<Vec<_>>()
    };
    assert_eq!(names(5, others(&[(5, "site-b"), (5, "site-c")])), ["site-b", "site-c"], "one side: anybody");
    assert_eq!(names(5, others(&[(5, "site-b"), (7, "site-c")])), ["site-c"], "two: the other one");
    assert_eq!(names(5, others(&[(0, "site-b"), (7, "site-c")])), ["site-b", "site-c"], "it may be of either");
    assert_eq!(names(0, others(&[(5, "site-b"), (7, "site-c")])), ["site-b", "site-c"]);
}

#[test]
fn of_a_closed_stream_that_all_hold_nobody_speaks() {
    let old = StreamId { site: A, incarnation: Incarnation(0) };
    let closed: Vector = [(old, Lsn(40))].into_iter().collect();
    assert_eq!(split::holds(at(A, 9), &closed).get(old), Lsn(40));
    assert!(split::holds(Vector::new(), &closed).is_empty(), "it said nothing yet, or is being copied");
    let mut behind = at(A, 9);
    behind.set(old, Lsn(30));
    assert_eq!(split::holds(behind, &closed).get(old), Lsn(30));
}

#[test]
fn what_a_starting_control_process_does() {
    use founding::Decision::{Found, Refuse, Resume, Wait};
    let base = || Start { site: "site-a".into(), ..Start::default() };
    let next = |start: Start| match founding::decide(&start) {
        Wait { next, .. } | Refuse { next, .. } => next,
        other => panic!("{other:?}"),
    };
    let file = || Start { founding_file: true, ..base() };
    let peers = vec!["site-b".to_owned()];
    assert_eq!(founding::decide(&file()), Found);
    assert_eq!(founding::decide(&Start { peers: peers.clone(), ..file() }), Found);
    // A file that comes back with a restored configuration does not found a second cluster.
    let again = Start { was_member: true, peers: peers.clone(), ..file() };
    assert_eq!(next(again), "cfs admin replication rejoin --primary site-b");
    // Nor does one at a site whose shipper has heard of the cluster.
    let heard = Start { knows_epochs: true, peers: peers.clone(), ..file() };
    assert!(matches!(founding::decide(&heard), Refuse { .. }));
    assert_eq!(next(heard), "cfs admin replication enroll --primary site-b");
    assert!(matches!(founding::decide(&Start { knows_epochs: true, ..base() }), Wait { .. }));
    // A wiped founder that boots first waits like anybody.
    assert!(matches!(founding::decide(&base()), Wait { .. }));
    assert_eq!(next(base()), "cfs admin replication enroll --primary SITE");
    assert_eq!(next(Start { peers, ..base() }), "cfs admin replication enroll --primary site-b");
    let both = vec!["site-a".to_owned(), "site-b".to_owned()];
    let witness = Start { site: "site-w".into(), witness: true, peers: both, ..Start::default() };
    assert_eq!(next(witness), "cfs admin replication enroll --witness --primary site-a");
    assert_eq!(next(Start { witness: true, ..base() }), "cfs admin replication enroll --witness --primary SITE");
    assert!(matches!(founding::decide(&Start { was_member: true, ..base() }), Refuse { .. }));
    assert!(matches!(founding::decide(&Start { witness: true, ..file() }), Refuse { .. }));
    let resumed = Start { state: Some(5), state_site: "site-a".into(), ..file() };
    assert_eq!(founding::decide(&resumed), Resume(5));
    assert!(matches!(founding::decide(&Start { state_site: "site-b".into(), ..resumed }), Refuse { .. }));
}

/// What stands against switching active-active on and off, and that nobody is removed while it takes appends.
#[test]
fn what_stands_against_active_active() {
    let takes = |durable| Some(Shipper { accepting: true, level: Level::THIS, ..shipper(durable) });
    let knows = |durable| Some(Shipper { level: Level::THIS, ..shipper(durable) });
    let code = |state: &State, reports: &[(SiteId, Option<Shipper>)], shared| {
        mode::check(state, &leader(state, reports), shared, 1100).map_err(|refused| refused.code)
    };
    let state = three();
    let all = [(A, takes(at(A, 5))), (B, knows(at(A, 5))), (W, None)];
    assert_eq!(code(&state, &all, true), Ok(()));
    assert_eq!(code(&cluster(&[]), &[(A, takes(at(A, 5)))], true), Err("ONE_SITE"));
    assert_eq!(code(&state, &all[..2], true), Err("DOWN"), "the witness must know too");
    assert_eq!(code(&state, &[all[0].clone(), (B, None), (W, None)], true), Err("NO_SHIPPER"));
    let hung = Some(Shipper { age_ms: SHIPPER_HANGS_MS + 1, level: Level::THIS, ..shipper(at(A, 5)) });
    assert_eq!(code(&state, &[all[0].clone(), (B, hung), (W, None)], true), Err("NO_SHIPPER"), "it cannot be told");
    assert_eq!(code(&state, &[all[0].clone(), (B, Some(shipper(at(A, 5)))), (W, None)], true), Err("VERSION"));
    assert_eq!(code(&state, &[(A, knows(at(A, 5))), all[1].clone(), (W, None)], true), Err("NO_PRIMARY"));
    let mut old = leader(&state, &all);
    let said = Report { level: Level::FIRST, sequence: 2, ..report(&state, W, None) };
    old.heard(&state, said, 1050);
    assert_eq!(mode::check(&state, &old, true, 1100).map_err(|refused| refused.code), Err("VERSION"));

    let mut on = three();
    let change = Change::Mode { shared: true, to: A, timeout_ms: 1000 };
    let (reason, evidence) = (String::new(), String::new());
    apply(&mut on, Kind::Begin { op: 1, epoch: Epoch(1), change, reason, evidence });
    assert_eq!(code(&on, &all, true), Err("BUSY"));
    let open = Kind::Open { op: 1, epoch: Epoch(2), site: A, cut: at(A, 5), counted: Vec::new(), phases: Vec::new() };
    apply(&mut on, open);
    assert!(on.is_shared() && on.may_append(B) && !on.may_append(W));
    assert_eq!(code(&on, &all, false), Ok(()));
    assert_eq!(code(&on, &[all[0].clone(), (W, None)], false), Err("DOWN"));
    // A silence that passes is waited for before anybody is removed.
    let down = mode::check(&on, &leader(&on, &[all[0].clone(), (W, None)]), false, 1100).unwrap_err();
    assert!(down.next.starts_with("wait some seconds, or on site-b: systemctl start"), "{down:?}");
    assert!(!down.next.contains("--force"), "{down:?}");
    assert_eq!(code(&on, &[all[0].clone(), (B, None), (W, None)], false), Err("NO_SHIPPER"));
    let there = removal::plan(&on, &leader(&on, &all), "site-b", None, 1100).unwrap();
    assert_eq!(there.blockers.iter().map(|blocker| blocker.code).collect::<Vec<_>>(), ["ACTIVE_ACTIVE"]);
    let gone = removal::plan(&on, &leader(&on, &all[..1]), "site-b", None, 1100).unwrap();
    assert_eq!(
        gone.blockers.iter().map(|blocker| (blocker.code, blocker.forceable)).collect::<Vec<_>>(),
        [("NOT_HEARD", true)]
    );
    let moved = planned(&on, takes(at(A, 5)), 1100);
    assert_eq!((moved.kind, moved.epochs, moved.gap_ms), ("coordination", (Epoch(2), Epoch(2)), Some(0)));
    assert_eq!(
        moved.blockers.iter().map(|blocker| blocker.code).collect::<Vec<_>>(),
        ["BOOTSTRAPPING"],
        "it does not count yet"
    );
}
