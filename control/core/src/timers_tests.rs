//! What one node does as time goes by.

use super::*;

fn voter() -> Elector {
    let mut elector = Elector::new(0);
    elector.become_role(Role::Voter, 0);
    for at in (100..=1000).step_by(100) {
        elector.hear(at);
    }
    elector
}

#[test]
fn intervals_stay_within_their_bounds() {
    for (round_trip, heartbeat) in [(0, 250), (150, 250), (600, 300), (10_000, 400)] {
        assert_eq!(heartbeat_ms(round_trip), heartbeat);
        let silence = Elector::new(0).silence_ms(round_trip);
        assert!(SILENCE_MS.contains(&silence) && silence >= 2 * heartbeat, "{silence}");
        assert!((800..=2000).contains(&call_ms(round_trip)));
        assert!((300..=2000).contains(&connect_ms(Some(round_trip), 0)));
    }
    assert_eq!(connect_ms(None, 0), 2000);
    assert_eq!(connect_ms(Some(0), 3), 2000, "every fourth is patient");
}

#[test]
fn a_leader_that_is_heard_is_not_disturbed() {
    let mut elector = voter();
    for at in (1100..5000).step_by(100) {
        assert_eq!(elector.step(at, 0, 0, 7), Action::Wait(at - 100 + 500));
        elector.hear(at);
    }
}

#[test]
fn a_silent_leader_is_suspected_and_replaced() {
    let mut elector = voter();
    assert_eq!(elector.step(1499, 0, 0, 7), Action::Wait(1500));
    assert_eq!(elector.step(1500, 0, 0, 7), Action::Wait(1507));
    assert_eq!(elector.step(1507, 0, 0, 7), Action::Ask);
    assert_eq!(elector.step(1508, 0, 0, 7), Action::Wait(u64::MAX), "one question at a time");
    elector.asked(true, 1510, 0, 7);
    assert_eq!(elector.step(1510, 0, 0, 7), Action::Stand);
    assert_eq!(elector.step(1511, 0, 0, 7), Action::Wait(1810), "one election at a time");
    elector.become_role(Role::Leader, 1520);
    assert_eq!(elector.step(1520, 0, 0, 7), Action::Heartbeat);
    assert_eq!(elector.step(1521, 0, 0, 7), Action::Wait(1770));
}

#[test]
fn a_leader_whose_process_is_gone_is_replaced_at_once() {
    let mut elector = voter();
    elector.lose(1003);
    assert_eq!(elector.step(1003, 0, 0, 0), Action::Wait(1003));
    assert_eq!(elector.step(1003, 0, 0, 0), Action::Ask);
}

#[test]
fn a_leader_that_was_heard_after_the_connection_broke_is_not_gone() {
    let mut elector = voter();
    elector.lose(999);
    assert!(!elector.suspects(1001, 0));
    elector.lose(1001);
    assert!(elector.suspects(1001, 0));
    elector.hear(1002);
    assert!(!elector.suspects(1003, 0));
}

#[test]
fn without_a_quorum_nobody_stands_and_attempts_become_rare() {
    let mut elector = voter();
    let (mut now, mut asked) = (1000, 0);
    while now < 61_000 {
        match elector.step(now, 0, 0, 13) {
            Action::Ask => {
                asked += 1;
                elector.asked(false, now, 0, 13);
            }
            Action::Wait(until) => now = until.max(now + 1),
            other => panic!("{other:?}"),
        }
    }
    assert!((20..200).contains(&asked), "{asked}");
}

#[test]
fn an_election_that_brings_no_leader_is_repeated_after_asking_again() {
    let mut elector = voter();
    elector.lose(1000);
    let mut now = 1000;
    let mut log = Vec::new();
    while log.len() < 4 {
        match elector.step(now, 0, 0, 5) {
            Action::Ask => {
                log.push('a');
                elector.asked(true, now, 0, 5);
            }
            Action::Stand => log.push('s'),
            Action::Wait(until) => now = until.max(now + 1),
            Action::Heartbeat => panic!("not a leader"),
        }
    }
    assert_eq!(log, ['a', 's', 'a', 's']);
}

#[test]
fn an_answer_that_comes_after_a_leader_was_heard_counts_for_nothing() {
    let mut elector = voter();
    elector.lose(1000);
    assert_eq!(elector.step(1000, 0, 0, 5), Action::Wait(1005));
    assert_eq!(elector.step(1005, 0, 0, 5), Action::Ask);
    elector.hear(1031);
    elector.asked(true, 1032, 0, 5);
    assert!(matches!(elector.step(1033, 0, 0, 5), Action::Wait(_)));
}

#[test]
fn whoever_was_promised_a_vote_goes_first() {
    let mut elector = voter();
    elector.lose(1000);
    elector.give_way(1001, 0);
    assert_eq!(elector.step(1002, 0, 0, 0), Action::Wait(1151));
}

#[test]
fn irregular_signs_of_life_lengthen_the_silence_that_is_borne() {
    let mut elector = Elector::new(0);
    elector.become_role(Role::Voter, 0);
    let mut at = 0;
    for gap in [100, 450, 120, 430, 90, 460, 110, 440] {
        at += gap;
        assert!(!elector.suspects(at, 0), "at {at}");
        elector.hear(at);
    }
    assert!(elector.silence_ms(0) > 800, "{}", elector.silence_ms(0));
}

#[test]
fn confirmed_leadership_replaces_signs_of_life_for_a_while() {
    let mut elector = Elector::new(0);
    elector.become_role(Role::Leader, 1000);
    assert_eq!(elector.step(1000, 0, 0, 0), Action::Heartbeat);
    let mut shown = Vec::new();
    for now in 1001..3400 {
        // Something else reaches the voters all the time.
        if elector.step(now, 0, now - 1, 0) == Action::Heartbeat {
            shown.push(now);
        }
    }
    assert_eq!(shown, [2000, 3000]);
}

#[test]
fn a_bystander_never_acts() {
    let mut elector = Elector::new(0);
    elector.lose(1);
    assert_eq!(elector.step(100_000, 0, 0, 0), Action::Wait(u64::MAX));
}

#[test]
fn smoothing_follows_a_change() {
    let mut smoothed = Smoothed::default();
    assert_eq!((smoothed.mean_ms(), smoothed.most_ms()), (None, 0));
    for _ in 0..50 {
        smoothed.add(10);
    }
    assert_eq!(smoothed.mean_ms(), Some(10));
    for _ in 0..50 {
        smoothed.add(150);
    }
    let mean = smoothed.mean_ms().unwrap_or_default();
    assert!((140..=151).contains(&mean), "{mean}");
}
