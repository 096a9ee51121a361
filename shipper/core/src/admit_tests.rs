use cfs_model::{Incarnation, SiteId};

use super::*;

const STREAM: StreamId = StreamId { site: SiteId(1), incarnation: Incarnation(1) };
const NAME: Bytes = Bytes::from_static(b"mds");

fn known(name: &'static str, seq: u64, stream: StreamId, epoch: u64) -> Remembered {
    Remembered { name: Bytes::from_static(name.as_bytes()), seq, stream, epoch: Epoch(epoch) }
}

fn open_with(end: u64, producers: Vec<Remembered>) -> Admission {
    let mut admission = Admission::default();
    admission.open(Epoch(1), STREAM, [(STREAM, Lsn(end))].into_iter().collect(), producers);
    admission
}

fn open(end: u64, held: &[(&'static str, u64)]) -> Admission {
    open_with(end, held.iter().map(|(name, seq)| known(name, *seq, STREAM, 1)).collect())
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

/// Invariant 8 across a failover: what the dead primary acknowledged alone is missing here, and the producer goes on
/// after it; what is known here is recognised; a gap within one stream and epoch is a fault.
#[test]
fn a_gap_is_refused_only_where_the_producer_was_seen_before() {
    let old = StreamId { site: SiteId(2), incarnation: Incarnation(1) };
    let gap = |expected| Err(Refused::Gap { expected });
    let admit = |producers: Vec<Remembered>, first_seq| {
        let mut a = open_with(10, producers);
        a.hello(&NAME, 1).unwrap();
        (a.entries(&NAME, 1, Epoch(1), first_seq, 1).map(|p| p.held), a)
    };
    assert_eq!(admit(vec![known("mds", 7, STREAM, 1)], 9).0, gap(8), "the same stream and epoch, before a restart");
    assert_eq!(admit(vec![known("mds", 7, old, 0)], 7).0, Ok(1), "a retry");
    for producers in [vec![known("mds", 7, old, 0)], vec![known("mds", 7, STREAM, 0)], vec![]] {
        let (admitted, mut a) = admit(producers, 20);
        assert_eq!(admitted, Ok(0));
        assert_eq!(a.entries(&NAME, 1, Epoch(1), 22, 1).map(|p| p.held), gap(21));
    }
}

/// Invariant 4: what was appended before a restart is no further than the stream's end then, and is acknowledged once that
/// is as durable as asked.
#[test]
fn what_the_own_stream_holds_from_before_is_owed_at_its_end() {
    let old = StreamId { site: SiteId(2), incarnation: Incarnation(1) };
    let mut a = open_with(10, vec![known("mds", 7, STREAM, 0), known("other", 3, old, 0)]);
    assert_eq!(a.hello(&NAME, 1).unwrap().lsn, Lsn(10));
    assert_eq!(a.hello(&Bytes::from_static(b"other"), 1).unwrap().lsn, Lsn::ZERO);
}

/// Invariant 3: LSNs of entries that were dropped are handed out again only to sessions that began after.
#[test]
fn what_is_taken_back_voids_the_sessions_that_wait_for_it() {
    let mut a = open(10, &[]);
    a.hello(&NAME, 1).unwrap();
    a.entries(&NAME, 1, Epoch(1), 1, 3).unwrap();
    assert_eq!(a.unsettled(), Some((STREAM, Lsn(13))));
    let opening = a.opening();
    a.take_back(STREAM, Lsn(11));
    assert_eq!((a.opening(), a.last_lsn()), (opening, Lsn(13)), "not while it accepts");
    a.close();
    a.take_back(STREAM, Lsn(11));
    assert_eq!(a.unsettled(), Some((STREAM, Lsn(11))));
    assert_ne!(a.opening(), opening);
}

/// Where other sites append in the same epoch a producer may have been at one of them meanwhile. What that acknowledged alone
/// may follow late: no gap. What is applied here is held, and counts only where it is held too (invariants 4 and 8).
#[test]
fn a_producer_comes_from_another_site_of_the_same_epoch() {
    let elsewhere = StreamId { site: SiteId(2), ..STREAM };
    let mut a = open(10, &[("mds", 7)]);
    a.share();
    a.hello(&NAME, 1).unwrap();
    a.entries(&NAME, 1, Epoch(1), 8, 1).unwrap();
    assert_eq!(
        a.entries(&NAME, 1, Epoch(1), 10, 1),
        Err(Refused::Gap { expected: 9 }),
        "within a session nothing is missing"
    );
    a.hello(&NAME, 2).unwrap();
    let admitted = a.entries(&NAME, 2, Epoch(1), 21, 1).unwrap();
    assert_eq!((admitted.held, admitted.first_lsn), (0, Lsn(12)), "9 to 20 were acknowledged elsewhere");
    let applied: Vector = [(STREAM, Lsn(12)), (elsewhere, Lsn(30))].into_iter().collect();
    a.learn(&NAME, 20, &applied);
    assert_eq!(a.base().get(elsewhere), Lsn::ZERO, "it was known here");
    a.learn(&NAME, 25, &applied);
    let held = a.hello(&NAME, 3).unwrap();
    assert_eq!((held.seq, held.lsn, a.base().get(elsewhere)), (25, Lsn(12), Lsn(30)), "its own entry here counts too");
    assert_eq!(a.entries(&NAME, 3, Epoch(1), 24, 3).unwrap().held, 2);
}

#[test]
fn a_sole_primary_learns_nothing_of_other_streams() {
    let mut a = open(10, &[("mds", 7)]);
    a.learn(&NAME, 9, &Vector::new());
    assert_eq!(a.hello(&NAME, 1).unwrap().seq, 7);
    assert_eq!(a.entries(&NAME, 1, Epoch(1), 9, 1), Err(Refused::Gap { expected: 8 }));
}
