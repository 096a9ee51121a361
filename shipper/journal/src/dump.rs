//! Every entry of a stream, from its files alone: read-only, without the lock, also while a shipper runs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cfs_model::op::Op;
use cfs_model::{Lsn, Stamp, StreamId};
use cfs_shipper_core::batch::{self, Batch, ChainHash, Header};
use cfs_shipper_core::payload::{self, Entries};

use crate::damage::Damage;
use crate::files::RealFiles;
use crate::offline::{self, Event, StreamWalk};
use crate::open::Recovered;

/// Why a dump stops.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused something.
    #[error("cannot read the journal in {}: {source}", path.display())]
    Io {
        /// The stream's directory or file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// What was durable is no longer there.
    #[error("{0}")]
    Damaged(Damage),
    /// A batch is whole, but does not decompress.
    #[error("the batch of stream {stream} at LSN {lsn} cannot be read: {source}")]
    Batch {
        /// The stream.
        stream: StreamId,
        /// LSN of the batch's first entry.
        lsn: Lsn,
        /// Why.
        source: batch::Error,
    },
    /// A batch is whole, but holds what this version does not know.
    #[error("the batch of stream {stream} at LSN {lsn} cannot be understood: {source}")]
    Payload {
        /// The stream.
        stream: StreamId,
        /// LSN of the batch's first entry.
        lsn: Lsn,
        /// Why.
        source: payload::Error,
    },
}

/// The batch that an entry is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchInfo {
    /// What it says of itself.
    pub header: Header,
    /// The chain after it.
    pub chain_after: ChainHash,
    /// The file that it is in.
    pub segment: PathBuf,
    /// Where it starts in the file, in bytes.
    pub offset: u64,
}

/// An entry of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its position.
    pub lsn: Lsn,
    /// When and by whom it was written.
    pub stamp: Stamp,
    /// Who appended it.
    pub producer: Bytes,
    /// The producer's sequence number.
    pub seq: u64,
    /// What it does.
    pub op: Op,
    /// The batch that it is in.
    pub batch: Arc<BatchInfo>,
}

/// The streams in the journal at `dir`, in order.
pub fn streams(dir: &Path) -> Result<Vec<StreamId>, Error> {
    offline::streams(&RealFiles, dir).map_err(|source| Error::Io { path: dir.to_owned(), source })
}

/// All entries of `stream` in the journal at `dir`, from LSN `from` on. Holds one batch in memory.
pub fn dump(dir: &Path, stream: StreamId, from: Lsn) -> Result<Dump, Error> {
    let walk = StreamWalk::start(Arc::new(RealFiles), dir, stream, from)
        .map_err(|source| Error::Io { path: dir.join(crate::segment::dir_name(stream)), source })?;
    Ok(Dump { walk, stream, from, dir: dir.to_owned(), batch: None, torn: None, ended: false })
}

/// Reads entries one after another; ends after the first error.
pub struct Dump {
    walk: StreamWalk,
    stream: StreamId,
    from: Lsn,
    dir: PathBuf,
    batch: Option<(Arc<BatchInfo>, Entries)>,
    torn: Option<Recovered>,
    ended: bool,
}

impl Dump {
    /// At the end: what followed the last entry and is no batch. Recovery would cut it, or it is being written.
    pub const fn torn(&self) -> Option<&Recovered> {
        self.torn.as_ref()
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        loop {
            if let Some((info, entries)) = &mut self.batch {
                let lsn = info.header.first_lsn;
                let failed = |source| Error::Payload { stream: self.stream, lsn, source };
                if let Some(entry) = entries.next().transpose().map_err(failed)? {
                    let lsn = lsn.plus(u64::from(entry.index));
                    if lsn < self.from {
                        continue;
                    }
                    let (stamp, op) = (info.header.stamp(entry.index), entry.decode().map_err(failed)?);
                    let (producer, seq, batch) = (entry.producer, entry.seq, info.clone());
                    return Ok(Some(Entry { lsn, stamp, producer, seq, op, batch }));
                }
            }
            match self.walk.next().map_err(|source| Error::Io { path: self.dir.clone(), source })? {
                Event::Batch { segment, offset, batch } => self.batch = self.enter(segment, offset, &batch)?,
                Event::End(torn) => {
                    self.torn = torn;
                    return Ok(None);
                }
                Event::Damaged(damage) => return Err(Error::Damaged(damage)),
            }
        }
    }

    fn enter(&self, segment: Lsn, offset: u64, batch: &Batch) -> Result<Option<(Arc<BatchInfo>, Entries)>, Error> {
        let header = batch.header().clone();
        if header.last_lsn() < self.from {
            return Ok(None);
        }
        let (stream, lsn) = (self.stream, header.first_lsn);
        let payload = batch.decompress().map_err(|source| Error::Batch { stream, lsn, source })?;
        let info = BatchInfo { header, chain_after: batch.chain_after(), segment: self.walk.path(segment), offset };
        Ok(Some((Arc::new(info), Entries::new(payload))))
    }
}

impl Iterator for Dump {
    type Item = Result<Entry, Error>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let out = self.next_entry().transpose();
        self.ended = !matches!(out, Some(Ok(_)));
        out
    }
}
