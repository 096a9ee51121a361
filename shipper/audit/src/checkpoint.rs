//! Checkpoints: how many records a trail had, and the hash of the last one, signed. Other sites hold them, so that a
//! trail that was cut or written anew shows.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::caps::{MAX_CHECKPOINT_BYTES, MAX_CHECKPOINTS};
use crate::disk;
use crate::key::{Key, is_signed};
use crate::record::Hash;

/// How far a trail was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Whose trail.
    pub site: String,
    /// Its name: drawn when it began.
    pub trail: String,
    /// Records up to then; pruned ones count.
    pub count: u64,
    /// The hash of the last of them.
    pub head: Hash,
    /// When.
    pub time: Timestamp,
    /// The trail's public key.
    pub key: String,
    /// Over all of the above.
    pub signature: String,
}

impl Checkpoint {
    pub(crate) fn sign(key: &Key, site: &str, trail: &str, count: u64, head: Hash, time: Timestamp) -> Self {
        let (site, trail) = (site.to_owned(), trail.to_owned());
        let unsigned = Self { site, trail, count, head, time, key: key.public(), signature: String::new() };
        let signature = key.sign(&unsigned.signed_text());
        Self { signature, ..unsigned }
    }

    fn signed_text(&self) -> String {
        let Self { site, trail, count, head, time, key, .. } = self;
        format!("claudefs-audit-checkpoint/1\n{site}\n{trail}\n{count}\n{head}\n{time}\n{key}\n")
    }

    /// Whether the holder of its key signed it.
    pub fn is_signed(&self) -> bool {
        is_signed(&self.key, &self.signed_text(), &self.signature)
    }

    fn line(&self) -> Option<Vec<u8>> {
        let mut line = serde_json::to_vec(self).ok()?;
        line.push(b'\n');
        (line.len() <= MAX_CHECKPOINT_BYTES).then_some(line)
    }
}

/// A bounded file of checkpoints, oldest first.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    held: Vec<Checkpoint>,
    /// Lines on disk, those included that no longer count.
    lines: usize,
}

impl File {
    /// Reads it; a file that is missing is empty, and a last line that is torn does not count.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let limit = 2 * MAX_CHECKPOINTS * MAX_CHECKPOINT_BYTES;
        let content = disk::read(&path, limit as u64)?.unwrap_or_default();
        let whole = content.split_inclusive(|b| *b == b'\n').filter(|line| line.ends_with(b"\n"));
        let parsed: Vec<Option<Checkpoint>> = whole.map(|line| serde_json::from_slice(line).ok()).collect();
        let torn = !content.is_empty() && !content.ends_with(b"\n");
        // A torn line is overwritten with the next checkpoint: the file is then written anew.
        let lines = if torn { 2 * MAX_CHECKPOINTS } else { parsed.len() };
        let mut held: Vec<Checkpoint> = parsed.into_iter().flatten().collect();
        held.drain(..held.len().saturating_sub(MAX_CHECKPOINTS));
        Ok(Self { path, held, lines })
    }

    pub(crate) fn all(&self) -> &[Checkpoint] {
        &self.held
    }

    /// Adds one; on stable storage on return.
    pub(crate) fn push(&mut self, checkpoint: Checkpoint) -> io::Result<()> {
        let Some(line) = checkpoint.line() else { return Err(io::Error::other("the checkpoint is too long")) };
        self.held.push(checkpoint);
        self.held.drain(..self.held.len().saturating_sub(MAX_CHECKPOINTS));
        if self.lines + 1 >= 2 * MAX_CHECKPOINTS {
            let all: Vec<u8> = self.held.iter().filter_map(Checkpoint::line).flatten().collect();
            disk::replace(&self.path, &all)?;
            self.lines = self.held.len();
        } else {
            disk::append(&self.path, &line)?;
            self.lines += 1;
        }
        Ok(())
    }

    /// Drops those that `keep` does not want.
    pub(crate) fn retain(&mut self, keep: impl FnMut(&Checkpoint) -> bool) -> io::Result<()> {
        let before = self.held.len();
        self.held.retain(keep);
        if self.held.len() == before {
            return Ok(());
        }
        let all: Vec<u8> = self.held.iter().filter_map(Checkpoint::line).flatten().collect();
        self.lines = self.held.len();
        disk::replace(&self.path, &all)
    }
}

/// What became of a checkpoint that another site handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is held, or was before.
    Held,
    /// It is held, and belongs to another trail of that site than the ones before, which had so many records.
    NewTrail {
        /// Records of the trail before.
        before: u64,
    },
    /// It contradicts what is held: that trail was cut or written anew. It is not taken.
    Contradicts(String),
}

/// The checkpoints of other sites' trails that this site holds.
#[derive(Debug)]
pub struct Held {
    dir: PathBuf,
}

/// Sites' names are safe as file names by their own rules; this guards against anything else.
fn is_plain(site: &str) -> bool {
    !site.is_empty()
        && site.len() <= 63
        && site.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl Held {
    /// Below a trail's directory, which is made if need be.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("held");
        disk::create_dir(&dir)?;
        Ok(Self { dir })
    }

    fn file(&self, site: &str) -> io::Result<File> {
        if !is_plain(site) {
            return Err(io::Error::other(format!("{site:?} is not the name of a site")));
        }
        File::open(self.dir.join(format!("{site}.jsonl")))
    }

    /// Takes a checkpoint of `site`, which the caller has made sure of; durable on return. Checkpoints older than
    /// `older_than` go, the newest of each trail apart.
    ///
    /// # Errors
    /// What the system said.
    pub fn take(&self, site: &str, checkpoint: Checkpoint, older_than: Timestamp) -> io::Result<Taken> {
        if checkpoint.site != site || !checkpoint.is_signed() {
            return Ok(Taken::Contradicts("it is not signed by the trail of the site that sent it".into()));
        }
        let mut file = self.file(site)?;
        let same: Vec<&Checkpoint> = file.all().iter().filter(|held| held.trail == checkpoint.trail).collect();
        if let Some(newest) = same.iter().max_by_key(|held| held.count) {
            if newest.key != checkpoint.key {
                return Ok(Taken::Contradicts(format!("trail {} had another key", checkpoint.trail)));
            }
            if newest.count > checkpoint.count {
                return Ok(Taken::Contradicts(format!(
                    "the trail had {} records, now it is said to have {}",
                    newest.count, checkpoint.count
                )));
            }
            if newest.count == checkpoint.count {
                let same = newest.head == checkpoint.head;
                let why = || format!("record {} of the trail was another one", checkpoint.count);
                return Ok(if same { Taken::Held } else { Taken::Contradicts(why()) });
            }
        }
        let is_new = same.is_empty();
        let before = file.all().iter().map(|held| held.count).max();
        file.push(checkpoint)?;
        let newest: Vec<(String, u64)> = file.all().iter().map(|held| (held.trail.clone(), held.count)).collect();
        let is_newest =
            |held: &Checkpoint| newest.iter().all(|(trail, count)| *trail != held.trail || *count <= held.count);
        file.retain(|held| held.time >= older_than || is_newest(held))?;
        Ok(match before {
            Some(before) if is_new => Taken::NewTrail { before },
            _ => Taken::Held,
        })
    }

    /// The checkpoints held of a site, oldest first.
    ///
    /// # Errors
    /// What the system said.
    pub fn of(&self, site: &str) -> io::Result<Vec<Checkpoint>> {
        Ok(self.file(site)?.all().to_vec())
    }
}
