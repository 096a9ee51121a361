//! The group's log and this node's vote, on disk.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader, StorageIOError};

use super::disk::{Disk, Failure};
use super::types::{Entry, LogId, StorageError, TypeConfig, Vote};

pub(super) const VOTE: &str = "vote";
pub(super) const PURGED: &str = "purged";
/// Bytes of entries that one message carries, about.
const MESSAGE_BYTES: usize = 2 * 1024 * 1024;

/// The log, and a reader of it. What it reports as written is on disk.
///
/// How far the log is known to be committed is not kept: the state machine's own place is, and it is on disk before it is
/// reported.
#[derive(Debug, Clone)]
pub struct LogStore {
    disk: Disk,
}

impl LogStore {
    /// The log in these files.
    pub fn new(disk: Disk) -> Self {
        Self { disk }
    }
}

fn read_failed(error: Failure) -> StorageError {
    StorageIOError::read_logs(&error).into()
}

fn write_failed(error: Failure) -> StorageError {
    StorageIOError::write_logs(&error).into()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.disk.read(move |reader| reader.entries(start, end, usize::MAX)).await.map_err(read_failed)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.disk.read(move |reader| reader.entries(start, end, MESSAGE_BYTES)).await.map_err(read_failed)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let read = self.disk.read(|reader| {
            let purged: Option<LogId> = reader.value(PURGED)?;
            let last = reader.last::<Entry>()?.map(|entry| entry.log_id);
            Ok(LogState { last_purged_log_id: purged, last_log_id: last.or(purged) })
        });
        read.await.map_err(read_failed)
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let written = self.disk.write(move |writer| writer.set(VOTE, &vote)).await;
        written.map_err(|error| StorageIOError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let read = self.disk.read(|reader| reader.value(VOTE)).await;
        read.map_err(|error| StorageIOError::read_vote(&error).into())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let write =
            self.disk.write(move |writer| entries.iter().try_for_each(|entry| writer.put(entry.log_id.index, entry)));
        write.await.map_err(write_failed)?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.disk.write(move |writer| writer.remove(log_id.index, u64::MAX)).await.map_err(write_failed)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let write = self.disk.write(move |writer| {
            writer.set(PURGED, &log_id)?;
            writer.remove(0, log_id.index.saturating_add(1))
        });
        write.await.map_err(write_failed)
    }
}
