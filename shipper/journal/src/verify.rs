//! Offline checks: every byte of a journal, and two journals against each other. Read-only, without the lock.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cfs_model::{Epoch, Lsn, StreamId};
use cfs_shipper_core::batch::{Batch, ChainHash};
use serde::Serialize;

use crate::damage::Damage;
use crate::files::{Files, RealFiles};
use crate::journal::LOCK;
use crate::offline::{self, Event, StreamWalk};
use crate::open::Recovered;

/// Why a check cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the journal in {}: {source}", path.display())]
pub struct Error {
    /// The journal's or the stream's directory.
    pub path: PathBuf,
    /// The operating system's answer.
    pub source: io::Error,
}

/// Entries of one epoch in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EpochRange {
    /// The epoch.
    pub epoch: Epoch,
    /// First LSN.
    pub first: Lsn,
    /// Last LSN.
    pub last: Lsn,
}

/// What a stream holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamReport {
    /// The stream.
    pub stream: StreamId,
    /// Segments.
    pub segments: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Valid batches.
    pub batches: u64,
    /// Entries in them.
    pub entries: u64,
    /// LSN up to which retention has removed it here; 0 if nothing of it was removed.
    pub begins_after: Lsn,
    /// First LSN held; 0 if none is.
    pub first: Lsn,
    /// Last LSN held that is valid; 0 if none is.
    pub last: Lsn,
    /// Epochs, in order.
    pub epochs: Vec<EpochRange>,
    /// The chain after the last batch; that of the stream's beginning here if no batch is held.
    pub chain: ChainHash,
    /// What follows the last batch and is none: recovery will cut it, or it is being written just now.
    pub torn: Option<Recovered>,
    /// What was durable once and is no longer there.
    pub damage: Vec<Damage>,
}

/// What a journal holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The journal's directory.
    pub dir: PathBuf,
    /// Whether a process has it open, so that tails may still change.
    pub in_use: bool,
    /// All streams, in order.
    pub streams: Vec<StreamReport>,
}

impl Report {
    /// Whether nothing is damaged. A torn tail is none.
    pub fn is_sound(&self) -> bool {
        self.streams.iter().all(|stream| stream.damage.is_empty())
    }
}

/// Reads every byte of the journal at `dir` and checks it. Goes on behind damage, segment by segment.
pub fn verify(dir: &Path) -> Result<Report, Error> {
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let in_use = in_use(&*files, dir).map_err(at(dir))?;
    let ids = offline::streams(&*files, dir).map_err(at(dir))?;
    let streams = ids.into_iter().map(|id| verify_stream(&files, dir, id).map_err(at(dir)));
    Ok(Report { dir: dir.to_owned(), in_use, streams: streams.collect::<Result<_, _>>()? })
}

fn at(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |source| Error { path: path.to_owned(), source }
}

fn in_use(files: &dyn Files, dir: &Path) -> io::Result<bool> {
    let lock = dir.join(LOCK);
    if !files.list(dir)?.iter().any(|name| name == LOCK) {
        return Ok(false);
    }
    match files.lock(&lock) {
        Ok(_held_for_a_moment) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(e) => Err(e),
    }
}

fn verify_stream(files: &Arc<dyn Files>, dir: &Path, stream: StreamId) -> io::Result<StreamReport> {
    let mut walk = StreamWalk::start(files.clone(), dir, stream, Lsn::ZERO)?;
    let mut out = StreamReport {
        stream,
        segments: 0,
        bytes: 0,
        batches: 0,
        entries: 0,
        begins_after: walk.begins_after().durable,
        first: Lsn::ZERO,
        last: Lsn::ZERO,
        epochs: Vec::new(),
        chain: walk.begins_after().chain,
        torn: None,
        damage: Vec::new(),
    };
    loop {
        match walk.next()? {
            Event::Batch { batch, .. } => out.count(&batch),
            Event::End(torn) => {
                out.torn = torn;
                break;
            }
            Event::Damaged(damage) => {
                out.damage.push(damage);
                if !walk.skip_segment() {
                    break;
                }
            }
        }
    }
    out.segments = walk.segments().len() as u64;
    out.bytes = walk.bytes();
    Ok(out)
}

impl StreamReport {
    fn count(&mut self, batch: &Batch) {
        let header = batch.header();
        self.batches += 1;
        self.entries += u64::from(header.count);
        if self.first == Lsn::ZERO {
            self.first = header.first_lsn;
        }
        self.last = header.last_lsn();
        self.chain = batch.chain_after();
        match self.epochs.last_mut() {
            Some(range) if range.epoch == header.epoch => range.last = header.last_lsn(),
            _ => self.epochs.push(EpochRange { epoch: header.epoch, first: header.first_lsn, last: header.last_lsn() }),
        }
    }
}
