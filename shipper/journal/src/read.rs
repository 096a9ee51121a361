//! Reading: durable batches in order, from memory if they are recent, otherwise from segments.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cfs_model::{Epoch, Lsn, StreamId};
use cfs_shipper_core::batch::{Batch, ChainHash};

use crate::damage::Damage;
use crate::files::Files;
use crate::journal::Journal;
use crate::open;
use crate::stream::{Known, Place, Segment, Source, Stream};
use crate::walk::{Found, Walk};

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream is not held here.
    #[error("stream {0} is not in this journal")]
    UnknownStream(StreamId),
    /// The LSN lies within a batch.
    #[error("LSN {lsn} of stream {stream} is not the end of a batch; ask for one that is")]
    NotBoundary {
        /// The stream.
        stream: StreamId,
        /// The LSN asked for.
        lsn: Lsn,
    },
    /// The segments that held it are gone.
    #[error("stream {stream} is held from LSN {first} on, what follows {after} is gone; a snapshot is needed")]
    Gone {
        /// The stream.
        stream: StreamId,
        /// The LSN asked for.
        after: Lsn,
        /// First LSN held.
        first: Lsn,
    },
    /// It is not durable here yet.
    #[error("stream {stream} ends at LSN {durable}, before {after}")]
    Beyond {
        /// The stream.
        stream: StreamId,
        /// The LSN asked for.
        after: Lsn,
        /// Last durable LSN.
        durable: Lsn,
    },
    /// What was durable is no longer there.
    #[error("{0}")]
    Damaged(Damage),
    /// The operating system refused something.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// Reads one stream in order, following its writer.
pub struct Reader {
    journal: Journal,
    stream: Arc<Stream>,
    after: Lsn,
    chain: ChainHash,
    epoch: Epoch,
    /// Where the next record stands, as far as known.
    place: Option<Place>,
    walk: Option<(Lsn, Walk)>,
}

impl Reader {
    pub(crate) fn start(journal: Journal, stream: Arc<Stream>, after: Lsn) -> Result<Self, Error> {
        let (chain, place) = boundary(&*journal.shared.files, &stream, after)?;
        Ok(Self { journal, stream, after, chain, epoch: Epoch(0), place, walk: None })
    }

    /// The last LSN that was read.
    pub const fn after(&self) -> Lsn {
        self.after
    }

    /// The chain after it.
    pub const fn chain(&self) -> ChainHash {
        self.chain
    }

    /// The next batches, whose bytes together are at most `max_bytes`, but at least one if there is one; none at the
    /// tail. Only durable ones. Blocks for reading a segment if they are no longer in memory.
    pub fn next(&mut self, max_bytes: usize) -> Result<Vec<Batch>, Error> {
        match self.stream.source(self.after, max_bytes) {
            Source::Nothing => Ok(Vec::new()),
            Source::Tail(batches, end) => Ok(self.pass(batches, end)),
            Source::Segment(segment) => self.read(segment, max_bytes),
            Source::Gone(first) => Err(Error::Gone { stream: self.stream.id, after: self.after, first }),
        }
    }

    /// The same without blocking: `None` if a segment would have to be read, or cannot be.
    pub fn next_in_memory(&mut self, max_bytes: usize) -> Option<Vec<Batch>> {
        match self.stream.source(self.after, max_bytes) {
            Source::Nothing => Some(Vec::new()),
            Source::Tail(batches, end) => Some(self.pass(batches, end)),
            Source::Segment(_) | Source::Gone(_) => None,
        }
    }

    fn pass(&mut self, batches: Vec<Batch>, end: Place) -> Vec<Batch> {
        self.walk = None;
        if let Some(last) = batches.last() {
            (self.after, self.chain) = (last.header().last_lsn(), last.chain_after());
            (self.epoch, self.place) = (last.header().epoch, Some(end));
        }
        batches
    }

    fn read(&mut self, segment: Segment, max_bytes: usize) -> Result<Vec<Batch>, Error> {
        let path = self.stream.segment_path(segment.header.first_lsn);
        let failed = |source| Error::Io { path: path.clone(), source };
        let mut walk = match self.walk.take() {
            Some((first, walk)) if first == segment.header.first_lsn => walk,
            _ => match self.walk_from_here(&segment) {
                Ok(walk) => walk,
                Err(e) => return Err(gone_meanwhile(&self.stream, self.after, &e).unwrap_or_else(|| failed(e))),
            },
        };
        walk.extend(segment.bytes);
        let (mut out, mut bytes) = (Vec::new(), 0);
        while bytes < max_bytes || out.is_empty() {
            // A walk cannot put a batch back, so the last one may go over; look at its size first.
            if !out.is_empty() && walk.peek_bytes().map_err(failed)?.is_some_and(|next| bytes + next > max_bytes) {
                break;
            }
            match walk.next().map_err(failed)? {
                Found::Batch { batch, .. } => {
                    bytes += batch.bytes().len();
                    out.push(batch);
                }
                Found::End if !out.is_empty() => break,
                Found::End => {
                    let what = "the segment ends before the next one begins".to_owned();
                    return Err(Error::Damaged(Damage {
                        segment: path,
                        offset: walk.kept(),
                        lsn: walk.next_lsn(),
                        what,
                    }));
                }
                Found::Invalid(invalid) if out.is_empty() => {
                    let (offset, lsn) = (invalid.offset, walk.next_lsn());
                    return Err(Error::Damaged(Damage { segment: path, offset, lsn, what: invalid.what }));
                }
                // What was good is handed out first; the next call finds this again.
                Found::Invalid(_) => break,
            }
        }
        (self.after, self.chain, self.epoch) = (Lsn(walk.next_lsn().0 - 1), walk.chain(), walk.epoch());
        self.place = Some(Place { segment: segment.header.first_lsn, offset: walk.kept() });
        self.walk = Some((segment.header.first_lsn, walk));
        Ok(out)
    }

    fn walk_from_here(&self, segment: &Segment) -> io::Result<Walk> {
        let file = self.journal.shared.files.open_read_only(&self.stream.segment_path(segment.header.first_lsn))?;
        let header = segment.header;
        Ok(match self.place {
            Some(place) if place.segment == header.first_lsn => {
                Walk::resume(file, header, place.offset, self.after.next(), self.chain, self.epoch)
            }
            _ => Walk::start(file, header, segment.bytes, self.epoch),
        })
    }
}

/// Whether a file is not found because its segment was removed since it was looked up.
fn gone_meanwhile(stream: &Stream, after: Lsn, error: &io::Error) -> Option<Error> {
    let first = stream.state().first_lsn();
    let gone = error.kind() == io::ErrorKind::NotFound && after.next() < first;
    gone.then_some(Error::Gone { stream: stream.id, after, first })
}

/// The chain at `lsn`, if it is a boundary, and where the next record stands.
fn boundary(files: &dyn Files, stream: &Stream, lsn: Lsn) -> Result<(ChainHash, Option<Place>), Error> {
    let known = stream.state().known(lsn);
    match known {
        Known::Boundary(chain, place) => Ok((chain, place)),
        Known::Beyond(durable) => Err(Error::Beyond { stream: stream.id, after: lsn, durable }),
        Known::Gone(first) => Err(Error::Gone { stream: stream.id, after: lsn, first }),
        Known::Inside(segment) => find(files, stream, segment, lsn),
    }
}

fn find(files: &dyn Files, stream: &Stream, segment: Segment, lsn: Lsn) -> Result<(ChainHash, Option<Place>), Error> {
    let path = stream.segment_path(segment.header.first_lsn);
    let failed = |source| Error::Io { path: path.clone(), source };
    let file = match files.open_read_only(&path) {
        Ok(file) => file,
        Err(e) => return Err(gone_meanwhile(stream, lsn, &e).unwrap_or_else(|| failed(e))),
    };
    let damaged = |offset, lsn, what| Error::Damaged(Damage { segment: path.clone(), offset, lsn, what });
    open::read_header(&file, stream.id, segment.header.first_lsn)
        .map_err(failed)?
        .map_err(|what| damaged(0, segment.header.first_lsn, what))?;
    let mut walk = Walk::start(file, segment.header, segment.bytes, Epoch(0));
    while walk.next_lsn() <= lsn {
        match walk.next().map_err(failed)? {
            Found::Batch { .. } => {}
            Found::End => {
                let what = "the segment ends before the next one begins".to_owned();
                return Err(damaged(walk.kept(), walk.next_lsn(), what));
            }
            Found::Invalid(invalid) => return Err(damaged(invalid.offset, walk.next_lsn(), invalid.what)),
        }
    }
    if walk.next_lsn() != lsn.next() {
        return Err(Error::NotBoundary { stream: stream.id, lsn });
    }
    Ok((walk.chain(), Some(Place { segment: segment.header.first_lsn, offset: walk.kept() })))
}

/// The chain at `lsn`; `None` if it is no boundary held here.
pub(crate) fn chain_at(files: &dyn Files, stream: &Stream, lsn: Lsn) -> Result<Option<ChainHash>, Error> {
    match boundary(files, stream, lsn) {
        Ok((chain, _)) => Ok(Some(chain)),
        Err(Error::NotBoundary { .. } | Error::Gone { .. } | Error::Beyond { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}
