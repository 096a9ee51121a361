//! What of the journal may go, what has to, and who needs the rest.
//!
//! A segment is **free** once what is in it is applied here, for good, and durable on every enrolled data site. Free
//! segments stay, oldest first out, as long as the journal is within its budget of bytes and they are within its age: then
//! a site that returns finds what it lacks. Segments that are not free go too once the budget is exceeded and no free ones
//! are left: a site that stays away never fills a disk; it needs a snapshot afterwards.

use std::collections::BTreeMap;

use cfs_model::{Lsn, StreamId, Vector};

/// A segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First LSN.
    pub first: Lsn,
    /// Last LSN.
    pub last: Lsn,
    /// Bytes on disk.
    pub bytes: u64,
    /// Age of its newest entry.
    pub age_s: u64,
    /// It is being written: it stays whatever happens.
    pub stays: bool,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of the whole journal.
    pub bytes: u64,
    /// Age of an entry.
    pub age_s: u64,
}

/// What is known when the question is asked.
#[derive(Debug, Clone, Default)]
pub struct Situation {
    /// Segments of each stream, in order.
    pub pieces: BTreeMap<StreamId, Vec<Piece>>,
    /// Bytes on disk beside those of the segments: files prepared ahead.
    pub other_bytes: u64,
    /// What is applied to the store here and survives a power cut. Nothing behind it ever goes.
    pub applied: Vector,
    /// What every enrolled data site holds durably.
    pub shared: Vector,
    /// What at least one other site holds durably.
    pub copied: Vector,
    /// Everything that is free goes now.
    pub everything: bool,
    /// Whether what is not free may go: not before the other sites were heard, or had time to be.
    pub may_force: bool,
}

/// What goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The last LSN that goes, of each stream of which something goes.
    pub through: BTreeMap<StreamId, Lsn>,
    /// Segments that go.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these, the bytes that some enrolled site still lacks.
    pub forced_bytes: u64,
}

impl Plan {
    /// Whether nothing goes.
    pub fn is_empty(&self) -> bool {
        self.through.is_empty()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Free,
    Forced,
}

/// A walk along the fronts of all streams.
struct Fronts<'a> {
    now: &'a Situation,
    next: BTreeMap<StreamId, usize>,
    left_bytes: u64,
    plan: Plan,
}

impl<'a> Fronts<'a> {
    /// The first segment of `stream` that is left, and whether it is free; `None` if it stays.
    fn front(&self, stream: StreamId) -> Option<(&'a Piece, Kind)> {
        let index = self.next.get(&stream).copied().unwrap_or(0);
        let piece = self.now.pieces.get(&stream)?.get(index)?;
        if piece.stays || piece.last > self.now.applied.get(stream) {
            return None;
        }
        let free = piece.last <= self.now.shared.get(stream);
        Some((piece, if free { Kind::Free } else { Kind::Forced }))
    }

    fn take(&mut self, stream: StreamId, piece: &Piece, kind: Kind) {
        *self.next.entry(stream).or_insert(0) += 1;
        self.left_bytes = self.left_bytes.saturating_sub(piece.bytes);
        self.plan.through.insert(stream, piece.last);
        self.plan.segments += 1;
        self.plan.bytes += piece.bytes;
        if kind == Kind::Forced {
            self.plan.forced_bytes += piece.bytes;
        }
    }

    /// The stream whose front is of `kind` and oldest.
    fn oldest(&self, kind: Kind) -> Option<(StreamId, &'a Piece)> {
        let fronts = self.now.pieces.keys().filter_map(|stream| Some((*stream, self.front(*stream)?)));
        let fronts = fronts.filter(|(_, (_, is))| *is == kind).map(|(stream, (piece, _))| (stream, piece));
        fronts.max_by_key(|(_, piece)| piece.age_s)
    }
}

/// Decides what goes.
pub fn plan(now: &Situation, budget: Budget) -> Plan {
    let bytes: u64 = now.pieces.values().flatten().map(|piece| piece.bytes).sum();
    let left_bytes = bytes + now.other_bytes;
    let mut fronts = Fronts { now, next: BTreeMap::new(), left_bytes, plan: Plan::default() };
    for stream in now.pieces.keys() {
        while let Some((piece, kind)) = fronts.front(*stream) {
            let old = piece.age_s > budget.age_s;
            let goes = match kind {
                Kind::Free => old || now.everything,
                // Age alone never takes the only copy of an entry.
                Kind::Forced => old && now.may_force && piece.last <= now.copied.get(*stream),
            };
            if !goes {
                break;
            }
            fronts.take(*stream, piece, kind);
        }
    }
    while fronts.left_bytes > budget.bytes {
        if let Some((stream, piece)) = fronts.oldest(Kind::Free) {
            fronts.take(stream, piece, Kind::Free);
        } else if let Some((stream, piece)) = fronts.oldest(Kind::Forced).filter(|_| now.may_force) {
            fronts.take(stream, piece, Kind::Forced);
        } else {
            break;
        }
    }
    fronts.plan
}

/// What is past the budget, whether it may go or not; what is being written does not count.
pub fn past(now: &Situation, budget: Budget) -> Plan {
    let ends: Vector = now.pieces.iter().filter_map(|(stream, pieces)| Some((*stream, pieces.last()?.last))).collect();
    let free = Situation { applied: ends.clone(), shared: ends, everything: false, ..now.clone() };
    plan(&free, budget)
}

/// Bytes of `pieces` after `cursor`; within a segment, entries count as equally large.
pub fn bytes_after(pieces: &[Piece], cursor: Lsn) -> u64 {
    let after = |piece: &Piece| {
        let entries = piece.last.0.saturating_sub(piece.first.0) + 1;
        let missing = piece.last.0.saturating_sub(cursor.0).min(entries);
        u64::try_from(u128::from(piece.bytes) * u128::from(missing) / u128::from(entries)).unwrap_or(piece.bytes)
    };
    pieces.iter().map(after).sum()
}

/// How the bytes that a site lacks have grown of late.
#[derive(Debug, Clone, Default)]
pub struct Growth {
    /// (when, bytes), oldest first.
    points: std::collections::VecDeque<(u64, u64)>,
}

/// Growth is that of this time.
const WINDOW_MS: u64 = 300_000;
/// Points are at least so far apart.
const STEP_MS: u64 = 5_000;

impl Growth {
    /// Takes a point.
    pub fn saw(&mut self, now_ms: u64, bytes: u64) {
        let newest = self.points.back().map(|(at_ms, _)| *at_ms);
        if newest.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < STEP_MS) {
            return;
        }
        self.points.push_back((now_ms, bytes));
        while self.points.front().is_some_and(|(at_ms, _)| now_ms.saturating_sub(*at_ms) > WINDOW_MS) {
            self.points.pop_front();
        }
    }

    /// Bytes a second; 0 if it shrinks, or if there is no telling yet.
    pub fn bytes_per_s(&self) -> f64 {
        match (self.points.front(), self.points.back()) {
            (Some((from_ms, from)), Some((to_ms, to))) if to_ms > from_ms => {
                to.saturating_sub(*from) as f64 * 1000.0 / (to_ms - from_ms) as f64
            }
            _ => 0.0,
        }
    }
}

/// Seconds until the budget is exhausted by `used` bytes that grow by `bytes_per_s`; `None`: not in sight.
pub fn exhausted_in_s(budget_bytes: u64, used: u64, bytes_per_s: f64) -> Option<u64> {
    if used >= budget_bytes {
        return Some(0);
    }
    (bytes_per_s > 0.0).then(|| ((budget_bytes - used) as f64 / bytes_per_s) as u64)
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
