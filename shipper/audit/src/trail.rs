//! The trail that is written: appending, syncing, closing segments, checkpoints.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::caps::{MIN_SEGMENT_BYTES, SEGMENT_BYTES};
use crate::checkpoint::{self, Checkpoint};
use crate::disk;
use crate::event::{Event, Kind, Severity};
use crate::key::Key;
use crate::record::{Hash, Record, hex};
use crate::segment;

mod recover;
pub use crate::prune::Pruned;

/// Seconds after which a segment is closed, so that retention by age finds something to remove.
const SEGMENT_SECONDS: i64 = 24 * 3600;
const MAX_NAME_BYTES: u64 = 4096;

/// Whose trail, and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The site's name.
    pub site: String,
    /// Records older than this go, in seconds.
    pub retention_s: u64,
    /// The trail takes no more than about so many bytes.
    pub retention_bytes: u64,
}

impl Options {
    /// The size at which a segment is closed.
    pub(crate) fn segment_bytes(&self) -> u64 {
        (self.retention_bytes / 8).clamp(MIN_SEGMENT_BYTES, SEGMENT_BYTES)
    }
}

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no room. What was to be recorded is not in the trail; the call may be repeated once there is some.
    #[error("no space is left for the audit trail: free some; what happens meanwhile is recorded then")]
    Full,
    /// Another process writes this trail.
    #[error("the audit trail in {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// What is on disk is not known any more: open the trail anew.
    #[error("the audit trail cannot be written: {0}")]
    Io(#[from] io::Error),
}

impl Error {
    pub(crate) fn of(error: io::Error) -> Self {
        if disk::is_full(&error) { Self::Full } else { Self::Io(error) }
    }
}

/// The end of a trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The number of the last record; 0: none.
    pub seq: u64,
    /// Its hash, or that of the trail's name.
    pub hash: Hash,
}

/// What names a trail, in `trail.json`. The first record's `prev` is the hash of this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Name {
    pub(crate) site: String,
    pub(crate) trail: String,
    pub(crate) key: String,
}

impl Name {
    pub(crate) fn genesis(&self) -> Hash {
        let Self { site, trail, key } = self;
        Hash::of(&[format!("claudefs-audit-trail/1\n{site}\n{trail}\n{key}\n").as_bytes()])
    }

    /// The name of the trail in `dir`; `None` when there is none or it does not parse.
    pub(crate) fn load(dir: &Path) -> io::Result<Option<Self>> {
        let content = disk::read(&dir.join("trail.json"), MAX_NAME_BYTES)?;
        Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
    }
}

/// A trail that was opened for writing.
#[derive(Debug)]
pub struct Opened {
    /// It.
    pub trail: Trail,
    /// What was found wrong; recorded already, unless there was no room.
    pub found: Vec<Event>,
}

/// One site's trail. There is one writer.
#[derive(Debug)]
pub struct Trail {
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) key: Key,
    pub(crate) name: Name,
    pub(crate) head: Head,
    pub(crate) active: Active,
    pub(crate) checkpoints: checkpoint::File,
    synced: bool,
    _lock: File,
}

/// The segment that grows.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) file: File,
    pub(crate) first: u64,
    pub(crate) len: u64,
    /// Time of its first record.
    pub(crate) since: Option<Timestamp>,
    /// What lies behind `len` is left over from a write that failed.
    dirty: bool,
}

impl Trail {
    /// Opens the trail in `dir`, or begins one. A torn tail is cut, which is recorded; damage elsewhere stays and is
    /// recorded too. A trail of another site, or without its key, is set aside.
    ///
    /// # Errors
    /// Those of the disk; another writer.
    pub fn open(dir: &Path, options: Options, now: Timestamp) -> Result<Opened, Error> {
        disk::create_dir(dir)?;
        let lock = lock(dir)?;
        let mut found = Vec::new();
        let (name, key) = match recover::named(dir, &options.site)? {
            Ok(known) => known,
            Err(aside) => {
                found.extend(aside);
                begin(dir, &options.site).map_err(Error::of)?
            }
        };
        let checkpoints = checkpoint::File::open(dir.join("checkpoints.jsonl"))?;
        let tail = recover::tail(dir, &name, checkpoints.all().last(), &mut found).map_err(Error::of)?;
        let is_new = tail.head.seq == 0;
        let (head, active) = (tail.head, tail.active);
        let dir = dir.to_owned();
        let mut trail = Self { dir, options, key, name, head, active, checkpoints, synced: true, _lock: lock };
        if is_new {
            let text = format!("the audit trail {} of {} begins", trail.name.trail, trail.name.site);
            let begins = Event::new(Kind::Begins, Severity::Info, text)
                .with("trail", trail.name.trail.clone())
                .with("key", trail.name.key.clone());
            found.insert(0, begins);
        }
        match trail.append(&found, now).and_then(|_| trail.sync()) {
            Ok(()) | Err(Error::Full) => Ok(Opened { trail, found }),
            Err(error) => Err(error),
        }
    }

    /// Appends events; not durable before [`Self::sync`]. All or none of them are in the trail on return. Returns the
    /// names that they got.
    ///
    /// # Errors
    /// [`Error::Full`], or the disk's; then the trail has to be opened anew.
    pub fn append(&mut self, events: &[Event], now: Timestamp) -> Result<Vec<String>, Error> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        self.rotate_if_due(now)?;
        // Milliseconds are plenty, and read better.
        let time = now.round(jiff::Unit::Millisecond).unwrap_or(now);
        let (mut head, mut bytes, mut names) = (self.head, Vec::new(), Vec::new());
        for event in events {
            let seq = head.seq + 1;
            let mut event = event.clone();
            if event.event.is_empty() {
                event.event = format!("{}-{seq}", self.options.site);
            }
            if event.site.is_empty() {
                event.site.clone_from(&self.options.site);
            }
            names.push(event.event.clone());
            let mut record = Record { seq, prev: head.hash, time, recorded_by: self.options.site.clone(), event };
            let (line, hash) = match record.encode() {
                Some(encoded) => encoded,
                None => {
                    record.event.value = None;
                    record.event.details = Map::from_iter([("shortened".to_owned(), Value::Bool(true))]);
                    record.encode().ok_or_else(|| io::Error::other("a record is too long even without its details"))?
                }
            };
            bytes.extend_from_slice(&line);
            head = Head { seq, hash };
        }
        self.active.write(&bytes)?;
        self.active.since.get_or_insert(time);
        self.head = head;
        self.synced = false;
        Ok(names)
    }

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// The disk's; it must not be tried again: the trail has to be opened anew.
    pub fn sync(&mut self) -> Result<(), Error> {
        if !self.synced {
            self.active.file.sync_data()?;
            self.synced = true;
        }
        Ok(())
    }

    /// The end of the trail, durable or not.
    pub const fn head(&self) -> Head {
        self.head
    }

    /// Other limits for what is kept, from the next [`Self::prune`] on.
    pub const fn retain(&mut self, seconds: u64, bytes: u64) {
        self.options.retention_s = seconds;
        self.options.retention_bytes = bytes;
    }

    /// Signs how far the trail is, after making that durable; `None` when the last checkpoint says so already.
    ///
    /// # Errors
    /// Those of [`Self::sync`]; [`Error::Full`].
    pub fn checkpoint(&mut self, now: Timestamp) -> Result<Option<Checkpoint>, Error> {
        self.sync()?;
        let Head { seq, hash } = self.head;
        if self.newest_checkpoint().is_some_and(|last| (last.count, last.head) == (seq, hash)) {
            return Ok(None);
        }
        let time = now.round(jiff::Unit::Millisecond).unwrap_or(now);
        let signed = Checkpoint::sign(&self.key, &self.name.site, &self.name.trail, seq, hash, time);
        self.checkpoints.push(signed.clone()).map_err(Error::of)?;
        Ok(Some(signed))
    }

    /// The last checkpoint of this trail.
    pub fn newest_checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoints.all().last().filter(|last| last.trail == self.name.trail)
    }

    fn rotate_if_due(&mut self, now: Timestamp) -> Result<(), Error> {
        let old = self.active.since.is_some_and(|since| now.as_second() - since.as_second() >= SEGMENT_SECONDS);
        if self.active.len > 0 && (old || self.active.len >= self.options.segment_bytes()) {
            self.rotate()?;
        }
        Ok(())
    }

    /// Closes the segment that grows and begins the next one.
    pub(crate) fn rotate(&mut self) -> Result<(), Error> {
        self.sync()?;
        self.active.trim()?;
        self.active = Active::create(&self.dir, self.head.seq + 1).map_err(Error::of)?;
        Ok(())
    }
}

impl Active {
    pub(crate) fn create(dir: &Path, first: u64) -> io::Result<Self> {
        let path = dir.join(segment::file_name(first));
        // One of this name that is there holds nothing: recovery took its records into account.
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        disk::sync_dir(dir)?;
        Ok(Self { file, first, len: 0, since: None, dirty: false })
    }

    pub(crate) const fn resume(file: File, first: u64, len: u64, since: Option<Timestamp>) -> Self {
        Self { file, first, len, since, dirty: false }
    }

    /// Removes what a failed write left behind.
    fn trim(&mut self) -> Result<(), Error> {
        if self.dirty {
            self.file.set_len(self.len)?;
            self.dirty = false;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.trim()?;
        if let Err(error) = self.file.write_all_at(bytes, self.len) {
            self.dirty = true;
            return Err(Error::of(error));
        }
        self.len += bytes.len() as u64;
        Ok(())
    }
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse(dir.to_owned())),
        Err(errno) => Err(Error::Io(errno.into())),
    }
}

/// Begins a trail in a directory that holds none.
fn begin(dir: &Path, site: &str) -> io::Result<(Name, Key)> {
    let mut id = [0; 16];
    SystemRandom::new().fill(&mut id).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    let key = Key::create(dir)?;
    let name = Name { site: site.to_owned(), trail: hex(&id), key: key.public() };
    disk::replace(&dir.join("trail.json"), &serde_json::to_vec(&name)?)?;
    Ok((name, key))
}

#[cfg(test)]
#[path = "trail_tests.rs"]
mod tests;
