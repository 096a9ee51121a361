//! What a caller holds of its entries: room for them, and the future of their acknowledgement.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cfs_model::op::Op;
use prost::Message;

use crate::error::Error;
use crate::producer::Ack;
use crate::shared::Shared;

/// Ends when every entry that it stands for is as durable as asked, or with the error of the first that was refused.
///
/// Dropping it takes nothing back: the entries are appended all the same, and what is refused of them is reported by
/// the next [`Producer::flush`](crate::Producer::flush).
#[must_use = "the entry is on its way, but only this says whether it is durable"]
pub struct Append {
    shared: Arc<Shared>,
    first: u64,
    last: u64,
    /// Further tickets, when others appended in between.
    more: Vec<(u64, u64)>,
    waiter: u64,
    done: bool,
}

impl Append {
    pub(crate) fn new(shared: Arc<Shared>, (first, last): (u64, u64)) -> Self {
        Self { shared, first, last, more: Vec::new(), waiter: 0, done: false }
    }

    /// Also stands for these.
    pub(crate) fn extend(&mut self, (first, last): (u64, u64)) {
        let end = self.more.last_mut().map_or(&mut self.last, |(_, end)| end);
        if *end + 1 == first {
            *end = last;
        } else {
            self.more.push((first, last));
        }
    }

    fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        std::iter::once((self.first, self.last)).chain(self.more.iter().copied())
    }

    fn end(&self) -> u64 {
        self.more.last().map_or(self.last, |(_, end)| *end)
    }
}

impl Future for Append {
    type Output = Result<Ack, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let shared = this.shared.clone();
        let mut in_flight = shared.lock();
        let mut outcome = None;
        for (first, last) in this.ranges() {
            match in_flight.outcome(first, last) {
                Some(Err(error)) => {
                    outcome = Some(Err(error));
                    break;
                }
                Some(Ok(Some(ack))) => outcome = Some(Ok(ack)),
                Some(Ok(None)) | None => {
                    outcome = None;
                    break;
                }
            }
        }
        match outcome {
            Some(outcome) => {
                // An error leaves tickets behind that nobody looks at any more.
                this.done = outcome.is_ok();
                Poll::Ready(outcome)
            }
            None => {
                let end = this.end();
                in_flight.wait(end, &mut this.waiter, context.waker());
                Poll::Pending
            }
        }
    }
}

impl Drop for Append {
    fn drop(&mut self) {
        if self.done && self.waiter == 0 {
            return;
        }
        let mut in_flight = self.shared.lock();
        if self.waiter != 0 {
            in_flight.forget_waiter(self.end(), self.waiter);
        }
        if !self.done {
            for (first, last) in self.ranges() {
                in_flight.abandon(first, last);
            }
        }
    }
}

/// Room for entries: they are appended without waiting. What is not used goes back when it is dropped.
pub struct Permit {
    shared: Arc<Shared>,
    entries: usize,
    bytes: usize,
}

impl Permit {
    pub(crate) const fn new(shared: Arc<Shared>, entries: usize, bytes: usize) -> Self {
        Self { shared, entries, bytes }
    }

    /// Appends an operation. Does not wait.
    ///
    /// # Errors
    /// As [`Permit::append_encoded`].
    pub fn append(&mut self, op: &Op) -> Result<Append, Error> {
        self.append_encoded(op.encode_to_vec().into())
    }

    /// Appends an encoded [`Op`]. Does not wait.
    ///
    /// # Errors
    /// [`Error::PermitUsedUp`] hands the entry back; [`Error::NotAppended`] when the producer has ended.
    pub fn append_encoded(&mut self, entry: Bytes) -> Result<Append, Error> {
        if self.entries == 0 || self.bytes < entry.len() {
            return Err(Error::PermitUsedUp { entries: self.entries, bytes: self.bytes, entry });
        }
        let length = entry.len();
        let range = self.shared.push(std::iter::once(entry))?;
        self.entries -= 1;
        self.bytes -= length;
        Ok(Append::new(self.shared.clone(), range))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.release(self.entries, self.bytes);
    }
}
