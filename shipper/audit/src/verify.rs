//! Whether a trail is what was written: chain, prunings, checkpoints.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::caps::MAX_PROBLEMS;
use crate::checkpoint::{self, Checkpoint};
use crate::event::Kind;
use crate::prune::Proof;
use crate::record::{Hash, Link, Record, claimed, link};
use crate::segment::{self, Line, Lines, Segment};
use crate::trail::{Head, Name};

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `edited`, `missing`, `reordered`, `damaged`, `truncated`, `rewritten`, `unproven_start`, `replaced`, `unreadable`.
    pub what: String,
    /// The record at or before which it is; 0: none in particular.
    pub seq: u64,
    /// The file.
    pub file: String,
    /// For people.
    pub text: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// The trail's name.
    pub trail: String,
    /// Its public key.
    pub key: String,
    /// Records that were read.
    pub records: u64,
    /// The number of the first of them; 0: there is none.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// Checkpoints that were compared: own ones.
    pub own_checkpoints: u64,
    /// Those of each other site that was asked.
    pub held: BTreeMap<String, u64>,
    /// What is wrong, at most [`MAX_PROBLEMS`].
    pub problems: Vec<Problem>,
    /// Further ones.
    pub more_problems: u64,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    pub const fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, what: &str, seq: u64, file: &Path, text: String) {
        if self.problems.len() >= MAX_PROBLEMS {
            self.more_problems += 1;
            return;
        }
        let file = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        self.problems.push(Problem { what: what.to_owned(), seq, file, text });
    }
}

/// Checks the trail in `dir` against itself, against its own checkpoints, against those that other sites hold of it (by
/// site), and against where its writer says that it ends. Reads every record.
///
/// # Errors
/// What the system said when the directory could not be read; files that cannot be read are problems.
pub fn verify(dir: &Path, held: &BTreeMap<String, Vec<Checkpoint>>, live: Option<Head>) -> io::Result<Report> {
    let segments = segment::list(dir)?;
    let name = Name::load(dir)?;
    let own = checkpoint::File::open(dir.join("checkpoints.jsonl"))?;
    let mut report = Report::default();
    let Some(name) = name else {
        let known: usize = held.values().map(Vec::len).sum();
        if segments.is_empty() && own.all().is_empty() && known == 0 {
            report.notes.push("there is no audit trail here yet".to_owned());
        } else {
            report.problem(
                "replaced",
                0,
                &dir.join("trail.json"),
                "the name of the trail is missing or does not parse".into(),
            );
        }
        return Ok(report);
    };
    report.trail.clone_from(&name.trail);
    report.key.clone_from(&name.key);
    let mut claims = Claims::default();
    for own in own.all() {
        claims.take("this site", own, &name, &mut report);
        report.own_checkpoints += 1;
    }
    for (site, checkpoints) in held {
        for checkpoint in checkpoints {
            claims.take(site, checkpoint, &name, &mut report);
        }
        report.held.insert(site.clone(), checkpoints.len() as u64);
    }
    if let Some(live) = live.filter(|live| live.seq > 0) {
        claims.add(live.seq, "the running shipper", live.hash);
    }
    let mut walk = Walk { report, claims, name, expected: None, start: None, proofs: Vec::new(), last: None };
    for (index, segment) in segments.iter().enumerate() {
        walk.segment(segment, index + 1 == segments.len());
    }
    Ok(walk.finish(segments.first()))
}

/// Who says that record `count` had this hash.
#[derive(Debug, Default)]
struct Claims(BTreeMap<u64, Vec<(String, Hash)>>);

impl Claims {
    fn add(&mut self, count: u64, by: &str, head: Hash) {
        let said = self.0.entry(count).or_default();
        if !said.iter().any(|(_, known)| *known == head) {
            said.push((by.to_owned(), head));
        }
    }

    fn take(&mut self, by: &str, checkpoint: &Checkpoint, name: &Name, report: &mut Report) {
        let file = Path::new("checkpoints.jsonl");
        if !checkpoint.is_signed() || checkpoint.site != name.site {
            let text = format!("a checkpoint held by {by} of {} is not signed by its key", checkpoint.time);
            report.problem("rewritten", checkpoint.count, file, text);
        } else if checkpoint.trail != name.trail || checkpoint.key != name.key {
            let text = format!(
                "{by} holds a checkpoint of {} of another trail ({}) with {} records: that trail was replaced",
                checkpoint.time, checkpoint.trail, checkpoint.count
            );
            // Once for each trail is enough.
            if !report.problems.iter().any(|p| p.what == "replaced" && p.text.contains(&checkpoint.trail)) {
                report.problem("replaced", 0, file, text);
            }
        } else {
            self.add(checkpoint.count, by, checkpoint.head);
        }
    }
}

struct Walk {
    report: Report,
    claims: Claims,
    name: Name,
    /// What the next record must follow.
    expected: Option<Head>,
    /// How the trail begins.
    start: Option<Link>,
    proofs: Vec<Proof>,
    last: Option<Head>,
}

impl Walk {
    fn segment(&mut self, segment: &Segment, is_last: bool) {
        let mut lines = match Lines::open(&segment.path, 0, None) {
            Ok(lines) => lines,
            Err(error) => {
                let text = format!("{} cannot be read: {error}", segment.path.display());
                return self.report.problem("unreadable", segment.first, &segment.path, text);
            }
        };
        loop {
            let at = lines.offset;
            match lines.next() {
                Ok(None) => return,
                Ok(Some(Line::Whole(line))) => self.line(line, segment, at),
                Ok(Some(Line::Torn(line))) if is_last => {
                    let text = format!(
                        "{} bytes at the end are not a whole record: it is being written, or was when a crash came; the next start cuts them",
                        line.len()
                    );
                    self.report.notes.push(text);
                }
                Ok(Some(Line::Torn(_) | Line::TooLong)) => {
                    let seq = self.next_seq();
                    let text = format!("what stands at byte {at} in place of record {seq} is no record");
                    self.report.problem("damaged", seq, &segment.path, text);
                }
                Err(error) => {
                    let text = format!("reading stopped at byte {at}: {error}");
                    return self.report.problem("unreadable", self.next_seq(), &segment.path, text);
                }
            }
        }
    }

    fn next_seq(&self) -> u64 {
        self.expected.map_or(1, |expected| expected.seq + 1)
    }

    fn line(&mut self, line: &[u8], segment: &Segment, at: u64) {
        self.report.records += 1;
        let read = match link(line) {
            Ok(read) => read,
            Err(bad) => {
                let seq = self.next_seq();
                let text = format!("record {seq} (byte {at}): {bad}");
                self.report.problem("edited", seq, &segment.path, text);
                // Go on as if it were whole, so that one change is one finding.
                if let (Some(expected), Ok((_, hash))) = (&mut self.expected, claimed(line)) {
                    *expected = Head { seq, hash };
                } else {
                    self.expected = None;
                }
                return;
            }
        };
        self.compare(&read, segment, at);
        let here = Head { seq: read.seq, hash: read.hash };
        self.start.get_or_insert(read);
        if let Some(said) = self.claims.0.remove(&read.seq) {
            for (by, head) in said.iter().filter(|(_, head)| *head != read.hash) {
                let text = format!("record {} is another one than {by} holds a checkpoint of ({head})", read.seq);
                self.report.problem("rewritten", read.seq, &segment.path, text);
            }
        }
        if let Ok((record, _)) = Record::decode(line)
            && record.event.kind == Kind::Prune
        {
            match Proof::of(&record, &self.name) {
                Some(proof) => self.proofs.push(proof),
                None => {
                    let text = format!("prune record {} is not signed by the trail's key", read.seq);
                    self.report.problem("rewritten", read.seq, &segment.path, text);
                }
            }
        }
        (self.expected, self.last) = (Some(here), Some(here));
    }

    fn compare(&mut self, read: &Link, segment: &Segment, at: u64) {
        let Some(expected) = self.expected else { return };
        let (seq, next) = (read.seq, expected.seq + 1);
        if seq > next {
            let gap = if seq - next == 1 {
                format!("record {next} is")
            } else {
                format!("records {next} to {} are", seq - 1)
            };
            let text = format!("{gap} missing before byte {at}");
            self.report.problem("missing", next, &segment.path, text);
        } else if seq < next {
            let text = format!("record {seq} stands where record {next} belongs (byte {at})");
            self.report.problem("reordered", seq, &segment.path, text);
        } else if read.prev != expected.hash {
            let text = format!("record {seq} (byte {at}) does not follow from the record before: that one was changed");
            self.report.problem("rewritten", expected.seq, &segment.path, text);
        }
    }

    fn finish(mut self, first: Option<&Segment>) -> Report {
        let begins = self.start.map_or(0, |link| link.seq);
        if let Some(start) = self.start {
            let from_the_start = start.seq == 1 && start.prev == self.name.genesis();
            let proven = self.proofs.iter().any(|proof| (proof.first, proof.before) == (start.seq, start.prev));
            if !from_the_start && !proven {
                let text = if start.seq == 1 {
                    "the first record does not belong to this trail".to_owned()
                } else {
                    format!(
                        "the trail begins with record {} and no prune record says that the ones before may be gone",
                        start.seq
                    )
                };
                let file = first.map_or_else(|| Path::new(""), |segment| segment.path.as_path());
                self.report.problem("unproven_start", start.seq, file, text);
            }
        }
        self.report.first = begins;
        self.report.last = self.last.map_or(0, |last| last.seq);
        let last = self.report.last;
        // What was pruned cannot be compared any more.
        let open: Vec<(u64, Vec<(String, Hash)>)> =
            self.claims.0.into_iter().filter(|(count, _)| *count > last).collect();
        if let Some((count, said)) = open.last() {
            let by = said.first().map_or("", |(by, _)| by.as_str());
            let text = format!("the trail ends with record {last}, {by} says that it had {count}: the end was cut off");
            self.report.problem("truncated", last + 1, Path::new(""), text);
        }
        self.report
    }
}
