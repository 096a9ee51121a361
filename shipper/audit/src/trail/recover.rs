//! Opening a trail after whatever happened to it.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use jiff::Timestamp;

use super::{Active, Head, Name};
use crate::checkpoint::Checkpoint;
use crate::disk;
use crate::event::{Event, Kind, Severity};
use crate::key::Key;
use crate::record::{Link, Record, link};
use crate::segment::{self, Line, Lines, Segment};

/// The trail's name and key, if both are there and belong to this site. If not, what is there is set aside, and the
/// event that tells so is returned; none in an empty directory.
pub(super) fn named(dir: &Path, site: &str) -> io::Result<Result<(Name, Key), Option<Event>>> {
    let (name, key) = (Name::load(dir)?, Key::load(dir));
    let why = match (name, key) {
        (Some(name), Ok(Some(key))) if name.site == site && name.key == key.public() => return Ok(Ok((name, key))),
        (Some(name), _) if name.site != site => format!("it is the trail of {}", name.site),
        (_, Err(error)) => format!("its key cannot be read: {error}"),
        (None, _) => "its name (trail.json) is missing or does not parse".to_owned(),
        (Some(_), Ok(_)) => "its key (trail.key) is missing, or is another trail's".to_owned(),
    };
    let segments = segment::list(dir)?;
    if segments.is_empty() && !dir.join("checkpoints.jsonl").exists() {
        return Ok(Err(None));
    }
    let aside = dir.join(format!("aside-{}", Timestamp::now().as_millisecond()));
    disk::create_dir(&aside)?;
    let small = ["trail.json", "trail.key", "checkpoints.jsonl", "known"].map(|name| dir.join(name));
    for path in segments.iter().map(|segment| segment.path.clone()).chain(small) {
        if let Some(name) = path.file_name().filter(|_| path.exists()) {
            std::fs::rename(&path, aside.join(name))?;
        }
    }
    disk::sync_dir(&aside)?;
    disk::sync_dir(dir)?;
    let text = format!("the audit trail could not be continued: {why}; it was set aside in {}", aside.display());
    Ok(Err(Some(Event::new(Kind::Trail, Severity::Error, text))))
}

/// Where the trail goes on.
pub(super) struct Tail {
    pub(super) head: Head,
    pub(super) active: Active,
}

/// What a segment holds.
#[derive(Default)]
struct Scan {
    last: Option<Link>,
    since: Option<Timestamp>,
    /// Behind the last record.
    end: u64,
    len: u64,
    /// Lines that are no records, before the last record and behind it.
    bad_inside: u64,
    bad_after: u64,
}

fn scan(segment: &Segment) -> io::Result<Scan> {
    let mut out = Scan { len: std::fs::metadata(&segment.path)?.len(), ..Scan::default() };
    let mut lines = Lines::open(&segment.path, 0, None)?;
    while let Some(line) = lines.next()? {
        let good = match line {
            Line::Whole(line) => link(line).ok().map(|link| (link, line)),
            Line::Torn(_) => break,
            Line::TooLong => None,
        };
        match good {
            Some((link, line)) => {
                if out.since.is_none() {
                    out.since = Record::decode(line).ok().map(|(record, _)| record.time);
                }
                out.last = Some(link);
                out.bad_inside += std::mem::take(&mut out.bad_after);
                out.end = lines.offset;
            }
            None => out.bad_after += 1,
        }
    }
    Ok(out)
}

/// Finds the last record, cuts what is torn behind it, and notes what is wrong.
pub(super) fn tail(
    dir: &Path,
    name: &Name,
    checkpoint: Option<&Checkpoint>,
    found: &mut Vec<Event>,
) -> io::Result<Tail> {
    let mut segments = segment::list(dir)?;
    let mut head = Head { seq: 0, hash: name.genesis() };
    let mut active = None;
    while let Some(segment) = segments.pop() {
        let held = scan(&segment)?;
        if held.bad_inside > 0 {
            let text = format!("{} lines of {} are no records", held.bad_inside, segment.path.display());
            found.push(Event::new(Kind::Trail, Severity::Error, text));
        }
        cut(&segment, &held, found)?;
        if let Some(link) = held.last {
            head = Head { seq: link.seq, hash: link.hash };
            let file = OpenOptions::new().read(true).write(true).open(&segment.path)?;
            active = Some(Active::resume(file, segment.first, held.end, held.since));
            break;
        }
        std::fs::remove_file(&segment.path)?;
        disk::sync_dir(dir)?;
    }
    if let Some(checkpoint) = checkpoint.filter(|checkpoint| checkpoint.trail == name.trail) {
        let shorter = checkpoint.count > head.seq;
        if shorter || (checkpoint.count == head.seq && checkpoint.head != head.hash) {
            let what = if shorter { "was cut" } else { "was changed" };
            let text = format!(
                "the audit trail {what}: it ends with record {}, its checkpoint of {} says {} records",
                head.seq, checkpoint.time, checkpoint.count
            );
            found.push(Event::new(Kind::Trail, Severity::Error, text));
        }
    }
    let active = match active {
        Some(active) => active,
        None => Active::create(dir, head.seq + 1)?,
    };
    Ok(Tail { head, active })
}

/// Cuts what lies behind the last record. Whole lines are kept aside: no crash leaves those.
fn cut(segment: &Segment, held: &Scan, found: &mut Vec<Event>) -> io::Result<()> {
    let bytes = held.len - held.end;
    if bytes == 0 {
        return Ok(());
    }
    let path = segment.path.display();
    let event = if held.bad_after == 0 {
        let text = format!("a torn tail of {bytes} bytes was cut from {path}: a crash while it was written");
        Event::new(Kind::Trail, Severity::Warning, text)
    } else {
        let aside = segment.path.with_extension(format!("damaged-{}", Timestamp::now().as_millisecond()));
        std::fs::copy(&segment.path, &aside)?;
        let text = format!(
            "{bytes} bytes at the end of {path} are no records; they were cut, a copy is in {}",
            aside.display()
        );
        Event::new(Kind::Trail, Severity::Error, text)
    };
    found.push(event.with("cut_bytes", bytes));
    let file = OpenOptions::new().write(true).open(&segment.path)?;
    file.set_len(held.end)?;
    file.sync_all()
}
