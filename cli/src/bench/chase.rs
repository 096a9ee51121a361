//! One producer's share of a load that goes on wherever the primary moves.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cfs_client::{Ack, Append, Error, Producer};
use futures::FutureExt;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;

use super::load::Pace;
use super::{Histogram, Template};

/// What a producer is to append, and until when.
pub struct Chase {
    /// Makes the entries.
    pub template: Template,
    /// At most so many.
    pub entries: u64,
    /// How many in a second; `None`: as fast as it goes.
    pub rate: Option<f64>,
    /// When the first one is sent, so that producers take turns.
    pub delay: Duration,
    /// True: begin no more.
    pub stop: watch::Receiver<bool>,
    /// How long to wait for acknowledgements after the last append.
    pub patience: Duration,
    /// Of all producers.
    pub counts: Arc<Counts>,
}

/// How far all producers came.
#[derive(Debug, Default)]
pub struct Counts {
    /// Entries that were appended.
    pub appended: AtomicU64,
    /// Those of them that were acknowledged.
    pub acknowledged: AtomicU64,
}

/// Entries that were acknowledged.
#[derive(Debug)]
pub struct Acknowledged {
    /// How many of this load came before.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// What acknowledged them.
    pub ack: Ack,
}

/// What became of a load.
#[derive(Debug)]
pub struct Chased {
    /// How long acknowledgements took.
    pub latency: Histogram,
    /// Entries that were acknowledged.
    pub acknowledged: u64,
    /// Entries of which nobody knows.
    pub unknown: u64,
    /// Why the producer ended early.
    pub failure: Option<String>,
}

/// Appends the load and sends to `acknowledged` what was. Ends early when the producer does, or after the patience.
pub async fn run(producer: Arc<Producer>, mut load: Chase, acknowledged: Sender<Acknowledged>) -> Chased {
    let chased = Chased { latency: Histogram::default(), acknowledged: 0, unknown: 0, failure: None };
    let mut sent = Outstanding { waiting: VecDeque::new(), chased, acknowledged, counts: load.counts.clone() };
    let mut pace = Pace::new(load.rate, load.delay);
    let mut left = load.entries;
    while left > 0 && sent.chased.failure.is_none() {
        let count = tokio::select! {
            biased;
            _ = load.stop.wait_for(|stop| *stop) => break,
            count = pace.next(left) => count,
        };
        left -= count;
        let entries = load.template.take(usize::try_from(count).unwrap_or(usize::MAX));
        let at = Instant::now();
        load.counts.appended.fetch_add(count, Ordering::Relaxed);
        let mut appending = pin!(producer.append_all(entries));
        let append = tokio::select! {
            append = &mut appending => append,
            () = async { drop(load.stop.wait_for(|stop| *stop).await) } => match tokio::time::timeout(load.patience, appending).await {
                Ok(append) => append,
                // There was no room: nobody takes appends. A part may be on its way.
                Err(_) => {
                    sent.chased.unknown += count;
                    break;
                }
            },
        };
        match append {
            Ok(append) => sent.waiting.push_back((append, at, count)),
            Err(error) => sent.failed(&error, count),
        }
        sent.collect_ready().await;
    }
    sent.collect_all(tokio::time::Instant::now() + load.patience).await
}

/// Appends that were not acknowledged when last looked at.
struct Outstanding {
    waiting: VecDeque<(Append, Instant, u64)>,
    chased: Chased,
    acknowledged: Sender<Acknowledged>,
    counts: Arc<Counts>,
}

impl Outstanding {
    async fn collect_ready(&mut self) {
        while let Some(outcome) = self.waiting.front_mut().and_then(|(append, ..)| append.now_or_never()) {
            self.collect(outcome).await;
        }
    }

    async fn collect_all(mut self, deadline: tokio::time::Instant) -> Chased {
        while let Some((append, _, count)) = self.waiting.front_mut() {
            match tokio::time::timeout_at(deadline, append).await {
                Ok(outcome) => self.collect(outcome).await,
                Err(_) => {
                    self.chased.unknown += *count;
                    self.waiting.pop_front();
                }
            }
        }
        self.chased
    }

    async fn collect(&mut self, outcome: Result<Ack, Error>) {
        let Some((_, at, count)) = self.waiting.pop_front() else { return };
        match outcome {
            Ok(ack) => {
                self.chased.latency.record(ack.received.saturating_duration_since(at), count);
                self.counts.acknowledged.fetch_add(count, Ordering::Relaxed);
                let first = self.chased.acknowledged;
                self.chased.acknowledged += count;
                // Whoever listens has failed, and says so.
                let _ = self.acknowledged.send(Acknowledged { first, count, ack }).await;
            }
            Err(error) => self.failed(&error, count),
        }
    }

    fn failed(&mut self, error: &Error, count: u64) {
        self.chased.unknown += count;
        self.chased.failure.get_or_insert_with(|| error.to_string());
    }
}
