//! Opening a journal: what was durable is found, a torn tail is cut, damage is refused.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cfs_model::{Epoch, Lsn, StreamId};
use cfs_shipper_core::batch::{self, MAX_HEADER_BYTES};

use serde::Serialize;

use crate::damage::Damage;
use crate::files::{File, Files};
use crate::front;
use crate::segment::{self, HEADER_BYTES, MARK_BYTES, SegmentHeader, UNFINISHED};
use crate::stream::{Position, Segment};
use crate::walk::{Found, Invalid, Walk};
use crate::window::{Window, mark_after};

/// Why a journal does not open.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has it open.
    #[error("the journal {} is in use by another process; stop that one first", .0.display())]
    Locked(PathBuf),
    /// What was durable is no longer there; nothing was changed on disk.
    #[error("{0}")]
    Damaged(Damage),
    /// The operating system refused something.
    #[error("cannot {doing} {}: {source}; see to the file system, then start again", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// A torn tail that was cut: what a crash left of appends that had not succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// The stream.
    pub stream: StreamId,
    /// The file that was cut.
    pub segment: PathBuf,
    /// Its length now, in bytes.
    pub offset: u64,
    /// Bytes cut off, without the zeros that had been written ahead.
    pub cut_bytes: u64,
    /// The last LSN kept; what was cut began after it.
    pub durable: Lsn,
    /// What was found where the tail was cut.
    pub what: String,
}

/// One stream as found on disk, before anything is changed.
pub(crate) struct Inspected {
    pub(crate) dir: PathBuf,
    pub(crate) position: Position,
    pub(crate) segments: Vec<Segment>,
    /// Files without a name yet, and segments from before the stream's front.
    leftovers: Vec<PathBuf>,
    last: Option<LastSegment>,
}

struct LastSegment {
    path: PathBuf,
    file: Arc<dyn File>,
    len: u64,
    kept: u64,
    torn: Option<Recovered>,
}

pub(crate) fn io_error<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io { doing, path: path.to_owned(), source }
}

/// Reads and checks the header of the segment at `path`, whose name says `first_lsn`. The inner error is what is wrong
/// with it.
pub(crate) fn read_header(
    file: &Arc<dyn File>,
    stream: StreamId,
    first_lsn: Lsn,
) -> io::Result<Result<SegmentHeader, String>> {
    let bytes = Window::new(file.clone()).at(0, HEADER_BYTES, HEADER_BYTES as u64)?;
    Ok(SegmentHeader::decode(&bytes).and_then(|header| {
        if header.stream != stream || header.first_lsn != first_lsn {
            Err(format!(
                "the segment says that it is {} from {}, not what its name says",
                header.stream, header.first_lsn
            ))
        } else {
            Ok(header)
        }
    }))
}

/// Whether a segment is the first one of a stream that begins after `front`; what is wrong otherwise.
pub(crate) fn follows_front(header: &SegmentHeader, front: &Position) -> Result<(), String> {
    if header.first_lsn != front.durable.next() {
        return Err(format!(
            "the stream begins at LSN {} here, the segments before this one are missing",
            front.durable.next()
        ));
    }
    if header.chain != front.chain {
        return Err(format!(
            "the segment continues the chain {}, the stream begins here with {}",
            header.chain, front.chain
        ));
    }
    Ok(())
}

/// The header, as [`read_header`], and the clock of the segment's first entry; 0 if it cannot be read.
fn read_start(
    file: &Arc<dyn File>,
    stream: StreamId,
    first_lsn: Lsn,
) -> io::Result<Result<(SegmentHeader, u64), String>> {
    let header = match read_header(file, stream, first_lsn)? {
        Ok(header) => header,
        Err(what) => return Ok(Err(what)),
    };
    let start = (HEADER_BYTES + MARK_BYTES) as u64;
    let bytes = Window::new(file.clone()).at(start, MAX_HEADER_BYTES, start + MAX_HEADER_BYTES as u64)?;
    let first_clock = batch::Header::decode(&bytes).map_or(0, |(header, _, _)| header.first_clock);
    Ok(Ok((header, first_clock)))
}

/// Names of the segments in a stream's directory, in order, and of unfinished files.
pub(crate) fn list(files: &dyn Files, dir: &Path) -> io::Result<(Vec<Lsn>, Vec<PathBuf>)> {
    let (mut segments, mut unfinished) = (Vec::new(), Vec::new());
    for name in files.list(dir)? {
        if let Some(lsn) = segment::parse_file_name(&name) {
            segments.push(lsn);
        } else if name.to_str().is_some_and(|name| name.ends_with(UNFINISHED)) {
            unfinished.push(dir.join(name));
        }
    }
    segments.sort_unstable();
    Ok((segments, unfinished))
}

/// Checks headers and names of all segments of a stream and every byte of the last one. Changes nothing.
pub(crate) fn inspect(files: &dyn Files, dir: PathBuf, stream: StreamId) -> Result<Inspected, Error> {
    let (mut names, mut leftovers) = list(files, &dir).map_err(io_error("list", &dir))?;
    let front_path = dir.join(front::NAME);
    let front = front::read(files, &dir, stream).map_err(io_error("read", &front_path))?;
    let front = front.map_err(|what| {
        let lsn = names.first().copied().unwrap_or(Lsn(1));
        Error::Damaged(Damage { segment: front_path.clone(), offset: 0, lsn, what })
    })?;
    // A crash came before all of them were removed.
    let gone = names.partition_point(|first| *first <= front.durable);
    leftovers.extend(names.drain(..gone).map(|first| dir.join(segment::file_name(first))));
    let mut out = Inspected { dir, position: front, segments: Vec::new(), leftovers, last: None };
    for (i, first_lsn) in names.iter().enumerate() {
        let path = out.dir.join(segment::file_name(*first_lsn));
        let file = files.open(&path).map_err(io_error("open", &path))?;
        let damaged = |what| Error::Damaged(Damage { segment: path.clone(), offset: 0, lsn: *first_lsn, what });
        let (header, first_clock) =
            read_start(&file, stream, *first_lsn).map_err(io_error("read", &path))?.map_err(damaged)?;
        if i == 0
            && let Err(what) = follows_front(&header, &front)
        {
            return Err(damaged(what));
        }
        if let Some(previous) = out.segments.last()
            && previous.header.first_lsn != header.previous
        {
            return Err(damaged(format!(
                "the segment follows the one of LSN {}, the one at hand is that of {}",
                header.previous, previous.header.first_lsn
            )));
        }
        let mut bytes = file.len().map_err(io_error("measure", &path))?;
        if i + 1 == names.len() {
            bytes = inspect_last(&mut out, path, file, header, bytes)?;
        }
        out.segments.push(Segment { header, bytes, first_clock });
    }
    Ok(out)
}

/// Walks the last segment; returns what of it is kept.
fn inspect_last(
    out: &mut Inspected,
    path: PathBuf,
    file: Arc<dyn File>,
    header: SegmentHeader,
    len: u64,
) -> Result<u64, Error> {
    let mut walk = Walk::start(file.clone(), header, len, Epoch(0));
    let torn = loop {
        match walk.next().map_err(io_error("read", &path))? {
            Found::Batch { batch, .. } => {
                let header = batch.header();
                let clock = header.first_clock + u64::from(header.count) - 1;
                let (durable, chain) = (header.last_lsn(), batch.chain_after());
                out.position = Position { durable, chain, epoch: header.epoch, clock };
            }
            Found::End => break None,
            Found::Invalid(invalid) => {
                let judged = judge(&path, &file, &walk, &header, invalid, len).map_err(io_error("read", &path))?;
                break Some(judged.map_err(Error::Damaged)?);
            }
        }
    };
    let kept = walk.kept();
    out.last = Some(LastSegment { path, file, len, kept, torn });
    Ok(kept)
}

/// Whether an invalid record in the last segment is what a crash left of the last append, or damage.
pub(crate) fn judge(
    path: &Path,
    file: &Arc<dyn File>,
    walk: &Walk,
    header: &SegmentHeader,
    invalid: Invalid,
    len: u64,
) -> io::Result<Result<Recovered, Damage>> {
    let Invalid { offset, mut what, certain } = invalid;
    let lsn = walk.next_lsn();
    let mark = if certain { None } else { mark_after(file, header, offset + 1, len, lsn)? };
    if let Some(mark) = mark {
        what = format!("{what}, and the sync mark at offset {mark} says that it was durable");
    }
    if certain || mark.is_some() {
        return Ok(Err(Damage { segment: path.to_owned(), offset, lsn, what }));
    }
    let kept = walk.kept();
    let cut_bytes = Window::new(file.clone()).blank_from(kept, len)? - kept;
    let durable = Lsn(lsn.0 - 1);
    Ok(Ok(Recovered { stream: header.stream, segment: path.to_owned(), offset: kept, cut_bytes, durable, what }))
}

impl Inspected {
    /// Removes leftovers, cuts the torn tail and the zeros written ahead, and makes durable what is left:
    /// until then the last process may have left it in memory alone.
    pub(crate) fn repair(&mut self, files: &dyn Files) -> Result<Option<Recovered>, Error> {
        if !self.leftovers.is_empty() {
            // That the stream begins behind them may be in memory alone.
            files.sync_dir(&self.dir).map_err(io_error("sync", &self.dir))?;
        }
        for path in self.leftovers.drain(..) {
            files.remove(&path).map_err(io_error("remove", &path))?;
        }
        files.sync_dir(&self.dir).map_err(io_error("sync", &self.dir))?;
        let Some(last) = self.last.take() else {
            return Ok(None);
        };
        if last.len > last.kept {
            last.file.set_len(last.kept).map_err(io_error("cut", &last.path))?;
        }
        last.file.sync_all().map_err(io_error("sync", &last.path))?;
        Ok(last.torn)
    }
}

/// Makes `dir` and its missing parents, durably.
pub(crate) fn make_dirs(files: &dyn Files, dir: &Path) -> Result<(), Error> {
    match files.create_dir(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
            let Some(parent) = parent else {
                return Err(io_error("make", dir)(e));
            };
            make_dirs(files, parent)?;
            files.create_dir(dir).map_err(io_error("make", dir))?;
        }
        Err(e) => return Err(io_error("make", dir)(e)),
    }
    // Also when it was there already: whoever made it may have died before this.
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => files.sync_dir(parent).map_err(io_error("sync", parent)),
        Some(_) => files.sync_dir(Path::new(".")).map_err(io_error("sync", dir)),
        None => Ok(()),
    }
}
