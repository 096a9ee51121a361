use cfs_model::{Incarnation, SiteId};

use super::*;

const STREAM: StreamId = StreamId { site: SiteId(1), incarnation: Incarnation(1) };
const NAME: Bytes = Bytes::from_static(b"mds");

fn open(end: u64, held: &[(&'static str, u64)]) -> Admission {
    let mut admission = Admission::default();
    let table = held.iter().map(|(name, seq)| (Bytes::from_static(name.as_bytes()), *seq, Epoch(1)));
    admission.open(Epoch(1), STREAM, Lsn(end), table);
    admission
}

/// Invariant 8: a retry is recognised, whole or in part.
#[test]
fn retries_are_held_and_the_rest_is_admitted() {
    let mut a = open(10, &[]);
    assert_eq!(a.hello(&NAME, 1).unwrap().seq, 0);
    let fresh = |held, first, last| Ok(Admitted { held, first_lsn: Lsn(first), last_lsn: Lsn(last) });
    assert_eq!(a.entries(&NAME, 1, Epoch(1), 1, 3), fresh(0, 11, 13));
    assert_eq!(a.entries(&NAME, 1, Epoch(1), 1, 3), fresh(3, 14, 13), "all held: nothing is handed out");
    assert_eq!(a.entries(&NAME, 1, Epoch(1), 3, 2), fresh(1, 14, 14));
    assert_eq!(a.last_lsn(), Lsn(14));
    assert_eq!(a.entries(&NAME, 1, Epoch(1), 6, 1), Err(Refused::Gap { expected: 5 }));
}

#[test]
fn the_table_survives_a_restart() {
    let mut a = open(10, &[("mds", 7)]);
    assert_eq!(a.hello(&NAME, 1).unwrap().seq, 7);
    let admitted = a.entries(&NAME, 1, Epoch(1), 6, 4).unwrap();
    assert_eq!((admitted.held, admitted.first_lsn), (2, Lsn(11)));
}

#[test]
fn only_the_latest_session_of_a_producer_appends() {
    let mut a = open(0, &[]);
    a.hello(&NAME, 1).unwrap();
    a.hello(&NAME, 2).unwrap();
    assert_eq!(a.entries(&NAME, 1, Epoch(1), 1, 1), Err(Refused::Superseded));
    assert!(a.entries(&NAME, 2, Epoch(1), 1, 1).is_ok());
}

#[test]
fn other_epochs_and_bad_numbers_are_refused() {
    let mut a = open(0, &[]);
    a.hello(&NAME, 1).unwrap();
    assert_eq!(a.entries(&NAME, 1, Epoch(2), 1, 1), Err(Refused::Fenced(Epoch(1))));
    assert_eq!(a.entries(&NAME, 1, Epoch(1), 0, 1), Err(Refused::BadSequence));
    assert_eq!(a.entries(&NAME, 1, Epoch(1), u64::MAX, 2), Err(Refused::BadSequence));
    a.close();
    assert_eq!(a.entries(&NAME, 1, Epoch(1), 1, 1), Err(Refused::NotAccepting));
    assert_eq!(a.hello(&NAME, 1), Err(Refused::NotAccepting));
}

/// Invariant 10.
#[test]
fn the_table_is_bounded_and_forgets_the_idle() {
    let mut a = open(0, &[]);
    for i in 0..=MAX_PRODUCERS {
        a.hello(&Bytes::from(i.to_string()), 1).unwrap();
    }
    assert_eq!(a.producers.len(), MAX_PRODUCERS);
    assert!(!a.producers.contains_key(&b"0"[..]));
}
