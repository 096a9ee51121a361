//! The producer as its callers see it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use cfs_model::op::Op;
use cfs_model::{Epoch, Lsn, StreamId};
use cfs_rpc::v1::RoleState;
use cfs_shipper_core::caps::{MAX_ENTRY_BYTES, MAX_PRODUCER_BYTES};
use prost::Message;
use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::JoinHandle;

use crate::append::{Append, Permit};
use crate::driver::Driver;
use crate::error::{Error, Fatal};
use crate::options::{Options, Target};
use crate::route::Route;
use crate::shared::Shared;

/// Entries that `append_all` queues at a time, so that a long list does not need all the room at once.
const CHUNK_ENTRIES: usize = 1024;

/// An acknowledgement: everything up to `seq` is as durable as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// Highest sequence number acknowledged.
    pub seq: u64,
    /// The stream that holds it, and where. Entries before it are at lower positions, or in an older stream.
    pub stream: StreamId,
    /// Position of entry `seq`; [`Lsn::ZERO`] when an older stream holds it.
    pub lsn: Lsn,
    /// The epoch in which the site acknowledged.
    pub epoch: Epoch,
    /// When the acknowledgement arrived.
    pub received: Instant,
}

/// Appends entries to the journal in the order of the calls.
///
/// Dropping it ends the connection at once; what was not acknowledged is unknown then. Call [`Producer::flush`] first.
/// All methods take `&self`: share it in an [`Arc`].
pub struct Producer {
    shared: Arc<Shared>,
    options: Options,
    first_seq: u64,
    driver: JoinHandle<()>,
}

impl Producer {
    /// Connects as the producer `name`, which must be this process's alone and stay the same when it starts again:
    /// under it the journal remembers how far this producer came. Returns once a site takes appends. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// What no further attempt would change; and [`Fatal::GaveUp`] after [`Options::give_up_after`].
    pub async fn connect(target: Target, name: &str, mut options: Options) -> Result<Self, Arc<Fatal>> {
        if name.is_empty() || name.len() > MAX_PRODUCER_BYTES {
            return Err(Arc::new(Fatal::Name(name.to_owned())));
        }
        options.max_bytes = options.max_bytes.max(MAX_ENTRY_BYTES);
        options.max_entries = options.max_entries.max(1);
        let route = Route::new(target, options.max_backoff).ok_or_else(|| Arc::new(Fatal::NoAddress))?;
        let shared = Arc::new(Shared::new(&options));
        let (ready, begun) = oneshot::channel();
        let driver = Driver::new(shared.clone(), route, name.to_owned(), options.clone(), ready);
        let driver = tokio::spawn(driver.run());
        match begun.await {
            Ok(first_seq) => Ok(Self { shared, options, first_seq, driver }),
            Err(_) => Err(shared.lock().failure().cloned().unwrap_or_else(|| Arc::new(Fatal::Closed))),
        }
    }

    /// The sequence number of the first entry appended through this producer. Entry after entry counts up by one;
    /// a refused one does not count.
    pub const fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// Waits for room and appends an operation. The future that it returns ends when it is durable.
    ///
    /// # Errors
    /// As [`Producer::append_encoded`].
    pub async fn append(&self, op: &Op) -> Result<Append, Error> {
        self.append_encoded(op.encode_to_vec().into()).await
    }

    /// Waits for room and appends an encoded [`Op`], which is stored byte for byte. Cancelling the wait appends
    /// nothing.
    ///
    /// # Errors
    /// [`Error::TooLong`] hands the entry back; [`Error::NotAppended`] when the producer has ended.
    pub async fn append_encoded(&self, entry: Bytes) -> Result<Append, Error> {
        if entry.len() > MAX_ENTRY_BYTES {
            return Err(Error::TooLong { entry });
        }
        let length = entry.len();
        self.shared.reserve(1, length).await?;
        let pushed = self.shared.push(std::iter::once(entry));
        let range = pushed.inspect_err(|_| self.shared.release(1, length))?;
        Ok(Append::new(self.shared.clone(), range))
    }

    /// Waits for room, as it goes along, and appends encoded [`Op`]s in this order; the cheapest way to append many.
    /// The future ends when the last one is durable, or with the first refusal; further ones are left to
    /// [`Producer::flush`]. Cancelling the wait may leave a part appended.
    ///
    /// # Errors
    /// [`Error::TooLong`] hands the offending entry back and nothing was appended; [`Error::NotAppended`] when the producer
    /// has ended, for those that were left; [`Error::Empty`] when the list is.
    pub async fn append_all(&self, entries: Vec<Bytes>) -> Result<Append, Error> {
        if let Some(entry) = entries.iter().find(|entry| entry.len() > MAX_ENTRY_BYTES) {
            return Err(Error::TooLong { entry: entry.clone() });
        }
        let mut append: Option<Append> = None;
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let (chunk, bytes) = self.next_chunk(&mut entries);
            let count = chunk.len();
            self.shared.reserve(count, bytes).await?;
            let range = self.shared.push(chunk.into_iter());
            let range = range.inspect_err(|_| self.shared.release(count, bytes))?;
            match &mut append {
                Some(append) => append.extend(range),
                None => append = Some(Append::new(self.shared.clone(), range)),
            }
        }
        append.ok_or(Error::Empty)
    }

    fn next_chunk(&self, entries: &mut std::iter::Peekable<std::vec::IntoIter<Bytes>>) -> (Vec<Bytes>, usize) {
        let most = CHUNK_ENTRIES.min(self.options.max_entries);
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while chunk.len() < most {
            match entries.next_if(|next| chunk.is_empty() || bytes + next.len() <= self.options.max_bytes / 4) {
                Some(entry) => {
                    bytes += entry.len();
                    chunk.push(entry);
                }
                None => break,
            }
        }
        (chunk, bytes)
    }

    /// Waits for room for `entries` entries of `bytes` bytes together (at most what [`Options`] allow in flight), with
    /// which they are then appended without waiting.
    ///
    /// # Errors
    /// [`Error::NotAppended`] when the producer has ended; [`Error::PermitTooLarge`] when the room can never come free.
    pub async fn reserve(&self, entries: usize, bytes: usize) -> Result<Permit, Error> {
        if entries > self.options.max_entries || bytes > self.options.max_bytes {
            let (max_entries, max_bytes) = (self.options.max_entries, self.options.max_bytes);
            return Err(Error::PermitTooLarge { entries, bytes, max_entries, max_bytes });
        }
        self.shared.reserve(entries, bytes).await?;
        Ok(Permit::new(self.shared.clone(), entries, bytes))
    }

    /// Waits until everything appended so far is as durable as asked; the last acknowledgement, `None` if nothing ever
    /// was.
    ///
    /// # Errors
    /// The first refusal of an entry whose [`Append`] was dropped; call again for the next. Otherwise why the producer
    /// ended.
    pub async fn flush(&self) -> Result<Option<Ack>, Error> {
        let last = self.shared.lock().last_ticket();
        let mut waiter = Waiter { shared: &self.shared, last, number: 0 };
        poll_fn(|context| {
            let mut in_flight = waiter.shared.lock();
            match in_flight.flushed(last) {
                Some(outcome) => Poll::Ready(outcome),
                None => {
                    in_flight.wait(last, &mut waiter.number, context.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Who may append: the state now, and each change. It says what the shipper last said; while the connection is
    /// broken, that is old.
    pub fn watch_role(&self) -> watch::Receiver<RoleState> {
        self.shared.role.subscribe()
    }

    /// How often an entry was sent once more, because a session ended before it was acknowledged. It is in the journal once.
    pub fn resent(&self) -> u64 {
        self.shared.lock().resent()
    }

    /// Every acknowledgement from now on. A reader that falls 4096 behind misses the oldest, which later ones cover.
    pub fn acks(&self) -> broadcast::Receiver<Ack> {
        self.shared.acks.subscribe()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.driver.abort();
        self.shared.fail(Fatal::Closed);
    }
}

/// A place among those who wait, given up when dropped.
struct Waiter<'a> {
    shared: &'a Shared,
    last: u64,
    number: u64,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.number != 0 {
            self.shared.lock().forget_waiter(self.last, self.number);
        }
    }
}
