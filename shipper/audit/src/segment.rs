//! The files that hold the records, and their lines.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::caps::MAX_RECORD_BYTES;

const EXTENSION: &str = "jsonl";
const DIGITS: usize = 20;

/// One file of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The number of its first record, which is its name.
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
}

/// Name of the segment whose first record has this number.
pub(crate) fn file_name(first: u64) -> String {
    format!("{first:0DIGITS$}.{EXTENSION}")
}

/// All segments, oldest first; none when there is no such directory.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<Segment>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut out = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).filter(|stem| stem.len() == DIGITS);
        let first = stem.and_then(|stem| stem.parse().ok());
        if let (Some(first), Some(EXTENSION)) = (first, path.extension().and_then(|e| e.to_str())) {
            out.push(Segment { first, path });
        }
    }
    out.sort_by_key(|segment| segment.first);
    Ok(out)
}

/// A line, or what stands where one should.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// One with a line break, which is left out here.
    Whole(&'a [u8]),
    /// The last one, without a line break.
    Torn(&'a [u8]),
    /// Longer than any record; skipped up to the next line break.
    TooLong,
}

/// Reads lines one after another in bounded memory.
#[derive(Debug)]
pub(crate) struct Lines {
    reader: BufReader<io::Take<File>>,
    buffer: Vec<u8>,
    /// Where the next line begins.
    pub(crate) offset: u64,
}

impl Lines {
    /// From `offset` of the file to `end`, or to the end that it has now.
    pub(crate) fn open(path: &Path, offset: u64, end: Option<u64>) -> io::Result<Self> {
        use std::io::Seek;
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let end = end.map_or(len, |end| end.min(len));
        file.seek(io::SeekFrom::Start(offset))?;
        let reader = BufReader::with_capacity(1 << 16, file.take(end.saturating_sub(offset)));
        Ok(Self { reader, buffer: Vec::new(), offset })
    }

    /// The next line; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.buffer.clear();
        let limit = MAX_RECORD_BYTES as u64;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.buffer)? as u64;
        self.offset += read;
        if read == 0 {
            return Ok(None);
        }
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
            return Ok(Some(Line::Whole(&self.buffer)));
        }
        if read < limit {
            return Ok(Some(Line::Torn(&self.buffer)));
        }
        loop {
            self.buffer.clear();
            let skipped = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.buffer)? as u64;
            self.offset += skipped;
            if skipped == 0 || self.buffer.last() == Some(&b'\n') {
                return Ok(Some(Line::TooLong));
            }
        }
    }
}
