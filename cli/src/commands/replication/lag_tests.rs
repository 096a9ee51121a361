use cfs_model::op::StreamPosition;
use cfs_rpc::v1::{PeerStatus, SiteStatus, StatusAnswer, StreamState};

use super::super::fixture_tests::{gathered, json, table};
use super::super::gather::{FRESH_MS, NEVER, NOW_MS};
use super::super::picture::PRIMARY;
use super::*;

fn rows(lag: &Lag) -> Vec<String> {
    lag.sites.iter().map(|site| format!("{} {}", site.site, site.verdict)).collect()
}

/// The verdicts at site-a, of a cluster in which all is well but for `change`.
fn at_a(change: impl FnOnce(&mut StatusAnswer)) -> Vec<String> {
    rows(&Lag::of(&gathered(change)))
}

fn shipper_of(answer: &mut StatusAnswer) -> &mut cfs_rpc::v1::StatusReply {
    answer.shipper.as_mut().expect("it answers")
}

fn peer_of(answer: &mut StatusAnswer) -> &mut PeerStatus {
    &mut shipper_of(answer).peers[0]
}

/// As for a while after a peer's end, or behind a cut.
fn silent(peer: &mut PeerStatus, heard_ms: u64) {
    (peer.state, peer.heard_ms, peer.why) = ("DOWN".into(), heard_ms, "no connection".into());
}

#[test]
fn in_sync_takes_a_site_that_is_heard_and_lacks_nothing() {
    assert_eq!(at_a(|_| {}), ["site-a in sync", "site-b in sync"]);
    assert_eq!(at_a(|a| peer_of(a).cursors[0].applied = 8), ["site-a in sync", "site-b behind"]);
    assert_eq!(at_a(|a| peer_of(a).lag_ms = 2000), ["site-a in sync", "site-b behind"], "equal, and late");
    assert_eq!(at_a(|a| shipper_of(a).lag_ms = 2000), ["site-a behind", "site-b in sync"]);
    assert_eq!(
        at_a(|a| silent(peer_of(a), 9_000))[1],
        "site-b in sync",
        "its own word came through others a moment ago"
    );
    let cut = at_a(|a| {
        silent(peer_of(a), 9_000);
        (a.sites[0].state, a.sites[0].age_ms) = ("DOWN".into(), 9_000);
    });
    assert_eq!(cut, ["site-a in sync", "site-b not heard"], "a sole primary lacks nothing");
}

#[test]
fn a_site_that_was_just_found_gone_is_not_in_sync() {
    let killed = |heard_ms| {
        at_a(|a| {
            peer_of(a).heard_ms = heard_ms;
            (a.sites[0].state, a.sites[0].gone_ms, a.sites[0].age_ms) = ("DOWN".into(), 300, 450);
        })
    };
    assert_eq!(killed(350)[1], "site-b not heard", "its shipper still counts as heard");
    assert_eq!(killed(20)[1], "site-b in sync", "only its control process has ended");
}

#[test]
fn a_replica_that_does_not_hear_the_primary_does_not_know_what_it_lacks() {
    let replica = |change: fn(&mut StatusAnswer)| {
        at_a(|a| {
            shipper_of(a).role = "REPLICA".into();
            silent(peer_of(a), 9_000);
            (a.sites[0].state, a.sites[0].age_ms) = ("DOWN".into(), 9_000);
            // It counts from the last word on the primary.
            shipper_of(a).lag_ms = 9_000;
            change(a);
        })
    };
    assert_eq!(replica(|_| {})[0], "site-a unknown");
    assert_eq!(replica(|a| shipper_of(a).cursors[0].applied = 7)[0], "site-a behind");
    let primary = replica(|a| (shipper_of(a).role, shipper_of(a).lag_ms) = (PRIMARY.into(), 0));
    assert_eq!(primary[0], "site-a in sync", "nobody else can hold more");
    let without_lease = replica(|a| {
        (shipper_of(a).role, shipper_of(a).status) = (PRIMARY.into(), "WAITING".into());
    });
    assert_eq!(without_lease[0], "site-a unknown", "another may be primary by now");
}

#[test]
fn a_fenced_site_is_neither_in_sync_nor_says_so_of_others() {
    let there = at_a(|a| (a.sites[0].state, a.sites[0].why) = ("FENCED".into(), "sealed".into()));
    assert_eq!(there, ["site-a in sync", "site-b fenced"]);
    let here = Lag::of(&gathered(|a| a.here.as_mut().expect("it answers").state = "FENCED".into()));
    assert_eq!(rows(&here), ["site-a fenced", "site-b unknown"]);
    assert!(here.sites.iter().all(|site| site.lag_ms.is_none()), "{here:?}");
}

#[test]
fn the_age_of_a_row_is_that_of_its_own_positions() {
    let lag = Lag::of(&gathered(|a| {
        silent(peer_of(a), 9_000);
        (a.sites[0].state, a.sites[0].age_ms) = ("DOWN".into(), 9_500);
    }));
    let ages: Vec<_> = lag.sites.iter().map(|site| site.age_ms).collect();
    assert_eq!(ages, [Some(0), Some(9_000)], "this site knows where it is");
}

#[test]
fn a_dead_shippers_positions_are_those_that_were_known_last_or_none() {
    let dead = |last: bool| {
        let mut gathered = gathered(|a| {
            let here = a.here.as_mut().expect("it answers");
            (here.state, here.lag_known) = ("NO_SHIPPER".into(), false);
            let known = std::mem::take(&mut here.streams);
            if last {
                (here.last_streams, here.last_streams_age_ms) = (known, 7_000);
            }
        });
        gathered.shipper = None;
        Lag::of(&gathered)
    };
    let (known, unknown) = (dead(true), dead(false));
    assert_eq!(rows(&known), ["site-a no shipper", "site-b in sync"]);
    assert_eq!((known.sites[0].applied.as_ref().map(|at| at[0].lsn), known.sites[0].age_ms), (Some(9), Some(7_000)));
    assert_eq!((unknown.sites[0].verdict, &unknown.sites[0].applied), ("no shipper", &None));
    assert!(json(&unknown)["sites"][0]["applied"].is_null());
    let row = table(&unknown).lines().nth(1).expect("a row").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(row[..7], ["site-a", "unknown", "no", "shipper", "site-a@9", "-", "unknown"], "{row:?}");
    // A shipper of site-a that has not heard site-b since it was started.
    let started = Lag::of(&gathered(|a| {
        (peer_of(a).state, peer_of(a).lag_known, peer_of(a).heard_ms) = ("DOWN".into(), false, 3_000);
        peer_of(a).cursors.clear();
        (a.sites[0].state, a.sites[0].age_ms) = ("DOWN".into(), NEVER);
        a.sites[0].streams.clear();
    }));
    assert_eq!((started.sites[1].verdict, &started.sites[1].applied), ("unknown", &None));
}

#[test]
fn without_the_shipper_the_control_processes_word_counts_while_it_is_fresh() {
    let lags = |change: fn(&mut StatusAnswer)| {
        let mut gathered = gathered(change);
        gathered.shipper = None;
        let lag = Lag::of(&gathered);
        (rows(&lag).join(", "), lag.unreachable)
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(lags(|_| {}), ("site-a in sync, site-b in sync".into(), none.clone()));
    assert_eq!(lags(|a| a.sites[0].streams[0].applied_lsn = 8), ("site-a in sync, site-b behind".into(), none));
    let stale = lags(|a| a.sites[0].age_ms = FRESH_MS + 1);
    assert_eq!(stale, ("site-a in sync, site-b not heard".into(), vec!["site-b".into()]));
    let missing = lags(|a| a.sites.clear());
    assert_eq!(missing.0, "site-a in sync, site-b unknown, site-w unknown");
}

#[test]
fn another_sites_word_tells_what_a_site_behind_a_cut_holds() {
    let verdicts = |applied, lag_ms, by: &str| {
        at_a(|a| {
            silent(peer_of(a), 9_000);
            shipper_of(a).role = "REPLICA".into();
            let told: &mut SiteStatus = &mut a.sites[0];
            (told.streams[0].applied_lsn, told.lag_ms) = (applied, lag_ms);
            (told.reported_by, told.age_ms) = (by.to_owned(), NOW_MS + 1);
        })
    };
    assert_eq!(verdicts(9, 0, "site-c"), ["site-a in sync", "site-b in sync"]);
    assert_eq!(verdicts(8, 0, "site-c"), ["site-a in sync", "site-b behind"]);
    assert_eq!(verdicts(9, 2_000, "site-c"), ["site-a in sync", "site-b behind"], "never in sync beside a lag");
    assert_eq!(verdicts(9, 0, "site-b"), ["site-a unknown", "site-b not heard"], "its own word, a while ago");
}

#[test]
fn people_read_names_of_streams_and_programs_exact_ones() {
    let forced = 1_126_999_418_470_401;
    let lag = |incarnation: u64| {
        Lag::of(&gathered(|a| {
            let second = cfs_rpc::v1::StreamCursor { incarnation, ..shipper_of(a).cursors[0].clone() };
            shipper_of(a).cursors.push(second);
        }))
    };
    let two = lag(forced);
    assert!(table(&two).contains(" site-a.1@9 site-a.4.1.1@9 "), "{}", table(&two));
    assert_eq!(json(&two)["sites"][0]["source"][1]["stream"], format!("1.{forced}"));
    let state = StreamState {
        durable: Some(StreamPosition { site: 1, incarnation: forced, lsn: 9 }),
        ..StreamState::default()
    };
    let one = Lag::of(&gathered(|a| {
        shipper_of(a).cursors[0].incarnation = forced;
        peer_of(a).cursors[0].incarnation = forced;
        a.sites[0].streams = vec![state];
    }));
    assert!(table(&one).contains(" site-a@9 "), "{}", table(&one));
    let fresh = Lag::of(&gathered(|a| {
        let next =
            cfs_rpc::v1::StreamCursor { incarnation: 2, source: 0, applied: 0, ..shipper_of(a).cursors[0].clone() };
        shipper_of(a).cursors.push(next);
    }));
    assert!(table(&fresh).contains(" site-a@9 "), "nothing was written to the second one: {}", table(&fresh));
}
