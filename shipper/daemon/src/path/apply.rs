//! Applying: what is durable goes from the journal to the store, in causal order. The same way at the origin, at a
//! replica and after a restart, which is why a restart needs no code of its own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cfs_audit::{Event, Kind, Severity};
use cfs_journal::Reader;
use cfs_model::{Lsn, StreamId, Vector};
use cfs_shipper_core::batch::Batch;
use cfs_shipper_core::caps::{MAX_TRANSACTION_BYTES, MAX_TRANSACTION_ENTRIES};
use cfs_shipper_core::pending::{self, Next};
use cfs_store::apply::{self, Decoded};

use crate::node::Node;

/// Bytes of batches read from one stream at a time.
const READ_BYTES: usize = 1024 * 1024;
/// After a failure, and to take up streams that appeared.
const PAUSE: Duration = Duration::from_millis(250);
/// A site that is being enrolled rests after each transaction as long as that took, at most this.
const MAX_REST: Duration = Duration::from_millis(50);
/// A transaction begins so long after the one before it began, unless that one was [full](FULL). Each costs syncs of the disk
/// that the journal waits for as well, and writes every page of the store that it touches: fewer and larger ones cost less.
const INTERVAL: Duration = Duration::from_millis(20);
/// After a transaction of so many entries more of them wait, and nothing is gained by waiting.
const FULL: usize = MAX_TRANSACTION_ENTRIES / 2;

/// Runs for as long as the process lives. Blocks: give it a thread of its own.
pub(crate) async fn apply_all(node: Arc<Node>) {
    let mut durable = node.signals.durable.subscribe();
    let mut apply = Apply { node: node.clone(), feeds: BTreeMap::new() };
    loop {
        let turn = node.applying.lock().await;
        let began_ns = node.boot_ns();
        let step = apply.step();
        drop(turn);
        match step {
            Step::Progress { entries } => {
                let took = Duration::from_nanos(node.boot_ns() - began_ns);
                tokio::time::sleep(rest(took, entries, node.bootstrap.is_under_way())).await;
            }
            Step::Nothing => tokio::select! {
                () = durable.changed() => {}
                () = tokio::time::sleep(PAUSE) => {}
            },
            Step::Failed => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// How long to wait after a transaction that `took` so long. Nobody waits for a site that is being enrolled, and somebody may
/// for what runs beside it.
fn rest(took: Duration, entries: usize, enrolling: bool) -> Duration {
    let gathers = if entries < FULL { INTERVAL.saturating_sub(took) } else { Duration::ZERO };
    let gives_way = if enrolling { took.min(MAX_REST) } else { Duration::ZERO };
    gathers.max(gives_way)
}

enum Step {
    Progress { entries: usize },
    Nothing,
    Failed,
}

struct Apply {
    node: Arc<Node>,
    feeds: BTreeMap<StreamId, Feed>,
}

/// One stream on its way to the store.
struct Feed {
    reader: Reader,
    batches: VecDeque<Batch>,
}

impl Apply {
    fn step(&mut self) -> Step {
        if self.node.bootstrap.is_copying() {
            // The store is another one afterwards.
            self.feeds.clear();
            return Step::Nothing;
        }
        if let Err(stream) = self.read() {
            self.feeds.remove(&stream);
            return Step::Failed;
        }
        let transaction = self.choose();
        if transaction.is_empty() {
            return Step::Nothing;
        }
        self.commit(&transaction)
    }

    /// Fills the feeds that ran dry.
    fn read(&mut self) -> Result<(), StreamId> {
        let applied = self.node.store.position().applied;
        for stream in self.node.journal.streams() {
            self.catch_up_with_the_store(stream, applied.get(stream));
            let cursor = self.node.positions.cursor(stream);
            let feed = match self.feeds.get_mut(&stream) {
                Some(feed) => feed,
                None if cursor.durable() <= applied.get(stream) => continue,
                None => {
                    let reader = self.node.journal.reader(stream, applied.get(stream)).map_err(|error| {
                        self.unreadable(stream, &error);
                        stream
                    })?;
                    self.feeds.entry(stream).or_insert(Feed { reader, batches: VecDeque::new() })
                }
            };
            if feed.batches.is_empty() && cursor.durable() > cursor.applied() {
                match feed.reader.next(READ_BYTES) {
                    Ok(batches) => feed.batches.extend(batches),
                    Err(error) => {
                        self.unreadable(stream, &error);
                        return Err(stream);
                    }
                }
            }
        }
        Ok(())
    }

    /// A journal that lost its tail has less than the store, which applied it before. As the tail comes back, it counts
    /// as applied without being applied again.
    fn catch_up_with_the_store(&self, stream: StreamId, applied: Lsn) {
        let cursor = self.node.positions.cursor(stream);
        if cursor.applied() < applied.min(cursor.durable()) {
            self.node.positions.applied(stream, applied);
            self.node.signals.applied.bump();
        }
    }

    fn unreadable(&self, stream: StreamId, error: &dyn std::fmt::Display) {
        self.stuck(stream, "journal_read", format!("the journal's copy does not read: {error}"));
    }

    /// Says so once, not at every try.
    fn stuck(&self, stream: StreamId, kind: &'static str, why: String) {
        if self.node.positions.stuck(stream, why.clone()) {
            self.node.metrics.error(kind);
            let text = format!("ERROR: applying stream {stream} stopped: {why}");
            self.node.audit(Event::new(Kind::Corruption, Severity::Error, text).with("stream", stream.to_string()));
            tracing::error!(%stream, why, "applying stopped; it is tried again");
        }
    }

    /// Takes batches whose vectors are covered, as many as one transaction holds.
    fn choose(&mut self) -> Vec<Batch> {
        let mut applied: Vector = self.node.store.position().applied;
        let (mut entries, mut bytes) = (0, 0);
        let mut chosen: Vec<Batch> = Vec::new();
        loop {
            let before = chosen.len();
            for (stream, feed) in &mut self.feeds {
                while let Some(batch) = feed.batches.front() {
                    let header = batch.header();
                    let next = Next { stream: *stream, vector: header.vector.as_ref() };
                    if let Err(waiting) = pending::ready(&next, &applied) {
                        let why = format!("waits for {} up to {}", waiting.on, waiting.until);
                        self.node.positions.stuck(*stream, why);
                        break;
                    }
                    entries += header.count as usize;
                    bytes += header.raw_len as usize;
                    if !chosen.is_empty() && (entries > MAX_TRANSACTION_ENTRIES || bytes > MAX_TRANSACTION_BYTES) {
                        return chosen;
                    }
                    applied.advance(*stream, header.last_lsn());
                    chosen.extend(feed.batches.pop_front());
                }
            }
            if chosen.len() == before {
                return chosen;
            }
        }
    }

    fn commit(&mut self, transaction: &[Batch]) -> Step {
        let started_ns = self.node.boot_ns();
        let decoded: Result<Vec<Decoded>, _> = transaction.iter().map(decode).collect();
        let outcome = decoded.map_err(|(stream, error)| (Some(stream), error.to_string()));
        self.node.audit.about_to_apply(&self.node, transaction);
        let outcome =
            outcome.and_then(|decoded| self.node.store.apply(&decoded).map_err(|error| (None, reason(&error))));
        match outcome {
            Ok(applied) => {
                for batch in transaction {
                    self.node.positions.applied(batch.header().stream, batch.header().last_lsn());
                }
                self.node.audit.applied(&self.node, transaction, &applied);
                for lost in &applied.conflicts {
                    tracing::warn!(register = ?lost.key.register, stamp = %lost.version.stamp, "CONFLICT: a write lost a merge");
                }
                let took_ns = self.node.boot_ns() - started_ns;
                self.node.metrics.applied(transaction, &applied, took_ns);
                if let Some(last) = transaction.last().map(Batch::header) {
                    let (batches, conflicts, took_us) = (transaction.len(), applied.conflicts.len(), took_ns / 1000);
                    let (stream, end) = (last.stream, last.last_lsn());
                    tracing::debug!(batches, %stream, %end, conflicts, took_us, "applied");
                }
                self.node.signals.applied.bump();
                Step::Progress { entries: transaction.iter().map(|batch| batch.header().count as usize).sum() }
            }
            Err((culprit, why)) => {
                for stream in transaction.iter().map(|batch| batch.header().stream) {
                    if culprit.is_none_or(|culprit| culprit == stream) {
                        self.stuck(stream, "apply", why.clone());
                    }
                }
                // The readers are past these batches: start again from the store's cursor.
                self.feeds.clear();
                Step::Failed
            }
        }
    }
}

fn decode(batch: &Batch) -> Result<Decoded, (StreamId, cfs_shipper_core::batch::Error)> {
    let header = batch.header().clone();
    let payload = batch.decompress().map_err(|error| (header.stream, error))?;
    Ok(Decoded { header, chain_after: batch.chain_after(), payload })
}

fn reason(error: &apply::Error) -> String {
    format!("the store refuses it: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_transactions_leave_time_for_more_to_gather() {
        let ms = Duration::from_millis;
        assert_eq!(rest(ms(3), 10, false), ms(17));
        assert_eq!(rest(ms(30), 10, false), ms(0), "it took its time");
        assert_eq!(rest(ms(3), FULL, false), ms(0), "more wait already");
        assert_eq!(rest(ms(3), FULL, true), ms(3));
        assert_eq!(rest(ms(900), FULL, true), MAX_REST);
    }
}
