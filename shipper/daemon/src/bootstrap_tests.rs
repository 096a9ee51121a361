use super::*;

/// Invariant 6: the phases and their times are those of before the restart; the store overrules them.
#[test]
fn phases_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let load = |holds, installing, now| Bootstrap::load(dir.path(), holds, installing, now).unwrap();
    let fresh = load(false, false, 5);
    assert_eq!((fresh.phase(), fresh.pulls(), fresh.is_copying()), (Phase::Idle, false, false));
    fresh.change(|kept| kept.enter(Phase::Enrolling, 7)).unwrap();
    fresh
        .change(|kept| {
            kept.enter(Phase::Snapshot, 9);
            kept.way = Some(Way::Snapshot);
        })
        .unwrap();
    let again = load(false, true, 20);
    assert!(again.is_copying() && !again.pulls() && again.is_partial(|| true));
    again.change(|kept| kept.enter(Phase::Catchup, 30)).unwrap();
    assert!(again.is_partial(|| false) && !again.is_partial(|| true));
    again.change(|kept| kept.enter(Phase::Complete, 40)).unwrap();
    let passed = load(true, false, 50).lock().kept.passed.clone();
    assert_eq!(passed.iter().map(|p| p.at_ms).collect::<Vec<_>>(), [5, 7, 9, 30, 40]);
    // It fell behind, and was killed before its phase was kept.
    let behind = load(true, true, 60);
    assert_eq!((behind.phase(), behind.is_copying(), behind.pulls()), (Phase::Snapshot, true, false));
    let passed = behind.lock().kept.passed.clone();
    assert_eq!(passed.iter().map(|p| p.at_ms).collect::<Vec<_>>(), [60], "the round before is over");
}

#[test]
fn a_site_that_holds_something_is_through() {
    let dir = tempfile::tempdir().unwrap();
    let through = Bootstrap::load(dir.path(), true, false, 5).unwrap();
    assert!(through.pulls() && !through.is_under_way());
}

#[test]
fn the_rate_is_that_of_the_last_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let bootstrap = Bootstrap::load(dir.path(), false, false, 5).unwrap();
    bootstrap.installed(1_000, 50_000, 1, 10);
    assert_eq!(bootstrap.lock().bytes_per_s(1_000), 0);
    bootstrap.installed(20_000, 50_000, 2, 10);
    bootstrap.installed(22_000, 4_000, 3, 10);
    assert_eq!(bootstrap.lock().bytes_per_s(22_000), 2_000);
    assert_eq!(bootstrap.lock().bytes_per_s(60_000), 0, "it stands still");
}

/// Invariants 4 and 6: whoever held more before counts for nothing until it holds that again, whatever its way and its phase.
#[test]
fn a_rebuilt_site_counts_for_nothing_until_it_holds_what_it_held() {
    let dir = tempfile::tempdir().unwrap();
    let through = Bootstrap::load(dir.path(), true, false, 5).unwrap();
    assert!(!through.is_partial(|| true));
    through.leave(true);
    assert!(through.is_partial(|| true) && !through.pulls(), "it is about to lose its data");
    begin_anew(dir.path(), 6).unwrap();
    let anew = Bootstrap::load(dir.path(), false, false, 7).unwrap();
    let order = Order { stage: Stage::Moved, ..Order::new(&[], "site-a", "", Vector::new(), 6) };
    anew.rebuilds(Some(order.clone()));
    assert_eq!(anew.phase(), Phase::Idle);
    for phase in [Phase::Enrolling, Phase::Snapshot] {
        assert!(anew.is_partial(|| true), "before {}", phase.word());
        anew.change(|kept| kept.enter(phase, 8)).unwrap();
    }
    anew.change(|kept| kept.enter(Phase::Catchup, 9)).unwrap();
    assert!(anew.is_partial(|| false) && !anew.is_partial(|| true));
    anew.change(|kept| kept.enter(Phase::Complete, 10)).unwrap();
    assert!(!anew.is_partial(|| false));
}
