//! Hands operations to the journal, many at a time, and counts what became of them.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use cfs_client::{Append, Error, Producer};
use cfs_model::op::{Op, StreamPosition};
use prost::Message;
use tokio::time::Instant;

use super::report::Summary;
use crate::op_json;

/// Operations handed over at a time.
const CHUNK: usize = 512;
/// Chunks whose acknowledgement may be outstanding.
const OUTSTANDING: usize = 64;
/// What a refused operation may take of a message.
const MAX_SHOWN: usize = 300;

/// Appends operations in the order in which it is given them.
pub struct Emitter {
    producer: Producer,
    outstanding: VecDeque<Append>,
    pace: Option<Pace>,
    position: Option<StreamPosition>,
    /// What was done so far.
    pub summary: Summary,
}

/// At most so many operations a second.
struct Pace {
    each: Duration,
    next: Instant,
}

impl Emitter {
    /// Appends through `producer`, at most `rate` operations a second.
    pub fn new(producer: Producer, rate: Option<u32>, summary: Summary) -> Self {
        let pace = rate.map(|rate| Pace { each: Duration::from_secs(1) / rate.max(1), next: Instant::now() });
        Self { producer, outstanding: VecDeque::new(), pace, position: None, summary }
    }

    /// Queues operations. Waits while too many are unacknowledged.
    ///
    /// # Errors
    /// When the journal cannot be appended to any more. A refused operation is none: it is counted as skipped.
    pub async fn emit(&mut self, ops: &[Op]) -> anyhow::Result<()> {
        let chunk = match &self.pace {
            // A tenth of a second's worth at a time, so that a slow rate is an even one.
            Some(pace) => usize::try_from(100_000_000 / pace.each.as_nanos().max(1)).unwrap_or(CHUNK).clamp(1, CHUNK),
            None => CHUNK,
        };
        for ops in ops.chunks(chunk) {
            if let Some(pace) = &mut self.pace {
                tokio::time::sleep_until(pace.next).await;
                pace.next = pace.next.max(Instant::now()) + pace.each * ops.len() as u32;
            }
            let entries: Vec<Bytes> = ops.iter().map(|op| op.encode_to_vec().into()).collect();
            self.summary.entries_appended += entries.len() as u64;
            match self.producer.append_all(entries).await {
                Ok(append) => self.outstanding.push_back(append),
                Err(error) => self.note(error)?,
            }
            while self.outstanding.len() > OUTSTANDING {
                self.settle_one().await?;
            }
        }
        Ok(())
    }

    /// Waits until everything is as durable as asked; the position of the last entry appended in this run, if any.
    ///
    /// # Errors
    /// As [`Emitter::emit`].
    pub async fn settle(&mut self) -> anyhow::Result<Option<StreamPosition>> {
        while !self.outstanding.is_empty() {
            self.settle_one().await?;
        }
        loop {
            match self.producer.flush().await {
                Ok(_) => return Ok(self.position),
                Err(error) => self.note(error)?,
            }
        }
    }

    async fn settle_one(&mut self) -> anyhow::Result<()> {
        let Some(append) = self.outstanding.pop_front() else { return Ok(()) };
        match append.await {
            Ok(ack) => {
                self.position = Some(StreamPosition::of(ack.stream, ack.lsn));
                Ok(())
            }
            Err(error) => self.note(error),
        }
    }

    /// Counts a refusal; anything else ends the import.
    fn note(&mut self, error: Error) -> anyhow::Result<()> {
        let (why, entry) = match error {
            Error::Invalid { why, entry } => (why, entry),
            Error::TooLong { ref entry } => (error.to_string(), entry.clone()),
            error => return Err(error).context("appending to the journal; run the import again to continue"),
        };
        self.summary.entries_appended -= 1;
        let shown = Op::decode(entry).map_or_else(|_| "an entry".to_owned(), |op| op_json::to_json(&op).to_string());
        let shown: String = shown.chars().take(MAX_SHOWN).collect();
        self.summary.skip(&format!("the shipper does not take {shown}: {why}"));
        Ok(())
    }
}
