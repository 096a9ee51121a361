//! Two journals against each other: what both hold must be the same bytes (invariant 3).

use std::path::Path;
use std::sync::Arc;

use cfs_model::{Lsn, StreamId};
use cfs_shipper_core::batch::Batch;
use serde::Serialize;

use crate::damage::Damage;
use crate::files::{Files, RealFiles};
use crate::offline::{self, Event, StreamWalk};
use crate::verify::Error;

/// How two copies of a stream compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Outcome {
    /// Every batch that both hold is byte for byte the same.
    Same,
    /// The copies hold no LSN in common.
    NothingInCommon,
    /// They differ.
    Differ {
        /// First LSN of the first batch that differs.
        lsn: Lsn,
        /// Which batch that is, counted from 0 in what both hold.
        batch: u64,
        /// What differs.
        what: String,
    },
    /// One of them is damaged before a difference was found.
    Damaged(Damage),
}

/// One stream that both journals hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamComparison {
    /// The stream.
    pub stream: StreamId,
    /// First LSN compared; 0 if none was.
    pub from: Lsn,
    /// Last LSN found the same; 0 if none was.
    pub to: Lsn,
    /// Batches found the same.
    pub batches: u64,
    /// Last LSN of the first copy, as far as read; 0 if it holds none.
    pub left_last: Lsn,
    /// Last LSN of the second copy, as far as read; 0 if it holds none.
    pub right_last: Lsn,
    /// The result.
    pub outcome: Outcome,
}

/// How two journals compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Streams in both, in order.
    pub streams: Vec<StreamComparison>,
    /// Streams in the first alone.
    pub only_left: Vec<StreamId>,
    /// Streams in the second alone.
    pub only_right: Vec<StreamId>,
}

impl Comparison {
    /// Whether all that both hold is the same.
    pub fn is_same(&self) -> bool {
        self.streams.iter().all(|s| matches!(s.outcome, Outcome::Same | Outcome::NothingInCommon))
    }
}

/// Compares the journals at `left` and `right`, batch by batch. Holds two batches in memory.
pub fn compare(left: &Path, right: &Path) -> Result<Comparison, Error> {
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let list = |dir: &Path| offline::streams(&*files, dir).map_err(|source| Error { path: dir.to_owned(), source });
    let (ours, theirs) = (list(left)?, list(right)?);
    let mut streams = Vec::new();
    for stream in ours.iter().filter(|s| theirs.contains(s)) {
        streams.push(compare_stream(&files, left, right, *stream)?);
    }
    Ok(Comparison {
        streams,
        only_left: ours.iter().filter(|s| !theirs.contains(s)).copied().collect(),
        only_right: theirs.into_iter().filter(|s| !ours.contains(s)).collect(),
    })
}

/// One copy of a stream, batch by batch.
struct Copy<'a> {
    dir: &'a Path,
    walk: StreamWalk,
    head: Option<Batch>,
    last: Lsn,
}

impl<'a> Copy<'a> {
    fn start(files: &Arc<dyn Files>, dir: &'a Path, stream: StreamId) -> Result<Self, Error> {
        let walk = StreamWalk::start(files.clone(), dir, stream, Lsn::ZERO)
            .map_err(|source| Error { path: dir.to_owned(), source })?;
        Ok(Self { dir, walk, head: None, last: Lsn::ZERO })
    }

    fn advance(&mut self) -> Result<Result<(), Damage>, Error> {
        self.head = match self.walk.next().map_err(|source| Error { path: self.dir.to_owned(), source })? {
            Event::Batch { batch, .. } => {
                self.last = batch.header().last_lsn();
                Some(batch)
            }
            Event::End(_) => None,
            Event::Damaged(damage) => return Ok(Err(damage)),
        };
        Ok(Ok(()))
    }
}

fn compare_stream(
    files: &Arc<dyn Files>,
    left: &Path,
    right: &Path,
    stream: StreamId,
) -> Result<StreamComparison, Error> {
    let mut copies = [Copy::start(files, left, stream)?, Copy::start(files, right, stream)?];
    let mut out = StreamComparison {
        stream,
        from: Lsn::ZERO,
        to: Lsn::ZERO,
        batches: 0,
        left_last: Lsn::ZERO,
        right_last: Lsn::ZERO,
        outcome: Outcome::NothingInCommon,
    };
    let mut advance = [true, true];
    loop {
        for (copy, advance) in copies.iter_mut().zip(advance) {
            if advance && let Err(damage) = copy.advance()? {
                out.outcome = Outcome::Damaged(damage);
                return Ok(out.finish(&copies));
            }
        }
        let [Some(a), Some(b)] = [&copies[0].head, &copies[1].head] else {
            break;
        };
        // A copy whose oldest segments have gone begins later; the other one is read up to there.
        advance = match (a.header().last_lsn() < b.header().first_lsn, b.header().last_lsn() < a.header().first_lsn) {
            (true, _) => [true, false],
            (_, true) => [false, true],
            _ => [true, true],
        };
        if advance == [true, true] && !out.same(a, b) {
            return Ok(out.finish(&copies));
        }
    }
    // The longer copy is read to its end, so that the report can say how much longer it is.
    for copy in &mut copies {
        while copy.head.is_some() {
            if let Err(damage) = copy.advance()? {
                out.outcome = Outcome::Damaged(damage);
                return Ok(out.finish(&copies));
            }
        }
    }
    Ok(out.finish(&copies))
}

impl StreamComparison {
    fn same(&mut self, a: &Batch, b: &Batch) -> bool {
        let lsn = a.header().first_lsn.max(b.header().first_lsn);
        if a.bytes() != b.bytes() {
            let what = format!(
                "{} bytes for LSN {} to {}, against {} bytes for LSN {} to {}",
                a.bytes().len(),
                a.header().first_lsn,
                a.header().last_lsn(),
                b.bytes().len(),
                b.header().first_lsn,
                b.header().last_lsn()
            );
            self.outcome = Outcome::Differ { lsn, batch: self.batches, what };
            return false;
        }
        if self.batches == 0 {
            self.from = lsn;
        }
        self.batches += 1;
        self.to = a.header().last_lsn();
        self.outcome = Outcome::Same;
        true
    }

    fn finish(mut self, copies: &[Copy<'_>; 2]) -> Self {
        (self.left_last, self.right_last) = (copies[0].last, copies[1].last);
        self
    }
}
