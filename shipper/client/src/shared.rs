//! What the callers and the task that talks to the shipper share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cfs_rpc::v1::RoleState;
use tokio::sync::{Notify, Semaphore, broadcast, watch};

use crate::error::{Error, Fatal};
use crate::in_flight::{InFlight, Settled};
use crate::options::Options;
use crate::producer::Ack;

/// Acks that a slow reader of them may be behind.
const ACKS_KEPT: usize = 4096;

pub(crate) struct Shared {
    in_flight: Mutex<InFlight>,
    room_for_entries: Semaphore,
    room_for_bytes: Semaphore,
    /// There is something to send.
    pub(crate) work: Notify,
    pub(crate) acks: broadcast::Sender<Ack>,
    pub(crate) role: watch::Sender<RoleState>,
    /// A site took hello, and its session goes on.
    pub(crate) in_session: AtomicBool,
    /// What the last attempt at a session ended with.
    interruption: Mutex<String>,
}

impl Shared {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            in_flight: Mutex::new(InFlight::new()),
            room_for_entries: Semaphore::new(options.max_entries),
            room_for_bytes: Semaphore::new(options.max_bytes),
            work: Notify::new(),
            acks: broadcast::channel(ACKS_KEPT).0,
            role: watch::channel(RoleState::default()).0,
            in_session: AtomicBool::new(false),
            interruption: Mutex::new("no site has answered yet".to_owned()),
        }
    }

    /// Never held across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, InFlight> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn interrupted(&self, why: String) {
        *self.interruption.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Why there is no session.
    pub(crate) fn interruption(&self) -> String {
        self.interruption.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for room; whoever takes it gives it back with [`Shared::settled`] or [`Shared::release`].
    pub(crate) async fn reserve(&self, entries: usize, bytes: usize) -> Result<(), Error> {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let of_entries = self.room_for_entries.acquire_many(count(entries)).await.map_err(|_| self.not_sent())?;
        let of_bytes = self.room_for_bytes.acquire_many(count(bytes)).await.map_err(|_| self.not_sent())?;
        of_entries.forget();
        of_bytes.forget();
        Ok(())
    }

    pub(crate) fn release(&self, entries: usize, bytes: usize) {
        self.room_for_entries.add_permits(entries);
        self.room_for_bytes.add_permits(bytes);
    }

    /// Queues entries for which there is room; the range of their tickets.
    pub(crate) fn push(&self, ops: impl Iterator<Item = Bytes>) -> Result<(u64, u64), Error> {
        let range = {
            let mut in_flight = self.lock();
            if let Some(why) = in_flight.failure() {
                return Err(Error::NotAppended(why.clone()));
            }
            let before = in_flight.last_ticket();
            for op in ops {
                in_flight.push(op);
            }
            (before + 1, in_flight.last_ticket())
        };
        self.work.notify_one();
        Ok(range)
    }

    /// Gives the room back and wakes who waited.
    pub(crate) fn settled(&self, settled: Settled) {
        self.release(settled.freed.entries, settled.freed.bytes);
        drop(settled.dropped);
        settled.wakers.into_iter().for_each(std::task::Waker::wake);
    }

    /// Ends the producer.
    pub(crate) fn fail(&self, why: Fatal) {
        let settled = self.lock().fail(Arc::new(why));
        self.room_for_entries.close();
        self.room_for_bytes.close();
        self.settled(settled);
    }

    fn not_sent(&self) -> Error {
        let why = self.lock().failure().cloned();
        Error::NotAppended(why.unwrap_or_else(|| Arc::new(Fatal::Closed)))
    }
}
