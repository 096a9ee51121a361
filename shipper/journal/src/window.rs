//! A file read through a piece of it in memory, and searched.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cfs_model::Lsn;

use crate::files::File;
use crate::segment::{MARK_BYTES, MARK_MAGIC, Mark, SegmentHeader};

/// Bytes read at a time; more only for a batch that is larger.
const WINDOW_BYTES: usize = 256 * 1024;

/// A piece of a file in memory.
pub(crate) struct Window {
    file: Arc<dyn File>,
    start: u64,
    bytes: Bytes,
}

impl Window {
    pub(crate) fn new(file: Arc<dyn File>) -> Self {
        Self { file, start: 0, bytes: Bytes::new() }
    }

    /// Bytes from `offset` on: at least `need` of them, unless `limit` or the file ends before.
    pub(crate) fn at(&mut self, offset: u64, need: usize, limit: u64) -> io::Result<Bytes> {
        let available = usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX);
        let end = self.start + self.bytes.len() as u64;
        if offset < self.start || offset + need.min(available) as u64 > end {
            let mut buffer = vec![0; need.max(WINDOW_BYTES).min(available)];
            let mut have = 0;
            while have < buffer.len() {
                match self.file.read_at(&mut buffer[have..], offset + have as u64)? {
                    0 => break,
                    n => have += n,
                }
            }
            buffer.truncate(have);
            (self.start, self.bytes) = (offset, buffer.into());
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX).min(self.bytes.len());
        Ok(self.bytes.slice(from..))
    }

    /// Reads anew what it holds: the file may have changed.
    pub(crate) fn forget(&mut self) {
        self.bytes = Bytes::new();
    }

    /// Where the last byte in `from..limit` that is not zero ends; `from` if there is none.
    pub(crate) fn blank_from(&mut self, from: u64, limit: u64) -> io::Result<u64> {
        let (mut at, mut blank_from) = (from, from);
        loop {
            let bytes = self.at(at, 1, limit)?;
            if bytes.is_empty() {
                return Ok(blank_from);
            }
            if let Some(last) = bytes.iter().rposition(|b| *b != 0) {
                blank_from = at + last as u64 + 1;
            }
            at += bytes.len() as u64;
        }
    }
}

/// Looks behind an invalid record, in `from..limit`, for a mark by which `lsn` was durable; returns its offset. Every
/// byte may be the start of one.
pub(crate) fn mark_after(
    file: &Arc<dyn File>,
    segment: &SegmentHeader,
    from: u64,
    limit: u64,
    lsn: Lsn,
) -> io::Result<Option<u64>> {
    let mut window = Window::new(file.clone());
    let mut at = from;
    loop {
        let bytes = window.at(at, MARK_BYTES, limit)?;
        if bytes.len() < MARK_BYTES {
            return Ok(None);
        }
        for (i, candidate) in bytes.windows(MARK_BYTES).enumerate() {
            let offset = at + i as u64;
            if candidate.starts_with(&MARK_MAGIC)
                && Mark::decode(candidate, segment, offset).is_some_and(|mark| mark.durable >= lsn)
            {
                return Ok(Some(offset));
            }
        }
        at += (bytes.len() - MARK_BYTES + 1) as u64;
    }
}
