//! Reading a trail, while it is written or at rest.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;

use crate::caps::{MAX_TAIL, MAX_TAIL_BYTES};
use crate::event::Kind;
use crate::record::Record;
use crate::segment::{self, Line, Lines, Segment};

/// A file that was last written so long before the time asked for is not looked into, in seconds.
const CLOCK_SLACK_S: i64 = 3600;

/// Which records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    /// Recorded then or later.
    pub since: Option<Timestamp>,
    /// Recorded before.
    pub until: Option<Timestamp>,
    /// A kind, or a text that the line has in it, in any case; `None`: all.
    pub filter: Option<Filter>,
    /// The newest so many of them.
    pub tail: Option<usize>,
    /// The oldest of them alone.
    pub oldest: bool,
}

/// What a record must be or have in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// This kind, and no other.
    Kind(Kind),
    /// This text, in lower case.
    Text(String),
}

impl Filter {
    /// A kind if the word names one, otherwise a text.
    pub fn parse(text: &str) -> Self {
        Kind::from_word(text).map_or_else(|| Self::Text(text.to_lowercase()), Self::Kind)
    }
}

#[derive(Deserialize)]
struct Head {
    time: Timestamp,
    kind: Kind,
}

impl Query {
    /// Whether it asks for this line. What is no record is asked for by nobody.
    fn wants(&self, line: &[u8]) -> bool {
        let Ok(head) = serde_json::from_slice::<Head>(line) else { return false };
        if self.since.is_some_and(|since| head.time < since) || self.until.is_some_and(|until| head.time >= until) {
            return false;
        }
        match &self.filter {
            None => true,
            Some(Filter::Kind(kind)) => head.kind == *kind,
            Some(Filter::Text(text)) => String::from_utf8_lossy(line).to_lowercase().contains(text),
        }
    }

    fn may_be_in(&self, segment: &Segment) -> bool {
        let Some(since) = self.since else { return true };
        let modified = std::fs::metadata(&segment.path).and_then(|meta| meta.modified());
        let Ok(age) = modified.map(|at| at.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default())
        else {
            return true;
        };
        i64::try_from(age.as_secs()).unwrap_or(i64::MAX) >= since.as_second() - CLOCK_SLACK_S
    }
}

/// Where the lines go; `Break` ends the reading.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> ControlFlow<()>;

/// Reads a trail, and later what was added to it.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    query: Query,
    /// The segment to go on with, and where in it.
    at: Option<(u64, u64)>,
}

impl Reader {
    /// Of the trail in `dir`.
    pub const fn new(dir: PathBuf, query: Query) -> Self {
        Self { dir, query, at: None }
    }

    /// Hands over what the query asks for, in order, without line breaks: at first what is there, later what was added.
    ///
    /// # Errors
    /// What the system said. A segment that is pruned while it is read is no error.
    pub fn read(&mut self, sink: Sink<'_>) -> io::Result<()> {
        match (self.at, self.query.tail) {
            (None, Some(tail)) if !self.query.oldest => self.read_tail(tail.min(MAX_TAIL), sink),
            _ => self.read_on(sink),
        }
    }

    fn read_on(&mut self, sink: Sink<'_>) -> io::Result<()> {
        let mut segments = segment::list(&self.dir)?;
        let (from, mut offset) = self.at.unwrap_or((0, 0));
        segments.retain(|segment| segment.first >= from);
        for segment in segments {
            if segment.first != from {
                offset = 0;
            }
            if self.at.is_none() && !self.query.may_be_in(&segment) {
                continue;
            }
            let Some(mut lines) = opened(&segment, offset)? else { continue };
            loop {
                let next = match lines.next()? {
                    Some(Line::Whole(line)) if self.query.wants(line) => match sink(line) {
                        ControlFlow::Continue(()) if self.query.oldest => ControlFlow::Break(()),
                        said => said,
                    },
                    Some(Line::Torn(_)) | None => break,
                    Some(_) => ControlFlow::Continue(()),
                };
                self.at = Some((segment.first, lines.offset));
                if next.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn read_tail(&mut self, tail: usize, sink: Sink<'_>) -> io::Result<()> {
        let segments = segment::list(&self.dir)?;
        let mut newest: VecDeque<Vec<u8>> = VecDeque::new();
        let mut bytes = 0;
        for segment in segments.iter().rev() {
            if !self.query.may_be_in(segment) || newest.len() >= tail || bytes >= MAX_TAIL_BYTES {
                break;
            }
            let Some(mut lines) = opened(segment, 0)? else { break };
            let mut here: VecDeque<Vec<u8>> = VecDeque::new();
            let room = tail - newest.len();
            loop {
                match lines.next()? {
                    Some(Line::Whole(line)) if self.query.wants(line) => {
                        bytes += line.len();
                        here.push_back(line.to_vec());
                        while here.len() > room || (bytes > MAX_TAIL_BYTES && here.len() > 1) {
                            bytes -= here.pop_front().map_or(0, |line| line.len());
                        }
                    }
                    Some(Line::Torn(line)) => {
                        let torn = line.len() as u64;
                        self.at.get_or_insert((segment.first, lines.offset - torn));
                        break;
                    }
                    None => {
                        self.at.get_or_insert((segment.first, lines.offset));
                        break;
                    }
                    Some(_) => {}
                }
            }
            here.extend(newest);
            newest = here;
        }
        for line in newest {
            if sink(&line).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The lines of a segment; `None` when it has been pruned.
fn opened(segment: &Segment, offset: u64) -> io::Result<Option<Lines>> {
    match Lines::open(&segment.path, offset, None) {
        Ok(lines) => Ok(Some(lines)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The record of the event of this name; of several the first. A record whose hash does not fit is not returned.
///
/// # Errors
/// What the system said.
pub fn find(dir: &Path, event: &str) -> io::Result<Option<Record>> {
    let needle = serde_json::to_string(event).unwrap_or_default();
    for segment in segment::list(dir)? {
        let Some(mut lines) = opened(&segment, 0)? else { continue };
        while let Some(line) = lines.next()? {
            let Line::Whole(line) = line else { continue };
            let may_be = line.windows(needle.len()).any(|window| window == needle.as_bytes());
            if may_be
                && let Ok((record, _)) = Record::decode(line)
                && record.event.event == event
            {
                return Ok(Some(record));
            }
        }
    }
    Ok(None)
}
