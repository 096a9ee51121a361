//! Walks a whole stream from its files alone: without the lock, without writing, also while a shipper runs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cfs_model::{Epoch, Lsn, StreamId};
use cfs_shipper_core::batch::Batch;

use crate::damage::Damage;
use crate::files::{File, Files};
use crate::front;
use crate::open::{self, Recovered};
use crate::segment::{self, SegmentHeader};
use crate::stream::Position;
use crate::walk::{Found, Invalid, Walk};

/// What comes next in a stream.
pub(crate) enum Event {
    Batch {
        segment: Lsn,
        offset: u64,
        batch: Batch,
    },
    /// Nothing more; with the tail that recovery would cut, or that is being written just now.
    End(Option<Recovered>),
    /// The walk does not go on by itself.
    Damaged(Damage),
}

/// Names of the streams in the journal at `dir`, in order.
pub(crate) fn streams(files: &dyn Files, dir: &Path) -> io::Result<Vec<StreamId>> {
    let mut out: Vec<_> = files.list(dir)?.iter().filter_map(|name| segment::parse_dir_name(name)).collect();
    out.sort_unstable();
    Ok(out)
}

struct Current {
    path: PathBuf,
    file: Arc<dyn File>,
    header: SegmentHeader,
    bytes: u64,
    walk: Walk,
}

/// A walk along a stream.
pub(crate) struct StreamWalk {
    files: Arc<dyn Files>,
    dir: PathBuf,
    stream: StreamId,
    /// First LSNs of the segments; more may appear while the walk goes on.
    segments: Vec<Lsn>,
    next_segment: usize,
    begins_after: Position,
    /// The same, until the walk has come to its first segment.
    front: Option<Position>,
    /// What is wrong with the file that says so.
    broken_front: Option<String>,
    current: Option<Current>,
    bytes: u64,
}

impl StreamWalk {
    /// Begins at the segment that holds `from`, or at the first one after it.
    pub(crate) fn start(files: Arc<dyn Files>, journal: &Path, stream: StreamId, from: Lsn) -> io::Result<Self> {
        let dir = journal.join(segment::dir_name(stream));
        let mut out = Self {
            files,
            dir,
            stream,
            segments: Vec::new(),
            next_segment: 0,
            begins_after: front::origin(stream),
            front: None,
            broken_front: None,
            current: None,
            bytes: 0,
        };
        out.begin(from)?;
        Ok(out)
    }

    /// Reads the directory, and goes to the segment that holds `from`, or to the first one after it. What is before the
    /// stream's front is not looked at: it is being removed.
    fn begin(&mut self, from: Lsn) -> io::Result<()> {
        let mut read = front::read(&*self.files, &self.dir, self.stream)?;
        let mut segments = loop {
            let (segments, _) = open::list(&*self.files, &self.dir)?;
            // Segments may have gone between the two.
            let again = front::read(&*self.files, &self.dir, self.stream)?;
            if std::mem::replace(&mut read, again.clone()) == again {
                break segments;
            }
        };
        let front = read.as_ref().ok().copied();
        self.begins_after = front.unwrap_or_else(|| front::origin(self.stream));
        self.broken_front = read.err();
        segments.retain(|first| *first > self.begins_after.durable);
        self.next_segment = segments.partition_point(|first| *first <= from).saturating_sub(1);
        self.segments = segments;
        self.front = front.filter(|_| self.next_segment == 0);
        Ok(())
    }

    /// The position after which the stream begins on this disk.
    pub(crate) const fn begins_after(&self) -> &Position {
        &self.begins_after
    }

    /// First LSNs of the segments known so far.
    pub(crate) fn segments(&self) -> &[Lsn] {
        &self.segments
    }

    /// Length of the segments that were begun.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn path(&self, segment: Lsn) -> PathBuf {
        self.dir.join(segment::file_name(segment))
    }

    /// The next batch.
    pub(crate) fn next(&mut self) -> io::Result<Event> {
        loop {
            if let Some(what) = self.broken_front.take() {
                let lsn = self.segments.first().copied().unwrap_or(Lsn(1));
                return Ok(Event::Damaged(Damage { segment: self.dir.join(front::NAME), offset: 0, lsn, what }));
            }
            let found = match &mut self.current {
                Some(current) => current.walk.next()?,
                None => Found::End,
            };
            match found {
                Found::Batch { offset, batch } => {
                    let segment = self.current.as_ref().map_or(batch.header().first_lsn, |c| c.header.first_lsn);
                    return Ok(Event::Batch { segment, offset, batch });
                }
                // More of this segment was written while it was walked, or there would be no next one.
                Found::End if self.next_segment == self.segments.len() && self.list_new()? => {
                    if let Some(current) = &mut self.current {
                        let bytes = current.file.len()?;
                        self.bytes += bytes.saturating_sub(current.bytes);
                        current.bytes = bytes;
                        current.walk.again(bytes);
                    }
                }
                Found::End => match self.open_next()? {
                    Some(Ok(())) => {}
                    Some(Err(damage)) => return Ok(Event::Damaged(damage)),
                    None => return Ok(Event::End(None)),
                },
                Found::Invalid(invalid) => return self.judge(invalid),
            }
        }
    }

    /// Damage, or a torn tail, which only the last segment can have.
    fn judge(&self, invalid: Invalid) -> io::Result<Event> {
        let Some(current) = &self.current else {
            return Ok(Event::End(None));
        };
        let Current { path, file, header, bytes, walk } = current;
        if self.next_segment < self.segments.len() {
            let Invalid { offset, what, .. } = invalid;
            return Ok(Event::Damaged(Damage { segment: path.clone(), offset, lsn: walk.next_lsn(), what }));
        }
        Ok(match open::judge(path, file, walk, header, invalid, *bytes)? {
            Ok(torn) => Event::End(Some(torn)),
            Err(damage) => Event::Damaged(damage),
        })
    }

    /// Goes on with the next segment, by its own header, after damage in this one; false if there is none.
    pub(crate) fn skip_segment(&mut self) -> bool {
        self.current = None;
        self.next_segment < self.segments.len()
    }

    /// Whether segments have appeared since the directory was read.
    fn list_new(&mut self) -> io::Result<bool> {
        let (before, last) = (self.segments.len(), self.segments.last().copied().unwrap_or_default());
        let (now, _) = open::list(&*self.files, &self.dir)?;
        self.segments.extend(now.into_iter().filter(|first| *first > last));
        Ok(self.segments.len() > before)
    }

    /// Opens the next segment and checks that it continues the one before. `None` if there is none.
    fn open_next(&mut self) -> io::Result<Option<Result<(), Damage>>> {
        let Some(first_lsn) = self.segments.get(self.next_segment).copied() else {
            return Ok(None);
        };
        let path = self.path(first_lsn);
        let file = match self.files.open_read_only(&path) {
            Ok(file) => file,
            // Retention removed it since the directory was read: then the stream begins behind it by now.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.begin(first_lsn)?;
                if self.segments.first().is_some_and(|first| *first <= first_lsn) {
                    return Err(e);
                }
                self.current = None;
                return Ok(Some(Ok(())));
            }
            Err(e) => return Err(e),
        };
        self.next_segment += 1;
        let bytes = file.len()?;
        let header = match open::read_header(&file, self.stream, first_lsn)? {
            Ok(header) => header,
            Err(what) => {
                self.current = None;
                return Ok(Some(Err(Damage { segment: path, offset: 0, lsn: first_lsn, what })));
            }
        };
        let before = self.current.take();
        let first = self.front.take().map_or(Ok(()), |front| open::follows_front(&header, &front));
        let epoch = before.as_ref().map_or(Epoch(0), |b| b.walk.epoch());
        let walk = Walk::start(file.clone(), header, bytes, epoch);
        self.bytes += bytes;
        self.current = Some(Current { path, file, header, bytes, walk });
        if let Err(what) = first {
            let segment = self.path(first_lsn);
            return Ok(Some(Err(Damage { segment, offset: 0, lsn: first_lsn, what })));
        }
        Ok(Some(before.map_or(Ok(()), |before| continues(&before, &header))))
    }
}

fn continues(before: &Current, header: &SegmentHeader) -> Result<(), Damage> {
    let (next, chain) = (before.walk.next_lsn(), before.walk.chain());
    let what = if header.first_lsn != next {
        format!("the segment ends before LSN {next}, the one after it begins at {}", header.first_lsn)
    } else if header.chain != chain || header.previous != before.header.first_lsn {
        format!("the segment after this one continues another history: chain {}, here it is {chain}", header.chain)
    } else {
        return Ok(());
    };
    Err(Damage { segment: before.path.clone(), offset: before.walk.kept(), lsn: next, what })
}
