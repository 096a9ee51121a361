use cfs_model::{Incarnation, SiteId};
use proptest::prelude::*;

use super::*;

const BUDGET: Budget = Budget { bytes: 1000, age_s: 100 };

fn stream(site: u8) -> StreamId {
    StreamId { site: SiteId(site), incarnation: Incarnation(1) }
}

/// Segments of ten entries and 100 bytes each, the first one oldest; the last one is being written.
fn pieces(count: u64, newest_age_s: u64) -> Vec<Piece> {
    let piece = |i: u64| Piece {
        first: Lsn(10 * i + 1),
        last: Lsn(10 * i + 10),
        bytes: 100,
        age_s: newest_age_s + (count - 1 - i),
        stays: i + 1 == count,
    };
    (0..count).map(piece).collect()
}

fn vector(site: u8, lsn: u64) -> Vector {
    [(stream(site), Lsn(lsn))].into_iter().collect()
}

fn situation(count: u64, shared: u64) -> Situation {
    Situation {
        pieces: BTreeMap::from([(stream(1), pieces(count, 0))]),
        applied: vector(1, 10 * count),
        shared: vector(1, shared),
        copied: vector(1, shared),
        may_force: true,
        ..Situation::default()
    }
}

fn through(plan: &Plan) -> u64 {
    plan.through.get(&stream(1)).map_or(0, |lsn| lsn.0)
}

#[test]
fn what_every_site_has_stays_within_the_budget_and_goes_above_it() {
    assert!(plan(&situation(10, 100), BUDGET).is_empty());
    let over = plan(&situation(13, 130), BUDGET);
    assert_eq!((through(&over), over.segments, over.bytes, over.forced_bytes), (30, 3, 300, 0));
    let prepared = Situation { other_bytes: 150, ..situation(10, 100) };
    assert_eq!(through(&plan(&prepared, BUDGET)), 20, "prepared files count");
    let mut old = situation(5, 50);
    old.pieces.insert(stream(1), pieces(5, 98));
    assert_eq!(through(&plan(&old, BUDGET)), 20, "older than the age");
    let all = Situation { everything: true, ..situation(5, 35) };
    assert_eq!(through(&plan(&all, BUDGET)), 30, "only what every site has");
}

/// A site that stays away is not waited for beyond the budget, and until then it is.
#[test]
fn what_a_site_lacks_goes_only_when_the_budget_is_exceeded() {
    let away = situation(13, 20);
    let over = plan(&away, BUDGET);
    assert_eq!((through(&over), over.forced_bytes), (30, 100));
    assert_eq!(through(&plan(&Situation { may_force: false, ..away }, BUDGET)), 20);
    let mut old = situation(5, 0);
    old.pieces.insert(stream(1), pieces(5, 200));
    assert!(plan(&old, BUDGET).is_empty(), "age alone never takes the only copy");
    old.copied = vector(1, 20);
    assert_eq!(through(&plan(&old, BUDGET)), 20);
    assert_eq!(past(&old, BUDGET).segments, 4, "all of it is past, but what is being written");
}

/// Invariant 6: what is not applied for good stays, whatever the budget.
#[test]
fn what_is_not_applied_here_stays() {
    let behind = Situation { applied: vector(1, 25), everything: true, ..situation(20, 200) };
    assert_eq!(through(&plan(&behind, Budget { bytes: 0, age_s: 0 })), 20);
}

#[test]
fn free_segments_of_any_stream_go_before_what_a_site_lacks() {
    let mut two = situation(8, 0);
    two.pieces.insert(stream(2), pieces(8, 50));
    two.applied.advance(stream(2), Lsn(80));
    two.shared.advance(stream(2), Lsn(40));
    let plan = plan(&two, BUDGET);
    assert_eq!(plan.through.get(&stream(2)), Some(&Lsn(60)), "the older stream");
    assert_eq!((through(&plan), plan.forced_bytes), (0, 200));
}

#[test]
fn growth_and_time_to_exhaustion() {
    let mut growth = Growth::default();
    assert_eq!(exhausted_in_s(1000, 200, growth.bytes_per_s()), None);
    for (at_ms, bytes) in [(0, 0), (1_000, 500), (10_000, 200)] {
        growth.saw(at_ms, bytes);
    }
    assert_eq!(growth.bytes_per_s(), 20.0);
    assert_eq!(exhausted_in_s(1000, 200, growth.bytes_per_s()), Some(40));
    assert_eq!(exhausted_in_s(1000, 1000, 0.0), Some(0));
    growth.saw(400_000, 100);
    assert_eq!(growth.bytes_per_s(), 0.0, "what is long ago does not count");
    assert_eq!(bytes_after(&pieces(3, 0), Lsn(15)), 150);
}

proptest! {
    /// Whatever the situation: nothing goes that is being written or not applied; nothing that a site lacks goes while the
    /// budget holds; and what is left is within the budget, unless all that is left may not go.
    #[test]
    fn a_plan_never_takes_what_must_stay(
        counts in proptest::collection::vec((1u64..12, 0u64..150, 0u64..130, 0u64..130), 1..4),
        (bytes, age_s) in (0u64..3000, 0u64..200),
        (everything, may_force) in (any::<bool>(), any::<bool>()),
    ) {
        let mut now = Situation { everything, may_force, ..Situation::default() };
        for (i, (count, age, applied, shared)) in counts.iter().enumerate() {
            let stream = stream(i as u8 + 1);
            now.pieces.insert(stream, pieces(*count, *age));
            now.applied.advance(stream, Lsn(*applied));
            now.shared.advance(stream, Lsn(*shared));
            now.copied.advance(stream, Lsn(*shared));
        }
        let plan = plan(&now, Budget { bytes, age_s });
        let total: u64 = now.pieces.values().flatten().map(|p| p.bytes).sum();
        let mut stuck = true;
        for (stream, pieces) in &now.pieces {
            let gone = plan.through.get(stream).copied().unwrap_or_default();
            prop_assert!(gone <= now.applied.get(*stream));
            prop_assert!(pieces.iter().all(|p| !p.stays || p.last > gone));
            let forced = gone > now.shared.get(*stream);
            prop_assert!(!forced || (may_force && total > bytes));
            let next = pieces.iter().find(|p| p.last > gone);
            stuck &= next.is_none_or(|p| {
                let free = p.last <= now.shared.get(*stream);
                p.stays || p.last > now.applied.get(*stream) || (!free && !may_force)
            });
        }
        prop_assert!(total - plan.bytes <= bytes || stuck);
        prop_assert_eq!(plan.forced_bytes > 0, plan.through.iter().any(|(s, lsn)| *lsn > now.shared.get(*s)));
    }
}
