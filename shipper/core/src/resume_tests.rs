use super::*;

fn decide_with(shown: &[(&str, Option<u64>)], change: impl FnOnce(&mut Situation<'_>)) -> Decision {
    let shown = shown.iter().map(|(site, lsn)| (SiteName::new(*site).unwrap(), lsn.map(Lsn))).collect();
    let mut now = Situation {
        allotted: Some(Incarnation(1)),
        used_before: true,
        closed: false,
        unsettled: false,
        durable: Lsn(10),
        behind: None,
        shown: &shown,
        reachable: Lsn(10),
        waited_ms: 0,
        patience_ms: 1000,
    };
    change(&mut now);
    decide(&now)
}

fn waits(decision: &Decision) -> bool {
    matches!(decision, Decision::Wait(_))
}

fn asks(decision: &Decision) -> bool {
    matches!(decision, Decision::AskForIncarnation(_))
}

/// Invariant 3.
#[test]
fn an_old_incarnation_goes_on_only_after_all_sites_were_heard() {
    assert_eq!(decide_with(&[("b", Some(10)), ("c", Some(0))], |_| ()), Decision::Open);
    assert!(waits(&decide_with(&[("b", Some(10)), ("c", None)], |_| ())));
    assert!(asks(&decide_with(&[("b", Some(10)), ("c", None)], |now| now.waited_ms = 1000)));
    assert_eq!(decide_with(&[], |_| ()), Decision::Open, "a sole site has nobody to ask");
}

/// Invariant 3: the own tail comes back first; if its only holder is gone, the stream is never continued without it.
#[test]
fn what_another_site_holds_of_the_own_stream_is_never_written_again() {
    let longer = |reachable, waited_ms| {
        decide_with(&[("b", Some(11))], |now| (now.reachable, now.waited_ms) = (Lsn(reachable), waited_ms))
    };
    assert!(waits(&longer(11, 0)) && waits(&longer(11, 60_000)), "it is coming");
    assert!(waits(&longer(0, 999)));
    assert!(asks(&longer(0, 1000)), "its holder is gone");
}

/// A stopped or dead peer delays a fresh stream by a tenth of a second at most, and only if it was never heard.
#[test]
fn a_fresh_incarnation_does_not_wait_for_the_dead() {
    let fresh = |shown: &[(&str, Option<u64>)], waited_ms| {
        decide_with(shown, |now| (now.used_before, now.waited_ms) = (false, waited_ms))
    };
    assert!(waits(&fresh(&[("b", None)], 0)), "what others hold of older incarnations comes first");
    assert_eq!(fresh(&[("b", None)], FRESH_PATIENCE_MS), Decision::Open);
    assert_eq!(fresh(&[("b", Some(3))], 0), Decision::Open);
    assert!(asks(&decide_with(&[], |now| now.allotted = None)));
    assert!(asks(&decide_with(&[], |now| now.closed = true)));
}

/// Invariant 8: the producer table is complete only once the cut is applied.
#[test]
fn nothing_is_appended_before_the_store_has_caught_up() {
    let other = StreamId { site: cfs_model::SiteId(2), incarnation: Incarnation(1) };
    let behind =
        |used_before| decide_with(&[], |now| (now.behind, now.used_before) = (Some((other, Lsn(5))), used_before));
    assert!(waits(&behind(true)) && waits(&behind(false)));
}

/// Invariant 3: an LSN that was handed out is not handed out again.
#[test]
fn nothing_is_appended_while_earlier_entries_are_under_way() {
    assert!(waits(&decide_with(&[], |now| now.unsettled = true)));
}
