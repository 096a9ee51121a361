//! How far this site is in every stream: the one place where cursors move.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cfs_model::{Lsn, SiteId, StreamId, Vector};
use cfs_shipper_core::cursor::Cursor;
use cfs_shipper_core::lag::Timeline;

/// One stream at this site.
#[derive(Debug)]
pub(crate) struct Position {
    pub(crate) cursor: Cursor,
    /// What is known to exist of the stream, here or elsewhere, and since when.
    pub(crate) known: Timeline,
    /// How far each other site that spoke of the stream says that it holds it.
    claims: BTreeMap<SiteId, Lsn>,
    /// Vectors of durable batches that are not durably covered yet, with the batch's first LSN.
    uncovered: VecDeque<(Lsn, Vector)>,
    /// Why it does not move, if it should and does not.
    pub(crate) stuck: Option<String>,
}

impl Position {
    /// How far this site reports the stream as durable: a batch counts once its vector is durably covered too.
    fn reportable(&self) -> Lsn {
        match self.uncovered.front() {
            Some((first, _)) => Lsn(first.0 - 1),
            None => self.cursor.durable(),
        }
    }

    /// The stream reaches as far as this site holds it, or another says that it does.
    fn reckon(&mut self, now_ms: u64) {
        let claimed = self.claims.values().copied().max().unwrap_or_default();
        let end = claimed.max(self.cursor.durable());
        self.known.retreat(end);
        self.known.advance(end, now_ms);
    }
}

/// The positions of all streams.
#[derive(Debug, Default)]
pub(crate) struct Positions(Mutex<BTreeMap<StreamId, Position>>);

impl Positions {
    /// The table; hold it only for look-ups and small changes.
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<StreamId, Position>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up a stream as found on disk at a start.
    pub(crate) fn restore(&self, stream: StreamId, applied: Lsn, durable: Lsn) {
        let position = Position {
            cursor: Cursor::restored(applied, durable),
            known: Timeline::new(durable),
            claims: BTreeMap::new(),
            uncovered: VecDeque::new(),
            stuck: None,
        };
        self.lock().insert(stream, position);
    }

    /// Batches of `stream` are on stable storage up to `durable`; `vectors` are those that they carry.
    pub(crate) fn persisted(
        &self,
        stream: StreamId,
        durable: Lsn,
        vectors: impl IntoIterator<Item = (Lsn, Vector)>,
        now_ms: u64,
    ) {
        let mut table = self.lock();
        let position = table.entry(stream).or_insert_with(fresh);
        position.cursor.receive(durable);
        position.cursor.persist(durable);
        position.reckon(now_ms);
        position.uncovered.extend(vectors);
        cover(&mut table);
    }

    /// The store has committed `stream` up to `applied`.
    pub(crate) fn applied(&self, stream: StreamId, applied: Lsn) {
        let mut table = self.lock();
        if let Some(position) = table.get_mut(&stream) {
            position.cursor.apply(applied.min(position.cursor.durable()));
            position.stuck = None;
        }
    }

    /// `site` sent `stream` up to `end`.
    pub(crate) fn sent_by(&self, site: SiteId, stream: StreamId, end: Lsn, now_ms: u64) {
        let mut table = self.lock();
        let position = table.entry(stream).or_insert_with(fresh);
        let claim = position.claims.entry(site).or_default();
        *claim = end.max(*claim);
        position.reckon(now_ms);
    }

    /// `site` says how far it holds each stream, and it holds no other. What it claimed before and does not claim any more is
    /// not waited for, unless another site holds it: it may have been rebuilt, or was wrong.
    pub(crate) fn claimed(&self, site: SiteId, ends: &BTreeMap<StreamId, Lsn>, now_ms: u64) {
        let mut table = self.lock();
        for (stream, end) in ends {
            table.entry(*stream).or_insert_with(fresh).claims.insert(site, *end);
        }
        table.retain(|stream, position| {
            let withdrawn = !ends.contains_key(stream) && position.claims.remove(&site).is_some();
            position.reckon(now_ms);
            let nowhere = position.claims.is_empty() && position.cursor == Cursor::default();
            !(withdrawn && nowhere)
        });
    }

    /// Notes why a stream does not move; returns whether that is news.
    pub(crate) fn stuck(&self, stream: StreamId, why: String) -> bool {
        let mut table = self.lock();
        let position = table.entry(stream).or_insert_with(fresh);
        let news = position.stuck.as_ref() != Some(&why);
        position.stuck = Some(why);
        news
    }

    /// (reported durable, applied) of each stream.
    pub(crate) fn cursors(&self) -> Vec<(StreamId, Lsn, Lsn)> {
        let table = self.lock();
        table.iter().map(|(stream, p)| (*stream, p.reportable(), p.cursor.applied())).collect()
    }

    /// The cursor of one stream.
    pub(crate) fn cursor(&self, stream: StreamId) -> Cursor {
        self.lock().get(&stream).map(|position| position.cursor).unwrap_or_default()
    }

    /// Entries that are durable and not applied.
    pub(crate) fn pending_entries(&self) -> u64 {
        self.lock().values().map(|p| p.cursor.durable().0 - p.cursor.applied().0).sum()
    }

    /// Age in ms of the oldest entry that is known to exist and is not applied here.
    pub(crate) fn lag_ms(&self, now_ms: u64) -> u64 {
        self.lock().values().map(|p| p.known.age_ms(p.cursor.applied(), now_ms)).max().unwrap_or(0)
    }
}

fn fresh() -> Position {
    Position {
        cursor: Cursor::default(),
        known: Timeline::new(Lsn::ZERO),
        claims: BTreeMap::new(),
        uncovered: VecDeque::new(),
        stuck: None,
    }
}

/// Drops vectors that are durably covered by now, until nothing more changes: covering one may cover another.
fn cover(table: &mut BTreeMap<StreamId, Position>) {
    if table.values().all(|position| position.uncovered.is_empty()) {
        return;
    }
    loop {
        let reported: Vector = table.iter().map(|(stream, position)| (*stream, position.reportable())).collect();
        let mut changed = false;
        for (stream, position) in table.iter_mut() {
            while let Some((_, vector)) = position.uncovered.front() {
                if !vector.iter().all(|(of, lsn)| of == *stream || reported.covers_entry(of, lsn)) {
                    break;
                }
                position.uncovered.pop_front();
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use cfs_model::{Incarnation, SiteId};

    use super::*;

    fn reported(positions: &Positions, of: StreamId) -> Lsn {
        let cursors = positions.cursors();
        cursors.into_iter().find_map(|(stream, durable, _)| (stream == of).then_some(durable)).unwrap()
    }

    fn stream(site: u8) -> StreamId {
        StreamId { site: SiteId(site), incarnation: Incarnation(1) }
    }

    /// Invariant 4: what a durable ack promises includes what the entry's writer had seen.
    #[test]
    fn a_batch_is_reported_durable_once_its_vector_is() {
        let positions = Positions::default();
        let seen: Vector = [(stream(1), Lsn(5))].into_iter().collect();
        positions.persisted(stream(2), Lsn(3), [], 0);
        positions.persisted(stream(2), Lsn(7), [(Lsn(4), seen)], 0);
        assert_eq!(reported(&positions, stream(2)), Lsn(3));
        positions.persisted(stream(1), Lsn(4), [], 0);
        assert_eq!(reported(&positions, stream(2)), Lsn(3));
        positions.persisted(stream(1), Lsn(5), [], 0);
        assert_eq!(reported(&positions, stream(2)), Lsn(7));
    }

    #[test]
    fn lag_is_zero_when_all_that_is_known_is_applied() {
        let positions = Positions::default();
        positions.claimed(SiteId(2), &[(stream(1), Lsn(5))].into(), 100);
        assert_eq!(positions.lag_ms(350), 250);
        positions.persisted(stream(1), Lsn(5), [], 400);
        assert_eq!(positions.lag_ms(450), 350);
        positions.applied(stream(1), Lsn(5));
        assert_eq!(positions.lag_ms(900), 0);
    }

    #[test]
    fn what_its_claimant_claims_no_more_is_not_waited_for() {
        let positions = Positions::default();
        let known = |of: u8| positions.lock().get(&stream(of)).map(|position| position.known.end().0);
        positions.persisted(stream(1), Lsn(5), [], 0);
        positions.applied(stream(1), Lsn(5));
        positions.claimed(SiteId(2), &[(stream(1), Lsn(900)), (stream(9), Lsn(7))].into(), 100);
        positions.claimed(SiteId(3), &[(stream(1), Lsn(6))].into(), 200);
        assert_eq!((known(1), known(9), positions.lag_ms(300)), (Some(900), Some(7), 200));
        positions.claimed(SiteId(2), &[(stream(1), Lsn(4))].into(), 300);
        assert_eq!((known(1), known(9)), (Some(6), None), "the third site's claim stands");
        positions.claimed(SiteId(3), &BTreeMap::new(), 400);
        assert_eq!((known(1), positions.lag_ms(500)), (Some(5), 0), "what is held here stays");
        positions.sent_by(SiteId(2), stream(1), Lsn(8), 500);
        assert_eq!((known(1), positions.lag_ms(600)), (Some(8), 100));
    }
}
