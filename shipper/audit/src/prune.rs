//! Retention: whole segments go, oldest first, after a signed record says so.

use std::io;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::disk;
use crate::event::{Event, Kind, Severity};
use crate::key::{Key, is_signed};
use crate::known;
use crate::record::{Hash, Record};
use crate::segment::{self, Line, Lines, Segment};
use crate::trail::{Error, Name, Trail};

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Files.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a signed prune record says: the trail begins with `first`, whose predecessor had the hash `prev`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proof {
    pub(crate) first: u64,
    pub(crate) before: Hash,
    pub(crate) proof: String,
}

impl Proof {
    fn text(name: &Name, first: u64, before: Hash) -> String {
        let Name { site, trail, .. } = name;
        format!("claudefs-audit-prune/1\n{site}\n{trail}\n{first}\n{before}\n")
    }

    fn sign(key: &Key, name: &Name, first: u64, before: Hash) -> Self {
        Self { first, before, proof: key.sign(&Self::text(name, first, before)) }
    }

    /// The proof in a prune record, if the trail's key signed it.
    pub(crate) fn of(record: &Record, name: &Name) -> Option<Self> {
        if record.event.kind != Kind::Prune {
            return None;
        }
        let proof: Self = serde_json::from_value(Value::Object(record.event.details.clone())).ok()?;
        is_signed(&name.key, &Self::text(name, proof.first, proof.before), &proof.proof).then_some(proof)
    }
}

impl Trail {
    /// Removes what is beyond the retention; durable on return. A crash on the way leaves segments that are removed the
    /// next time.
    ///
    /// # Errors
    /// [`Error::Full`], or the disk's.
    pub fn prune(&mut self, now: Timestamp) -> Result<Pruned, Error> {
        let oldest = now.as_second().saturating_sub(i64::try_from(self.options.retention_s).unwrap_or(i64::MAX));
        let active = segment::list(&self.dir)?.into_iter().find(|segment| segment.first == self.active.first);
        if let Some(active) = active.filter(|_| self.active.len > 0)
            && modified(&active)? < oldest
        {
            self.rotate()?;
        }
        let mut closed = segment::list(&self.dir)?;
        closed.retain(|segment| segment.first < self.active.first);
        let lens: Vec<u64> = closed.iter().map(|s| Ok(std::fs::metadata(&s.path)?.len())).collect::<io::Result<_>>()?;
        let mut total = lens.iter().sum::<u64>() + self.active.len;
        let mut pruned = Pruned::default();
        for (segment, len) in closed.iter().zip(&lens) {
            if total <= self.options.retention_bytes && modified(segment)? >= oldest {
                break;
            }
            total -= len;
            pruned.segments += 1;
            pruned.bytes += len;
        }
        if pruned.segments == 0 {
            return Ok(pruned);
        }
        let going = &closed[..usize::try_from(pruned.segments).unwrap_or(usize::MAX).min(closed.len())];
        let (first, before) = match closed.get(going.len()) {
            Some(kept) => first_of(kept)?,
            None if self.active.len > 0 => first_of(&Segment { first: self.active.first, path: self.active_path() })?,
            None => (self.head.seq + 1, self.head.hash),
        };
        pruned.records = first.saturating_sub(going.first().map_or(first, |segment| segment.first));
        known::fold(&self.dir, going).map_err(Error::of)?;
        let text = format!(
            "{} records up to {} were removed ({} bytes): retention is {} s and {} bytes",
            pruned.records,
            first - 1,
            pruned.bytes,
            self.options.retention_s,
            self.options.retention_bytes
        );
        let proof = Proof::sign(&self.key, &self.name, first, before);
        let mut event = Event::new(Kind::Prune, Severity::Info, text);
        if let Ok(Value::Object(details)) = serde_json::to_value(&proof) {
            event.details.extend(details);
        }
        self.append(&[event.with("records", pruned.records).with("bytes", pruned.bytes)], now)?;
        self.sync()?;
        for segment in going {
            std::fs::remove_file(&segment.path)?;
        }
        disk::sync_dir(&self.dir)?;
        Ok(pruned)
    }

    fn active_path(&self) -> std::path::PathBuf {
        self.dir.join(segment::file_name(self.active.first))
    }
}

/// When it was last written, in seconds since 1970.
fn modified(segment: &Segment) -> io::Result<i64> {
    let at = std::fs::metadata(&segment.path)?.modified()?;
    let since = at.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Number of the first record of a segment, and the hash of its predecessor.
fn first_of(segment: &Segment) -> io::Result<(u64, Hash)> {
    let mut lines = Lines::open(&segment.path, 0, None)?;
    while let Some(line) = lines.next()? {
        if let Line::Whole(line) = line
            && let Ok(link) = crate::record::link(line)
        {
            return Ok((link.seq, link.prev));
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} holds no record", segment.path.display())))
}
