//! One producer's share of a load.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cfs_client::{Ack, Append, Error, Producer};
use cfs_model::Lsn;
use futures::FutureExt;
use tokio::sync::mpsc::UnboundedSender;

use super::{Histogram, Template};

/// Entries of one append when there is no rate to keep.
const FULL_CHUNK: u64 = 512;
/// Appends are at least this far apart when there is a rate to keep: timers are no finer.
const TICK: Duration = Duration::from_millis(1);

/// Entries that were appended together, and acknowledged up to `lsn` or before.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// When their append began.
    pub at: Instant,
    /// Where the acknowledgement said that they are.
    pub lsn: Lsn,
    /// How many.
    pub count: u64,
}

/// What a producer is to append.
#[derive(Debug)]
pub struct Load {
    /// Makes the entries.
    pub template: Template,
    /// How many.
    pub entries: u64,
    /// How many in a second; `None`: as fast as it goes.
    pub rate: Option<f64>,
    /// When the first one is sent, so that producers take turns.
    pub delay: Duration,
}

/// Appends the load and reports what was acknowledged to `sent`. Returns how long acknowledgements took.
///
/// # Errors
/// The first refusal, or why the producer ended.
pub async fn run(producer: Arc<Producer>, mut load: Load, sent: UnboundedSender<Sent>) -> Result<Histogram, Error> {
    let mut pending = Pending { waiting: VecDeque::new(), latency: Histogram::default(), sent };
    let mut pace = Pace::new(load.rate, load.delay);
    let mut left = load.entries;
    while left > 0 {
        let count = pace.next(left).await;
        let entries = load.template.take(usize::try_from(count).unwrap_or(usize::MAX));
        let at = Instant::now();
        let append = producer.append_all(entries).await?;
        pending.waiting.push_back((append, at, count));
        left -= count;
        pending.collect_ready()?;
    }
    pending.collect_all().await
}

/// When how many entries are due.
pub(super) struct Pace {
    rate: Option<f64>,
    start: Instant,
    made: u64,
}

impl Pace {
    pub(super) fn new(rate: Option<f64>, delay: Duration) -> Self {
        Self { rate, start: Instant::now() + delay, made: 0 }
    }

    /// Waits until entries are due and says how many: at least one, at most `left`.
    pub(super) async fn next(&mut self, left: u64) -> u64 {
        let Some(rate) = self.rate else { return left.min(FULL_CHUNK) };
        let next_due = self.start + Duration::from_secs_f64((self.made + 1) as f64 / rate);
        let not_before = Instant::now() + TICK;
        if next_due > not_before - TICK {
            tokio::time::sleep_until(next_due.max(not_before).into()).await;
        }
        let due = (self.start.elapsed().as_secs_f64() * rate) as u64;
        // What is late is made up for, but never in one huge append.
        let count = due.saturating_sub(self.made).clamp(1, FULL_CHUNK).min(left);
        self.made += count;
        count
    }
}

/// Appends that were not acknowledged when last looked at.
struct Pending {
    waiting: VecDeque<(Append, Instant, u64)>,
    latency: Histogram,
    sent: UnboundedSender<Sent>,
}

impl Pending {
    fn collect_ready(&mut self) -> Result<(), Error> {
        while let Some((append, _, _)) = self.waiting.front_mut() {
            let Some(outcome) = append.now_or_never() else { break };
            self.collect(outcome?);
        }
        Ok(())
    }

    async fn collect_all(mut self) -> Result<Histogram, Error> {
        while let Some((append, _, _)) = self.waiting.front_mut() {
            let ack = append.await?;
            self.collect(ack);
        }
        Ok(self.latency)
    }

    fn collect(&mut self, ack: Ack) {
        if let Some((_, at, count)) = self.waiting.pop_front() {
            self.latency.record(ack.received.saturating_duration_since(at), count);
            // Nobody listens any more once the run has failed elsewhere.
            let _ = self.sent.send(Sent { at, lsn: ack.lsn, count });
        }
    }
}
