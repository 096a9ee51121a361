use std::time::Instant;

use cfs_model::{Epoch, Incarnation, Lsn, SiteId, StreamId};

use super::*;

fn ack(seq: u64) -> Ack {
    let stream = StreamId { site: SiteId(1), incarnation: Incarnation(1) };
    Ack { seq, stream, lsn: Lsn(seq), epoch: Epoch(1), received: Instant::now() }
}

fn with(count: u64) -> InFlight {
    let mut in_flight = InFlight::new();
    in_flight.begin(0, 1);
    for n in 1..=count {
        assert_eq!(in_flight.push(Bytes::from(n.to_string())), n);
    }
    in_flight
}

fn texts((first, ops): (u64, Vec<Bytes>)) -> (u64, Vec<String>) {
    (first, ops.into_iter().map(|op| String::from_utf8_lossy(&op).into_owned()).collect())
}

/// Invariant 8: what the journal holds is not sent again, the rest is, under the same numbers.
#[test]
fn a_new_session_sends_what_is_not_held() {
    let mut f = with(5);
    assert_eq!(f.gather().map(texts), Some((1, ["1", "2", "3", "4", "5"].map(String::from).to_vec())));
    assert!(f.gather().is_none());
    assert_eq!(f.settle(ack(2)).freed, Freed { entries: 2, bytes: 2 });
    assert_eq!(f.resume(3), Ok(()));
    assert_eq!(f.gather().map(texts), Some((4, ["4", "5"].map(String::from).to_vec())));
    assert_eq!(f.resent(), 2);
    // 3 is held and still waits for its ack.
    assert!(f.outcome(3, 3).is_none());
    assert_eq!(f.settle(ack(5)).freed, Freed { entries: 3, bytes: 3 });
    assert!(matches!(f.outcome(1, 5), Some(Ok(Some(Ack { seq: 5, .. })))));
}

/// Invariant 8: an entry that this process never sent is somebody else's.
#[test]
fn more_than_was_sent_is_a_mismatch() {
    let mut f = with(5);
    assert_eq!(f.resume(1), Err(Mismatch::NeverSent { held: 1, sent: 0 }));
    assert!(f.gather().is_some());
    assert_eq!(f.resume(6), Err(Mismatch::NeverSent { held: 6, sent: 5 }));
    assert_eq!(f.resume(5), Ok(()));
}

#[test]
fn a_refused_entry_leaves_and_the_later_ones_move_up() {
    let mut f = with(4);
    f.gather().expect("a message");
    let freed = f.refuse(2, "no".to_owned()).expect("ours").freed;
    assert_eq!(freed, Freed { entries: 1, bytes: 1 });
    assert_eq!(f.resume(1), Ok(()));
    assert_eq!(f.gather().map(texts), Some((2, ["3", "4"].map(String::from).to_vec())));
    assert!(matches!(f.outcome(2, 2), Some(Err(Error::Invalid { why, entry })) if why == "no" && entry == "2"));
    let _ = f.settle(ack(3));
    for ticket in [1, 3, 4] {
        assert!(matches!(f.outcome(ticket, ticket), Some(Ok(_))), "{ticket}");
    }
    assert!(f.refuse(9, String::new()).is_none());
    assert!(f.refuse(0, String::new()).is_none());
}

#[test]
fn refusals_that_nobody_waits_for_are_reported_by_a_flush() {
    let mut f = with(3);
    f.gather().expect("a message");
    f.abandon(1, 1);
    f.abandon(2, 2);
    let _ = f.refuse(2, "early".to_owned()).expect("ours");
    let _ = f.refuse(2, "late".to_owned()).expect("ours");
    f.abandon(3, 3);
    assert!(f.flushed(3).is_none());
    let _ = f.settle(ack(1));
    for why in ["early", "late"] {
        assert!(matches!(f.flushed(3), Some(Err(Error::Invalid { why: found, .. })) if found == why));
    }
    assert!(matches!(f.flushed(3), Some(Ok(Some(Ack { seq: 1, .. })))));
}

#[test]
fn entries_that_the_journal_had_before_are_not_sent() {
    let mut f = InFlight::new();
    f.begin(2, 1);
    let _ = f.settle(ack(2));
    for n in 1..=3 {
        f.push(Bytes::from(n.to_string()));
    }
    assert_eq!(f.skip_held().freed.entries, 2);
    assert!(matches!(f.outcome(1, 2), Some(Ok(_))));
    assert_eq!(f.gather().map(texts), Some((3, vec!["3".to_owned()])));
}

/// An unacknowledged entry is unknown, never absent; one that never left is absent.
#[test]
fn a_failure_tells_unknown_from_not_sent() {
    let mut f = with(2);
    f.gather().expect("a message");
    f.push(Bytes::from_static(b"3"));
    let _ = f.settle(ack(1));
    let _ = f.fail(Arc::new(Fatal::Closed));
    assert!(matches!(f.outcome(1, 1), Some(Ok(_))));
    assert!(matches!(f.outcome(2, 2), Some(Err(Error::Unknown(_)))));
    assert!(matches!(f.outcome(3, 3), Some(Err(Error::NotAppended(_)))));
    assert!(matches!(f.flushed(3), Some(Err(Error::Unknown(_)))));
}

/// Invariant 10: no message is over the shipper's limits.
#[test]
fn messages_are_bounded() {
    let mut f = InFlight::new();
    for _ in 0..MAX_APPEND_ENTRIES + 1 {
        f.push(Bytes::from_static(b"x"));
    }
    assert_eq!(f.gather().map(|(_, ops)| ops.len()), Some(MAX_APPEND_ENTRIES));
    assert_eq!(f.gather().map(|(first, ops)| (first, ops.len())), Some((MAX_APPEND_ENTRIES as u64 + 1, 1)));
    let large = Bytes::from(vec![0; 256 * 1024]);
    for _ in 0..20 {
        f.push(large.clone());
    }
    while let Some((_, ops)) = f.gather() {
        assert!(ops.iter().map(Bytes::len).sum::<usize>() <= MAX_APPEND_BYTES);
    }
    assert!(!f.has_unsent());
}
