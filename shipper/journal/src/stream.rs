//! One stream of an open journal: what its writer, its readers and the preparer share.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cfs_model::{Epoch, Lsn, StreamId};
use cfs_shipper_core::batch::{Batch, ChainHash};

use crate::files::File;
use crate::segment::{self, HEADER_BYTES, SegmentHeader};

/// Where a stream ends on this disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Last durable LSN; 0 for an empty stream.
    pub durable: Lsn,
    /// The chain after it.
    pub chain: ChainHash,
    /// Epoch of the last batch; 0 for an empty stream.
    pub epoch: Epoch,
    /// Clock of the last entry; 0 for an empty stream.
    pub clock: u64,
}

/// A segment on disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    /// Bytes up to which it holds durable records.
    pub(crate) bytes: u64,
    /// Clock of its first entry.
    pub(crate) first_clock: u64,
}

/// A place in the stream's files: the segment that starts at `segment`, and where in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: Lsn,
    pub(crate) offset: u64,
}

/// A file of zeros that waits to become a segment.
pub(crate) struct Prepared {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) bytes: u64,
}

/// The last batches appended, in memory up to a bound.
pub(crate) struct Tail {
    batches: VecDeque<(Place, Batch)>,
    bytes: usize,
    max_bytes: usize,
}

impl Tail {
    fn push(&mut self, place: Place, batch: Batch) {
        self.bytes += batch.bytes().len();
        self.batches.push_back((place, batch));
        while self.bytes > self.max_bytes
            && let Some((_, batch)) = self.batches.pop_front()
        {
            self.bytes -= batch.bytes().len();
        }
    }

    /// Lets go of batches up to `lsn`.
    fn forget_through(&mut self, lsn: Lsn) {
        while self.batches.front().is_some_and(|(_, batch)| batch.header().first_lsn <= lsn)
            && let Some((_, batch)) = self.batches.pop_front()
        {
            self.bytes -= batch.bytes().len();
        }
    }

    /// The batch that begins after `lsn`, and those that follow, up to `max_bytes` but at least one; with the place
    /// after the last of them.
    fn after(&self, lsn: Lsn, max_bytes: usize) -> Option<(Vec<Batch>, Place)> {
        let from = self.index_after(lsn)?;
        let (mut out, mut bytes, mut end) = (Vec::new(), 0, None);
        for (place, batch) in self.batches.range(from..) {
            let len = batch.bytes().len();
            if end.is_some() && bytes + len > max_bytes {
                break;
            }
            bytes += len;
            end = Some(Place { segment: place.segment, offset: place.offset + len as u64 });
            out.push(batch.clone());
        }
        end.map(|end| (out, end))
    }

    fn index_after(&self, lsn: Lsn) -> Option<usize> {
        let from = self.batches.partition_point(|(_, batch)| batch.header().first_lsn <= lsn);
        (self.batches.get(from)?.1.header().first_lsn == lsn.next()).then_some(from)
    }
}

/// What changes as the stream grows.
pub(crate) struct State {
    pub(crate) position: Position,
    pub(crate) segments: Vec<Segment>,
    /// Length of the last segment's file, zeros written ahead included.
    pub(crate) last_file_bytes: u64,
    tail: Tail,
    /// Whether a writer exists.
    pub(crate) written: bool,
    /// Whether a write failed, after which nothing may be appended in this process.
    pub(crate) failed: bool,
    pub(crate) prepared: Option<Prepared>,
}

/// A stream of an open journal.
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) dir: PathBuf,
    /// Held while segments are removed; unlike the state also during I/O.
    pub(crate) removal: Mutex<()>,
    state: Mutex<State>,
}

/// Where to read what follows an LSN.
pub(crate) enum Source {
    /// There is nothing yet.
    Nothing,
    Tail(Vec<Batch>, Place),
    Segment(Segment),
    /// The journal begins after it, at this LSN.
    Gone(Lsn),
}

impl Stream {
    pub(crate) fn new(
        id: StreamId,
        dir: PathBuf,
        position: Position,
        segments: Vec<Segment>,
        tail_bytes: usize,
    ) -> Self {
        let tail = Tail { batches: VecDeque::new(), bytes: 0, max_bytes: tail_bytes };
        let last_file_bytes = segments.last().map_or(0, |s| s.bytes);
        let state = State { position, segments, last_file_bytes, tail, written: false, failed: false, prepared: None };
        Self { id, dir, removal: Mutex::new(()), state: Mutex::new(state) }
    }

    /// The state; nobody does I/O while holding it.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn segment_path(&self, first_lsn: Lsn) -> PathBuf {
        self.dir.join(segment::file_name(first_lsn))
    }

    /// Where what follows `after`, a batch boundary, is to be had.
    pub(crate) fn source(&self, after: Lsn, max_bytes: usize) -> Source {
        let state = self.state();
        if after >= state.position.durable {
            return Source::Nothing;
        }
        if let Some((batches, end)) = state.tail.after(after, max_bytes) {
            return Source::Tail(batches, end);
        }
        match state.segment_of(after.next()) {
            Some(segment) => Source::Segment(segment),
            None => Source::Gone(state.first_lsn()),
        }
    }
}

/// What is known of an LSN without reading a file.
pub(crate) enum Known {
    /// A boundary with this chain, and where the next record stands if a segment has been begun.
    Boundary(ChainHash, Option<Place>),
    /// It may be one; this segment must be read.
    Inside(Segment),
    /// The journal begins after it, at this LSN.
    Gone(Lsn),
    /// It is not durable here yet; the stream ends at this LSN.
    Beyond(Lsn),
}

impl State {
    pub(crate) fn segment_of(&self, lsn: Lsn) -> Option<Segment> {
        let after = self.segments.partition_point(|s| s.header.first_lsn <= lsn);
        after.checked_sub(1).and_then(|i| self.segments.get(i)).copied()
    }

    /// Bytes of all segments' files.
    pub(crate) fn file_bytes(&self) -> u64 {
        let last = self.segments.last().map_or(0, |s| s.bytes);
        self.segments.iter().map(|s| s.bytes).sum::<u64>() - last + self.last_file_bytes.max(last)
    }

    /// LSN of the first entry held, or that will be.
    pub(crate) fn first_lsn(&self) -> Lsn {
        self.segments.first().map_or(self.position.durable.next(), |s| s.header.first_lsn)
    }

    /// Whether `lsn` is a batch boundary, as far as memory tells.
    pub(crate) fn known(&self, lsn: Lsn) -> Known {
        if lsn > self.position.durable {
            return Known::Beyond(self.position.durable);
        }
        if lsn == self.position.durable {
            let place = |s: &Segment| Place { segment: s.header.first_lsn, offset: s.bytes };
            return Known::Boundary(self.position.chain, self.segments.last().map(place));
        }
        if let Some((place, batch)) = self.tail.index_after(lsn).and_then(|i| self.tail.batches.get(i)) {
            return Known::Boundary(batch.header().chain, Some(*place));
        }
        match self.segment_of(lsn.next()) {
            Some(s) if s.header.first_lsn == lsn.next() => {
                let place = Place { segment: s.header.first_lsn, offset: HEADER_BYTES as u64 };
                Known::Boundary(s.header.chain, Some(place))
            }
            Some(s) => Known::Inside(s),
            None => Known::Gone(self.first_lsn()),
        }
    }

    /// Makes batches visible that are durable now: they are in the last segment, which ends at `segment.bytes` of
    /// `file_bytes`, each at its offset.
    pub(crate) fn publish(
        &mut self,
        segment: Segment,
        file_bytes: u64,
        position: Position,
        batches: Vec<(u64, Batch)>,
    ) {
        match self.segments.last_mut() {
            Some(last) if last.header.first_lsn == segment.header.first_lsn => last.bytes = segment.bytes,
            _ => self.segments.push(segment),
        }
        self.last_file_bytes = file_bytes;
        self.position = position;
        for (offset, batch) in batches {
            self.tail.push(Place { segment: segment.header.first_lsn, offset }, batch);
        }
    }

    /// The stream begins after `front` from now on. Returns the segments that are not held any more: first LSN and bytes.
    pub(crate) fn begin_after(&mut self, front: Position) -> Vec<(Lsn, u64)> {
        let gone = self.segments.partition_point(|s| s.header.first_lsn <= front.durable);
        let last = self.last_file_bytes;
        let emptied = gone == self.segments.len();
        let mut out: Vec<_> = self.segments.drain(..gone).map(|s| (s.header.first_lsn, s.bytes)).collect();
        if emptied {
            if let Some((_, bytes)) = out.last_mut() {
                *bytes = last.max(*bytes);
            }
            self.last_file_bytes = 0;
            self.position = front;
        }
        self.tail.forget_through(front.durable);
        out
    }
}
