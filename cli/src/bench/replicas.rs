//! When replicas have applied what was sent, as the site that it was sent to hears from them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use cfs_model::{Lsn, StreamId};
use cfs_rpc::v1::{StatusReply, StreamCursor};
use tokio::sync::mpsc::UnboundedReceiver;
use tonic::Streaming;

use super::{Histogram, Sent};

/// A replica that does not move for so long, while entries wait for it, is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Moves of the cursor that are remembered for acknowledgements that are looked at late.
const MAX_MOVES: usize = 1 << 16;

/// Follows the replicas' cursors.
#[derive(Debug)]
pub struct Replicas {
    stream: StreamId,
    names: Vec<String>,
    /// (when heard, applied on every replica), ascending in both.
    moves: VecDeque<(Instant, Lsn)>,
    waiting: BinaryHeap<Reverse<(Lsn, Instant, u64)>>,
    lag: Histogram,
    last_lsn: Lsn,
}

/// What was seen.
#[derive(Debug)]
pub struct Outcome {
    /// From when entries were sent until the news came that every replica had applied them.
    pub lag: Histogram,
    /// When that news came for the last entry.
    pub finished: Instant,
}

impl Replicas {
    /// Follows `stream` at the sites `names`; if there are none, at the site that tells.
    pub fn new(stream: StreamId, names: Vec<String>) -> Self {
        let moves = VecDeque::new();
        let waiting = BinaryHeap::new();
        Self { stream, names, moves, waiting, lag: Histogram::default(), last_lsn: Lsn::ZERO }
    }

    /// Follows until every entry that `sent` yields before it closes is applied. `progress` is told how far.
    ///
    /// # Errors
    /// When the site stops telling, or a replica does not move for a minute.
    pub async fn follow(
        mut self,
        mut status: Streaming<StatusReply>,
        mut sent: UnboundedReceiver<Sent>,
        progress: impl Fn(Lsn),
    ) -> anyhow::Result<Outcome> {
        let mut sending = true;
        let mut moved_at = Instant::now();
        loop {
            tokio::select! {
                message = sent.recv(), if sending => match message {
                    Some(sent) => self.on_sent(sent),
                    None => sending = false,
                },
                reply = status.message() => {
                    let reply = reply?.ok_or_else(|| anyhow::anyhow!("the shipper stopped reporting cursors"))?;
                    if self.on_status(&reply, Instant::now()) {
                        moved_at = Instant::now();
                        progress(self.applied());
                    }
                }
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            if !sending && self.waiting.is_empty() {
                let finished = self.heard_of(self.last_lsn).unwrap_or_else(Instant::now);
                return Ok(Outcome { lag: self.lag, finished });
            }
            anyhow::ensure!(
                self.waiting.is_empty() || moved_at.elapsed() < PATIENCE,
                "{} did not get past LSN {} for {PATIENCE:?}; `cfs admin replication cursor status` there says why",
                if self.names.is_empty() { "the site".to_owned() } else { self.names.join(" or ") },
                self.applied()
            );
        }
    }

    fn applied(&self) -> Lsn {
        self.moves.back().map_or(Lsn::ZERO, |(_, lsn)| *lsn)
    }

    fn on_sent(&mut self, sent: Sent) {
        self.last_lsn = self.last_lsn.max(sent.lsn);
        match self.heard_of(sent.lsn) {
            Some(heard) => self.lag.record(heard.saturating_duration_since(sent.at), sent.count),
            None => self.waiting.push(Reverse((sent.lsn, sent.at, sent.count))),
        }
    }

    /// Takes note of a report; returns whether the slowest replica moved.
    fn on_status(&mut self, reply: &StatusReply, now: Instant) -> bool {
        let of = |cursors: &[StreamCursor]| {
            let same = |c: &&StreamCursor| {
                c.site == u32::from(self.stream.site.0) && c.incarnation == self.stream.incarnation.0
            };
            Lsn(cursors.iter().find(same).map_or(0, |c| c.applied))
        };
        let peer = |name: &String| reply.peers.iter().find(|p| p.site == *name).map_or(Lsn::ZERO, |p| of(&p.cursors));
        let applied = self.names.iter().map(peer).min().unwrap_or_else(|| of(&reply.cursors));
        if applied <= self.applied() {
            return false;
        }
        if self.moves.len() == MAX_MOVES {
            self.moves.pop_front();
        }
        self.moves.push_back((now, applied));
        while let Some(Reverse((lsn, at, count))) = self.waiting.peek().copied() {
            if lsn > applied {
                break;
            }
            self.waiting.pop();
            self.lag.record(now.saturating_duration_since(at), count);
        }
        true
    }

    /// When it was first heard that every replica had applied `lsn`.
    fn heard_of(&self, lsn: Lsn) -> Option<Instant> {
        let index = self.moves.partition_point(|(_, applied)| *applied < lsn);
        self.moves.get(index).map(|(heard, _)| *heard)
    }
}

#[cfg(test)]
mod tests {
    use cfs_model::{Incarnation, SiteId};
    use cfs_rpc::v1::PeerStatus;

    use super::*;

    fn report(b: u64, c: u64) -> StatusReply {
        let peer = |site: &str, applied| PeerStatus {
            site: site.to_owned(),
            cursors: vec![StreamCursor { site: 1, incarnation: 1, applied, ..StreamCursor::default() }],
            ..PeerStatus::default()
        };
        StatusReply { peers: vec![peer("b", b), peer("c", c)], ..StatusReply::default() }
    }

    #[test]
    fn the_slowest_replica_counts_also_for_late_acknowledgements() {
        let stream = StreamId { site: SiteId(1), incarnation: Incarnation(1) };
        let mut replicas = Replicas::new(stream, vec!["b".to_owned(), "c".to_owned()]);
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        replicas.on_sent(Sent { at: start, lsn: Lsn(10), count: 10 });
        assert!(replicas.on_status(&report(20, 9), after(5)), "c moved");
        assert_eq!(replicas.lag.count(), 0);
        assert!(replicas.on_status(&report(20, 12), after(10)));
        assert_eq!((replicas.lag.count(), replicas.lag.max_ms()), (10, Some(10.0)));
        assert!(!replicas.on_status(&report(25, 12), after(15)), "c did not move");
        // Heard of at 10 ms, acknowledged later.
        replicas.on_sent(Sent { at: after(8), lsn: Lsn(11), count: 1 });
        assert_eq!(replicas.lag.quantile_ms(0.01), Some(2.015), "2 ms, within a bucket");
        assert!(replicas.waiting.is_empty());
    }
}
