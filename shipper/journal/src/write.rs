//! Appending: checked, written, made durable by one sync, then published.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cfs_model::{Epoch, Lsn, StreamId};
use cfs_shipper_core::batch::{Batch, ChainHash};

use crate::current::{self, Current};
use crate::files::Files;
use crate::journal::Journal;
use crate::prepare::{self, Request};
use crate::segment::{HEADER_BYTES, SegmentHeader};
use crate::stream::{Position, Segment, Stream};
use crate::writer;

/// Why batches were not appended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// They do not continue the stream; nothing was written, and the writer goes on.
    #[error("batch {index} does not continue stream {stream} at LSN {durable}: {why}")]
    Refused {
        /// The stream.
        stream: StreamId,
        /// Where the stream ends.
        durable: Lsn,
        /// Which of the batches, from 0.
        index: usize,
        /// What does not fit.
        why: Misfit,
    },
    /// A write or sync failed. What is on disk is unknown until a restart: end the process, never try again.
    #[error("cannot {doing} {}: {source}; nothing more is written to this stream, restart once the disk is in order", path.display())]
    Fatal {
        /// What was tried.
        doing: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A write failed before.
    #[error("a write to stream {0} failed before; restart the process, which recovers what is durable")]
    Failed(StreamId),
}

impl Error {
    /// Whether the disk, or the quota, is full.
    pub fn is_full(&self) -> bool {
        let Self::Fatal { source, .. } = self else {
            return false;
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// What does not fit about a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It belongs elsewhere.
    #[error("it belongs to stream {0}")]
    Stream(StreamId),
    /// A gap or an overlap.
    #[error("it starts at LSN {0}")]
    Lsn(Lsn),
    /// Another history.
    #[error("it continues the chain {theirs}, the chain here is {ours}")]
    Chain {
        /// The chain before the batch.
        theirs: ChainHash,
        /// The chain of the stream.
        ours: ChainHash,
    },
    /// An epoch that had ended.
    #[error("its epoch is {theirs}, that of the batch before is {ours}")]
    Epoch {
        /// The batch's epoch.
        theirs: Epoch,
        /// The epoch before.
        ours: Epoch,
    },
}

/// The writer of one stream.
pub struct Writer {
    journal: Journal,
    stream: Arc<Stream>,
    position: Position,
    current: Option<Current>,
    /// The segment before, which replicas and the store may still read.
    resting: Option<Current>,
    asked: bool,
}

impl Writer {
    pub(crate) fn take(journal: Journal, stream: Arc<Stream>) -> Result<Self, writer::Error> {
        let mut state = stream.state();
        if state.failed {
            return Err(writer::Error::Failed(stream.id));
        }
        if state.written {
            return Err(writer::Error::Taken(stream.id));
        }
        let (position, last) = (state.position, state.segments.last().copied());
        state.written = true;
        drop(state);
        let mut out = Self { journal, stream, position, current: None, resting: None, asked: false };
        if let Some(Segment { header, bytes, .. }) = last {
            let path = out.stream.segment_path(header.first_lsn);
            let file = out.files().open(&path).and_then(|file| Ok((file.len()?, file)));
            let (len, file) =
                file.map_err(|source| writer::Error::Io { stream: out.stream.id, path: path.clone(), source })?;
            let limit = prepare::limit_of(&out.journal.shared.options, bytes);
            out.current = Some(Current::resume(path, file, header, bytes, len, limit));
        }
        Ok(out)
    }

    /// Appends `batches`, which must continue the stream, and makes them durable: all of them, or, after an error
    /// other than [`Error::Refused`], any number of the first ones. One sync, and one more for each segment begun.
    /// Blocks until then. What it returns is what [`Journal::position`] and readers see from now on.
    pub fn append(&mut self, batches: &[Batch]) -> Result<Position, Error> {
        if self.stream.state().failed {
            return Err(Error::Failed(self.stream.id));
        }
        self.check(batches)?;
        let out = self.append_checked(batches);
        if out.is_err() {
            self.stream.state().failed = true;
        }
        out
    }

    /// Where the stream ends.
    pub const fn position(&self) -> Position {
        self.position
    }

    fn files(&self) -> &dyn Files {
        &*self.journal.shared.files
    }

    fn check(&self, batches: &[Batch]) -> Result<(), Error> {
        let Position { durable, mut chain, mut epoch, .. } = self.position;
        let (stream, mut next) = (self.stream.id, durable.next());
        for (index, batch) in batches.iter().enumerate() {
            let header = batch.header();
            let refused = |why| Err(Error::Refused { stream, durable, index, why });
            if header.stream != stream {
                return refused(Misfit::Stream(header.stream));
            }
            if header.first_lsn != next {
                return refused(Misfit::Lsn(header.first_lsn));
            }
            if header.chain != chain {
                return refused(Misfit::Chain { theirs: header.chain, ours: chain });
            }
            if header.epoch < epoch {
                return refused(Misfit::Epoch { theirs: header.epoch, ours: epoch });
            }
            (next, chain, epoch) = (header.last_lsn().next(), batch.chain_after(), header.epoch);
        }
        Ok(())
    }

    fn append_checked(&mut self, mut batches: &[Batch]) -> Result<Position, Error> {
        while !batches.is_empty() {
            let group = match &mut self.current {
                Some(current) if current.fitting(batches) > 0 => {
                    let group = &batches[..current.fitting(batches)];
                    current.write_group(group, self.position.durable)?;
                    current.sync()?;
                    group
                }
                _ => {
                    let limit = self.next_limit();
                    let group = &batches[..current::fitting(batches, HEADER_BYTES as u64, limit).max(1)];
                    self.roll(group, limit)?;
                    group
                }
            };
            batches = &batches[group.len()..];
            self.publish(group);
            self.prepare_next();
        }
        Ok(self.position)
    }

    /// Begins the next segment with `group`. It gets its name only when its first group is durable, so that a segment
    /// always has a valid header and at least one batch, and all before it is durable.
    fn roll(&mut self, group: &[Batch], limit: u64) -> Result<(), Error> {
        let previous = self.current.take();
        let follows = previous.as_ref().map_or(Lsn::ZERO, |c| c.header.first_lsn);
        let first_lsn = self.position.durable.next();
        let header = SegmentHeader::new(self.stream.id, first_lsn, follows, self.position.chain);
        let prepared = self.stream.state().prepared.take();
        self.asked = false;
        let mut next = Current::begin(self.files(), &self.stream.dir, prepared, header, limit)?;
        next.write_group(group, self.position.durable)?;
        next.sync()?;
        next.give_name(self.files(), self.stream.segment_path(first_lsn))?;
        self.current = Some(next);
        let Some(mut previous) = previous else { return Ok(()) };
        previous.close()?;
        // The journal must not push the store out of memory.
        if let Some(older) = self.resting.replace(previous) {
            older.rest();
        }
        Ok(())
    }

    fn next_limit(&self) -> u64 {
        let options = &self.journal.shared.options;
        match &self.current {
            Some(current) => prepare::limit_after(options, current.limit),
            None => prepare::limit_of(options, 0),
        }
    }

    fn publish(&mut self, group: &[Batch]) {
        let (Some(current), Some(last)) = (&self.current, group.last()) else {
            return;
        };
        let header = last.header();
        self.position = Position {
            durable: header.last_lsn(),
            chain: last.chain_after(),
            epoch: header.epoch,
            clock: header.first_clock + u64::from(header.count) - 1,
        };
        let mut offset = current.end - group.iter().map(|b| b.bytes().len() as u64).sum::<u64>();
        let mut placed = Vec::with_capacity(group.len());
        for batch in group {
            placed.push((offset, batch.clone()));
            offset += batch.bytes().len() as u64;
        }
        // The first clock counts only when the segment is new, and then the group is its first.
        let first_clock = group.first().map_or(0, |batch| batch.header().first_clock);
        let segment = Segment { header: current.header, bytes: current.end, first_clock };
        self.stream.state().publish(segment, current.file_bytes(), self.position, placed);
    }

    /// Asks for the next segment once this one is half full, so that no more is written ahead than was used.
    fn prepare_next(&mut self) {
        let (Some(current), Some(preparer)) = (&self.current, &self.journal.shared.preparer) else {
            return;
        };
        if !self.asked && current.end >= current.limit / 2 && self.stream.state().prepared.is_none() {
            let bytes = self.next_limit();
            self.asked = preparer.ask(Request { stream: self.stream.clone(), bytes });
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stream.state().written = false;
    }
}
