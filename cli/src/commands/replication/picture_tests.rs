use cfs_rpc::v1::StatusAnswer;

use super::super::fixture_tests::{gathered, shipper_alone, site};
use super::*;

fn states(change: impl FnOnce(&mut StatusAnswer)) -> String {
    let picture = Picture::of(&gathered(change));
    picture.peers.iter().map(|peer| format!("{} {}", peer.site, peer.state)).collect::<Vec<_>>().join(", ")
}

fn shipper_of(answer: &mut StatusAnswer) -> &mut StatusReply {
    answer.shipper.as_mut().expect("a shipper")
}

#[test]
fn a_peer_is_healthy_only_on_fresh_word() {
    assert_eq!(states(|_| {}), "site-b HEALTHY, site-w HEALTHY");
    assert_eq!(states(|a| a.sites[1].age_ms = FRESH_MS + 1), "site-b HEALTHY, site-w DOWN");
    assert_eq!(states(|a| a.sites[1].age_ms = NEVER), "site-b HEALTHY, site-w DOWN");
    assert_eq!(states(|a| a.sites[0].state = DOWN.into()), "site-b DOWN, site-w HEALTHY");
    assert_eq!(states(|a| shipper_of(a).peers[0].state = DOWN.into()), "site-b UNHEARD, site-w HEALTHY");
    let silent_of_late = |a: &mut StatusAnswer| {
        shipper_of(a).peers[0].state = DOWN.into();
        a.sites[0].age_ms = NOW_MS + 1;
    };
    assert_eq!(states(silent_of_late), "site-b DOWN, site-w HEALTHY");
    // A cut of this link alone: the leader hears it.
    let vouched_for = |a: &mut StatusAnswer| {
        silent_of_late(a);
        a.sites[0].reported_by = "site-w".into();
    };
    assert_eq!(states(vouched_for), "site-b UNHEARD, site-w HEALTHY");
    assert_eq!(states(|a| a.sites[1].reported_by = "site-b".into()), "site-b HEALTHY, site-w UNHEARD");
    assert_eq!(states(|a| shipper_of(a).peers[0].state = DIVERGED.into()), "site-b DIVERGED, site-w HEALTHY");
    assert_eq!(states(|a| a.sites[0].state = FENCED.into()), "site-b FENCED, site-w HEALTHY");
    assert_eq!(states(|a| a.sites[0].state = NO_SHIPPER.into()), "site-b NO_SHIPPER, site-w HEALTHY");
}

#[test]
fn a_shipper_that_serves_alone_is_not_taken_for_a_dead_site() {
    let gone = |a: &mut StatusAnswer| (a.sites[0].state, a.sites[0].gone_ms) = (DOWN.into(), 900);
    assert_eq!(states(gone), "site-b NO_CONTROL, site-w HEALTHY");
    // It accepts connections and answers nothing.
    let hangs = |a: &mut StatusAnswer| a.sites[0].age_ms = FRESH_MS + 1;
    assert_eq!(states(hangs), "site-b NO_CONTROL, site-w HEALTHY");
    // Behind a cut in one direction its words arrive, and it answers nothing.
    let one_way = |a: &mut StatusAnswer| {
        hangs(a);
        shipper_of(a).peers[0].answered_ms = Some(SHIPPER_NOW_MS + 1);
    };
    assert_eq!(states(one_way), "site-b UNHEARD, site-w HEALTHY");
    let answers = |a: &mut StatusAnswer| {
        hangs(a);
        shipper_of(a).peers[0].answered_ms = Some(900);
    };
    assert_eq!(states(answers), "site-b NO_CONTROL, site-w HEALTHY");
    // Behind a cut the shipper was heard as long ago.
    let cut = |a: &mut StatusAnswer| {
        hangs(a);
        shipper_of(a).peers[0].heard_ms = FRESH_MS - 1;
    };
    assert_eq!(states(cut), "site-b DOWN, site-w HEALTHY");
    // The shipper of a site that was killed is called healthy until it has been silent for a while.
    let killed = |a: &mut StatusAnswer| {
        gone(a);
        shipper_of(a).peers[0].heard_ms = 950;
    };
    assert_eq!(states(killed), "site-b DOWN, site-w HEALTHY");
    assert_eq!(Picture::of(&shipper_alone()).state, NO_CONTROL);
    // Its lease has run out since: what it waits for would come from its control process.
    let mut waits = shipper_alone();
    let shipper = waits.shipper.as_mut().expect("it answers");
    (shipper.status, shipper.why) = ("WAITING".into(), "a lease".into());
    let picture = Picture::of(&waits);
    assert_eq!(picture.state, NO_CONTROL);
    assert!(picture.why.contains("waits for a lease"), "{}", picture.why);
    // What it was told last may be over: another site may be primary meanwhile.
    assert_eq!((picture.role.as_str(), picture.primary.as_str(), picture.lag), ("NONE", "", Lag::Unknown));
    assert_eq!(Picture::of(&shipper_alone()).role, "PRIMARY", "it holds a lease still");
}

#[test]
fn nobody_is_vouched_for_by_this_site_itself() {
    let picture = Picture::of(&gathered(|a| a.sites[1].reported_by = "site-a".into()));
    let peer = &picture.peers[1];
    assert_eq!((peer.state.as_str(), peer.why.contains("by the word of")), (UNHEARD, false), "{}", peer.why);
}

#[test]
fn a_fenced_site_finds_no_fault_with_the_others() {
    let picture = Picture::of(&gathered(|a| {
        a.here.as_mut().expect("here").state = FENCED.into();
        shipper_of(a).peers[0].state = DOWN.into();
        shipper_of(a).peers[0].lag_ms = 60_000;
    }));
    let peer = &picture.peers[0];
    assert_eq!((peer.state.as_str(), peer.lag_ms, picture.lag), (HEALTHY, None, Lag::Unknown));
}

#[test]
fn what_is_configured_and_not_enrolled_is_down() {
    assert_eq!(states(|a| a.sites[0].enrolled = false), "site-b DOWN, site-w HEALTHY");
    assert_eq!(states(|a| drop(a.sites.pop())), "site-b HEALTHY, site-w DOWN");
    // A site that is no member itself cannot tell.
    let outside = |a: &mut StatusAnswer| {
        a.here.as_mut().expect("here").state = "NOT_ENROLLED".into();
        a.sites[0].enrolled = false;
        a.sites.pop();
    };
    assert_eq!(states(outside), "site-b UNKNOWN, site-w UNKNOWN");
    let alone = Picture::of(&shipper_alone());
    let states: Vec<&str> = alone.peers.iter().map(|peer| peer.state.as_str()).collect();
    assert_eq!(states, [HEALTHY, UNKNOWN]);
    let mut stale = shipper_alone();
    stale.shipper.as_mut().expect("a shipper").peers[0].heard_ms = FRESH_MS + 1;
    assert_eq!(Picture::of(&stale).peers[0].state, DOWN);
}

#[test]
fn lag_is_unknown_when_the_primary_was_never_heard() {
    let lag = |change: fn(&mut StatusAnswer)| Picture::of(&gathered(change)).lag;
    assert_eq!(lag(|_| {}), Lag::Known(0));
    let as_replica = |a: &mut StatusAnswer| {
        a.primary = "site-b".into();
        shipper_of(a).role = "REPLICA".into();
        shipper_of(a).lag_ms = 3;
    };
    assert_eq!(Picture::of(&gathered(as_replica)).lag.text(), "3ms");
    let never_heard = |a: &mut StatusAnswer| {
        as_replica(a);
        shipper_of(a).peers[0].lag_known = false;
    };
    assert_eq!(Picture::of(&gathered(never_heard)).lag.text(), "unknown");
    assert_eq!(
        lag(|a| {
            a.primary.clear();
            shipper_of(a).primary.clear();
        }),
        Lag::Unknown
    );
    let witness = |a: &mut StatusAnswer| {
        a.here = Some(site("site-w", 3, "WITNESS"));
        a.shipper = None;
    };
    let picture = Picture::of(&gathered(witness));
    assert_eq!((picture.role.as_str(), picture.lag.text().as_str()), ("WITNESS", "n/a"));
}

#[test]
fn the_worse_of_both_processes_is_the_state() {
    let state = |change: fn(&mut StatusAnswer)| Picture::of(&gathered(change)).state;
    assert_eq!(state(|_| {}), READY);
    assert_eq!(state(|a| shipper_of(a).status = READ_ONLY.into()), READ_ONLY);
    let fenced = |a: &mut StatusAnswer| a.here.as_mut().expect("here").state = FENCED.into();
    assert_eq!(state(fenced), FENCED);
}
