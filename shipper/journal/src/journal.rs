//! The open journal: its streams, and who may write and read them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cfs_model::{Lsn, StreamId, Vector};
use cfs_shipper_core::batch::ChainHash;

use crate::files::Files;
use crate::front;
use crate::open::{self, Recovered, io_error};
use crate::prepare::Preparer;
use crate::read::{self, Reader};
use crate::segment;
use crate::stream::{Position, Stream};
use crate::write::Writer;
use crate::writer;

/// Name of the lock file in the journal's directory.
pub(crate) const LOCK: &str = "lock";

/// How a journal is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// A segment is closed before it grows past this; a single larger batch has a segment of its own.
    pub segment_bytes: u64,
    /// Bytes of recent batches kept in memory for readers, for each stream that is written.
    pub tail_cache_bytes: usize,
    /// Whether a thread writes the next segment's zeros ahead, which halves the time of a sync. Segments then start
    /// small and double up to `segment_bytes`.
    pub prepare_ahead: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 * 1024 * 1024, tail_cache_bytes: 8 * 1024 * 1024, prepare_ahead: true }
    }
}

/// How often, and after which pause, a lock that is held is tried again: a check from outside holds it for a moment.
const LOCK_ATTEMPTS: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

fn lock(files: &dyn Files, dir: &Path) -> Result<Box<dyn Send + Sync>, open::Error> {
    let mut left = LOCK_ATTEMPTS;
    loop {
        left -= 1;
        match files.lock(&dir.join(LOCK)) {
            Ok(lock) => return Ok(lock),
            Err(e) if e.kind() != ErrorKind::WouldBlock => return Err(io_error("lock", dir)(e)),
            Err(_) if left == 0 => return Err(open::Error::Locked(dir.to_owned())),
            Err(_) => std::thread::sleep(LOCK_PAUSE),
        }
    }
}

/// What a stream takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamUsage {
    /// The stream.
    pub stream: StreamId,
    /// Bytes of its segments' files; zeros written ahead in the last one count.
    pub bytes: u64,
    /// Of these, what records take.
    pub data_bytes: u64,
    /// Zeros of a segment prepared ahead.
    pub prepared_bytes: u64,
    /// Segments.
    pub segments: u64,
    /// First LSN held, or that will be.
    pub first: Lsn,
    /// Last LSN that is durable.
    pub durable: Lsn,
}

/// What the journal takes on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of all streams, zeros prepared ahead included.
    pub bytes: u64,
    /// Segments of all streams.
    pub segments: u64,
    /// Each stream, in order.
    pub streams: Vec<StreamUsage>,
}

pub(crate) struct Shared {
    pub(crate) files: Arc<dyn Files>,
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    streams: RwLock<BTreeMap<StreamId, Arc<Stream>>>,
    // The order matters: the preparer's thread ends before the lock is given up.
    pub(crate) preparer: Option<Preparer>,
    _lock: Box<dyn Send + Sync>,
}

/// A journal that this process has open. Cheap to clone; closed when the last clone, writer and reader are dropped.
#[derive(Clone)]
pub struct Journal {
    pub(crate) shared: Arc<Shared>,
}

impl Journal {
    /// Opens the journal in `dir`, making the directory if need be, and takes an exclusive lock on it. Blocks while it
    /// reads the last segment of every stream. On return all that [`Self::position`] reports is durable, and torn
    /// tails have been cut. On an error nothing was changed, except that an I/O error may come after some of it.
    pub fn open(files: Arc<dyn Files>, dir: &Path, options: Options) -> Result<(Self, Vec<Recovered>), open::Error> {
        open::make_dirs(&*files, dir)?;
        let lock = lock(&*files, dir)?;
        let names = files.list(dir).map_err(io_error("list", dir))?;
        let mut found = Vec::new();
        for (name, stream) in names.iter().filter_map(|n| Some((n, segment::parse_dir_name(n)?))) {
            found.push((stream, open::inspect(&*files, dir.join(name), stream)?));
        }
        let mut recovered = Vec::new();
        let mut streams = BTreeMap::new();
        for (id, mut inspected) in found {
            recovered.extend(inspected.repair(&*files)?);
            let stream =
                Stream::new(id, inspected.dir, inspected.position, inspected.segments, options.tail_cache_bytes);
            streams.insert(id, Arc::new(stream));
        }
        files.sync_dir(dir).map_err(io_error("sync", dir))?;
        let preparer = if options.prepare_ahead {
            Some(Preparer::start(files.clone()).map_err(io_error("start a thread for", dir))?)
        } else {
            None
        };
        let streams = RwLock::new(streams);
        let shared = Shared { files, dir: dir.to_owned(), options, streams, preparer, _lock: lock };
        Ok((Self { shared: Arc::new(shared) }, recovered))
    }

    /// All streams held, in order; empty ones too.
    pub fn streams(&self) -> Vec<StreamId> {
        self.shared.streams.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Where `stream` ends; `None` if it is not held.
    pub fn position(&self, stream: StreamId) -> Option<Position> {
        Some(self.stream(stream)?.state().position)
    }

    /// The one writer of `stream`, until it is dropped. Makes the stream, durably, if it is new.
    pub fn writer(&self, stream: StreamId) -> Result<Writer, writer::Error> {
        let held = match self.stream(stream) {
            Some(held) => held,
            None => self.create(stream)?,
        };
        Writer::take(self.clone(), held)
    }

    /// Reads `stream` from the batch that follows `after`, which must be a batch boundary.
    pub fn reader(&self, stream: StreamId, after: Lsn) -> Result<Reader, read::Error> {
        let held = self.stream(stream).ok_or(read::Error::UnknownStream(stream))?;
        Reader::start(self.clone(), held, after)
    }

    /// The chain at `lsn` if that is a batch boundary held here: 0, or the last LSN of a batch that is durable. May
    /// read one segment.
    pub fn chain_at(&self, stream: StreamId, lsn: Lsn) -> Result<Option<ChainHash>, read::Error> {
        if lsn == Lsn::ZERO {
            return Ok(Some(ChainHash::start(stream)));
        }
        match self.stream(stream) {
            Some(held) => read::chain_at(&*self.shared.files, &held, lsn),
            None => Ok(None),
        }
    }

    /// What is on disk.
    pub fn usage(&self) -> Usage {
        let streams = self.shared.streams.read().unwrap_or_else(PoisonError::into_inner);
        let mut out = Usage::default();
        for (id, stream) in streams.iter() {
            let state = stream.state();
            let usage = StreamUsage {
                stream: *id,
                bytes: state.file_bytes(),
                data_bytes: state.segments.iter().map(|s| s.bytes).sum(),
                prepared_bytes: state.prepared.as_ref().map_or(0, |p| p.bytes),
                segments: state.segments.len() as u64,
                first: state.first_lsn(),
                durable: state.position.durable,
            };
            out.bytes += usage.bytes + usage.prepared_bytes;
            out.segments += usage.segments;
            out.streams.push(usage);
        }
        out
    }

    pub(crate) fn stream(&self, stream: StreamId) -> Option<Arc<Stream>> {
        self.shared.streams.read().unwrap_or_else(PoisonError::into_inner).get(&stream).cloned()
    }

    pub(crate) fn create(&self, id: StreamId) -> Result<Arc<Stream>, writer::Error> {
        let mut streams = self.shared.streams.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = streams.get(&id) {
            return Ok(stream.clone());
        }
        if streams.len() >= Vector::MAX_STREAMS {
            return Err(writer::Error::TooMany(id));
        }
        let dir = self.shared.dir.join(segment::dir_name(id));
        let failed = |source| writer::Error::Io { stream: id, path: dir.clone(), source };
        match self.shared.files.create_dir(&dir) {
            // An earlier attempt made it and failed afterwards.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            other => other.map_err(failed)?,
        }
        self.shared.files.sync_dir(&self.shared.dir).map_err(failed)?;
        let stream =
            Arc::new(Stream::new(id, dir, front::origin(id), Vec::new(), self.shared.options.tail_cache_bytes));
        streams.insert(id, stream.clone());
        Ok(stream)
    }
}
