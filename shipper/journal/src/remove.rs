//! Removing what is no longer needed: whole segments, from the front of a stream.
//!
//! First it is made durable where the stream begins from now on, then the files go, in any order: a crash in between
//! leaves files before the front, which recovery removes.

use std::io;
use std::path::PathBuf;
use std::sync::PoisonError;

use cfs_model::{Lsn, StreamId};
use cfs_shipper_core::batch::ChainHash;

use crate::front::{self, Failed};
use crate::journal::Journal;
use crate::stream::{Position, Segment, Stream};

/// Why nothing, or not all, was removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream is not held here.
    #[error("stream {0} is not in this journal")]
    UnknownStream(StreamId),
    /// It is being written; nothing was changed.
    #[error("stream {0} has a writer")]
    Written(StreamId),
    /// It holds what the new beginning would contradict; nothing was changed.
    #[error(
        "stream {stream} ends at LSN {durable} here, with another history than the beginning after {after} that was named"
    )]
    Contradicts {
        /// The stream.
        stream: StreamId,
        /// Where it ends.
        durable: Lsn,
        /// The LSN after which it was to begin.
        after: Lsn,
    },
    /// The operating system refused something; the stream is as before.
    #[error("cannot say in {} where stream {stream} begins: {source}", path.display())]
    Refused {
        /// The stream.
        stream: StreamId,
        /// Its directory.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// What is on disk is known only after a restart: end the process, never try again.
    #[error("cannot make durable in {} where stream {stream} begins: {source}; restart once the disk is in order", path.display())]
    Fatal {
        /// The stream.
        stream: StreamId,
        /// Its directory.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The stream begins later by now, but files before its beginning are still on disk; the next start removes them.
    #[error("cannot remove {}: {source}; it is tried again at the next start", path.display())]
    Left {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}

impl Error {
    /// Whether the disk, or the quota, is full.
    pub fn is_full(&self) -> bool {
        let Self::Refused { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Segments.
    pub segments: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

/// A segment, as [`Journal::segments`] lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// First LSN.
    pub first: Lsn,
    /// Last durable LSN.
    pub last: Lsn,
    /// Bytes of the file.
    pub bytes: u64,
    /// Clock of its newest entry, or a little later: nanoseconds since the Unix epoch, by its writer.
    pub newest_clock: u64,
    /// Whether it is the last one, which [`Journal::remove_front`] keeps.
    pub is_last: bool,
}

impl Journal {
    /// The segments of a stream, in order. Answered from memory.
    pub fn segments(&self, stream: StreamId) -> Vec<SegmentInfo> {
        let Some(held) = self.stream(stream) else { return Vec::new() };
        let state = held.state();
        let all = &state.segments;
        let next = |i: usize| all.get(i + 1);
        let info = |(i, s): (usize, &Segment)| SegmentInfo {
            first: s.header.first_lsn,
            last: next(i).map_or(state.position.durable, |n| Lsn(n.header.first_lsn.0 - 1)),
            bytes: next(i).map_or(state.last_file_bytes.max(s.bytes), |_| s.bytes),
            newest_clock: next(i).map_or(state.position.clock, |n| n.first_clock),
            is_last: next(i).is_none(),
        };
        all.iter().enumerate().map(info).collect()
    }

    /// First LSN that is held of `stream`, or that will be; `None` if it is not held. Below it, what readers ask for is
    /// [`Gone`](crate::read::Error::Gone).
    pub fn first(&self, stream: StreamId) -> Option<Lsn> {
        Some(self.stream(stream)?.state().first_lsn())
    }

    /// Removes the segments at the front of `stream` that hold nothing after `through`, but never the last one. Readers
    /// that stand in them are told so at their next read. On success they are off the disk for good. Blocks.
    pub fn remove_front(&self, stream: StreamId, through: Lsn) -> Result<Removed, Error> {
        let held = self.stream(stream).ok_or(Error::UnknownStream(stream))?;
        let _one_at_a_time = held.removal.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = {
            let state = held.state();
            let goes = |s: &Segment| s.header.first_lsn.0 <= through.0.saturating_add(1);
            let index = state.segments.partition_point(goes).saturating_sub(1);
            match state.segments.get(index) {
                Some(kept) if index > 0 => *kept,
                _ => return Ok(Removed::default()),
            }
        };
        // Epoch and clock are those of a batch that nobody asks for while a later one is held.
        let front =
            Position { durable: Lsn(kept.header.first_lsn.0 - 1), chain: kept.header.chain, ..front::origin(stream) };
        self.move_front(&held, front)
    }

    /// Makes `stream` begin after `position`, whose chain and epoch the next batch continues: everything held of it
    /// goes, the last segment too. Makes the stream if it is new. `position` must be the stream's end here or lie past
    /// it; what lies between is then not held by this journal. Durable on success. Blocks.
    ///
    /// With the stream's own end this gives up a closed stream without forgetting where it ended; with a later position it
    /// is how a journal goes on behind a snapshot.
    pub fn begin_after(&self, stream: StreamId, position: Position) -> Result<Removed, Error> {
        let held = match self.stream(stream) {
            Some(held) => held,
            None => self.create(stream).map_err(|e| Error::Refused {
                stream,
                path: self.shared.dir.clone(),
                source: io::Error::other(e),
            })?,
        };
        let _one_at_a_time = held.removal.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut state = held.state();
            let Position { durable, chain, .. } = state.position;
            if position.durable < durable || (position.durable == durable && position.chain != chain) {
                return Err(Error::Contradicts { stream, durable, after: position.durable });
            }
            if position.durable == Lsn::ZERO && position.chain != ChainHash::start(stream) {
                return Err(Error::Contradicts { stream, durable, after: position.durable });
            }
            if state.written {
                return Err(Error::Written(stream));
            }
            // Nobody writes meanwhile.
            state.written = true;
        }
        let outcome = self.move_front(&held, position);
        held.state().written = false;
        outcome
    }

    fn move_front(&self, held: &Stream, front: Position) -> Result<Removed, Error> {
        let (stream, path) = (held.id, held.dir.clone());
        let files = &*self.shared.files;
        front::write(files, &held.dir, stream, &front).map_err(|failed| match failed {
            Failed::Before(source) => Error::Refused { stream, path: path.clone(), source },
            Failed::Unknown(source) => Error::Fatal { stream, path: path.clone(), source },
        })?;
        let gone = held.state().begin_after(front);
        let mut removed = Removed::default();
        for (first, bytes) in gone {
            let path = held.segment_path(first);
            files.remove(&path).map_err(|source| Error::Left { path, source })?;
            removed.segments += 1;
            removed.bytes += bytes;
        }
        files.sync_dir(&held.dir).map_err(|source| Error::Fatal { stream, path, source })?;
        Ok(removed)
    }
}
