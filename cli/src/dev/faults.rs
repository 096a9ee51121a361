//! What is made wrong with the links between sites: `faults.json`, which the fault proxy reads whenever it changes.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cfs_model::SiteName;
use cfs_rpc::private_file;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::process::Process;

/// Name of the rules in the cluster's directory.
const FILE: &str = "faults.json";
/// Says which rules the proxy has put in force.
const APPLIED: &str = "faults.applied";
const LOCK: &str = "faults.lock";
const SCHEMA: &str = "cfs.faults/1";
/// How long the proxy may take to put rules in force.
const LIMIT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(2);

/// What went wrong with the rules.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The rules are damaged or of another version.
    #[error("{path} does not read ({why}): remove it, which heals every link", path = path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The proxy does not run.
    #[error("the fault proxy does not run, so nothing was changed: `cfs dev up --dir {dir}` starts it", dir = dir.display())]
    NoProxy {
        /// The cluster's directory.
        dir: PathBuf,
    },
    /// The proxy ended.
    #[error("the fault proxy ended ({last}): see {log}", log = log.display())]
    Ended {
        /// The end of its log.
        last: String,
        /// Its log.
        log: PathBuf,
    },
    /// The proxy does not answer.
    #[error("the fault proxy did not take the rules over within {LIMIT:?}: see {log}", log = log.display())]
    NotTaken {
        /// Its log.
        log: PathBuf,
    },
}

/// What is wrong with one direction of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Nothing gets through.
    pub cut: bool,
    /// Every byte arrives so much later.
    pub delay_ms: u64,
    /// Most bytes in a second.
    pub bandwidth: Option<u64>,
}

/// One direction of a link that has a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The site that sends.
    pub from: SiteName,
    /// The site that would receive.
    pub to: SiteName,
    /// What is wrong.
    #[serde(flatten)]
    pub fault: Fault,
}

/// All rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    schema: String,
    /// Counts changes, so that it can be told which are in force.
    generation: u64,
    rules: Vec<Rule>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { schema: SCHEMA.to_owned(), generation: 0, rules: Vec::new() }
    }
}

impl Faults {
    /// Reads the rules of the cluster in `dir`; no file means no faults. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(FILE);
        let bytes = match private_file::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(Error::File { path, source }),
        };
        let damaged = |why: String| Error::Damaged { path: path.clone(), why };
        let faults: Self = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if faults.schema != SCHEMA {
            return Err(damaged(format!("it is {:?}, this version reads {SCHEMA:?}", faults.schema)));
        }
        Ok(faults)
    }

    /// The directions that have a fault.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What is wrong with bytes from one site to another.
    pub fn of(&self, from: &SiteName, to: &SiteName) -> Fault {
        let rule = self.rules.iter().find(|rule| rule.from == *from && rule.to == *to);
        rule.map(|rule| rule.fault).unwrap_or_default()
    }

    /// Sets what is wrong with bytes from one site to another.
    pub fn set(&mut self, from: &SiteName, to: &SiteName, fault: Fault) {
        self.rules.retain(|rule| rule.from != *from || rule.to != *to);
        if fault != Fault::default() {
            self.rules.push(Rule { from: from.clone(), to: to.clone(), fault });
        }
    }

    /// Removes all rules.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }
}

/// Changes the rules of the cluster in `dir`; changes at the same time follow each other. Returns the new rules, which
/// are written but perhaps not in force yet. Blocks.
pub(super) fn change(dir: &Path, change: impl FnOnce(&mut Faults)) -> Result<Faults, Error> {
    let failed = |name: &str| {
        let path = dir.join(name);
        move |source| Error::File { path, source }
    };
    let lock: File = OpenOptions::new().create(true).append(true).open(dir.join(LOCK)).map_err(failed(LOCK))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(LOCK)(e.into()))?;
    let mut faults = Faults::read(dir)?;
    change(&mut faults);
    faults.generation += 1;
    let text = serde_json::to_vec_pretty(&faults).map_err(|e| failed(FILE)(e.into()))?;
    private_file::replace(dir, FILE, &text).map_err(failed(FILE))?;
    Ok(faults)
}

/// Removes the rules. Blocks.
pub(super) fn remove(dir: &Path) -> Result<(), Error> {
    for name in [FILE, APPLIED] {
        let path = dir.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(Error::File { path, source }),
            _ => {}
        }
    }
    Ok(())
}

/// Says that the rules of this generation are in force. Blocks briefly.
pub(super) fn mark_applied(dir: &Path, pid: u32, generation: u64) -> io::Result<()> {
    let temporary = dir.join(format!(".{APPLIED}.tmp"));
    std::fs::write(&temporary, format!("{pid} {generation}\n"))?;
    std::fs::rename(temporary, dir.join(APPLIED))
}

/// Waits until the proxy has rules of at least this generation in force. Blocks.
pub(super) fn await_applied(dir: &Path, proxy: Process, generation: u64, log: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + LIMIT;
    while !is_applied(dir, proxy.pid, generation) {
        if !proxy.is_alive() {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let last = text.lines().next_back().unwrap_or("it says nothing").to_owned();
            return Err(Error::Ended { last, log: log.to_owned() });
        }
        if Instant::now() > deadline {
            return Err(Error::NotTaken { log: log.to_owned() });
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn is_applied(dir: &Path, pid: u32, generation: u64) -> bool {
    let text = std::fs::read_to_string(dir.join(APPLIED)).unwrap_or_default();
    let mut numbers = text.split_whitespace();
    let by = numbers.next().and_then(|text| text.parse::<u32>().ok());
    let applied = numbers.next().and_then(|text| text.parse::<u64>().ok());
    by == Some(pid) && applied.is_some_and(|applied| applied >= generation)
}

/// Tells whether the file changed; nothing more depends on it.
pub(super) fn stamp(dir: &Path) -> Option<(u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(dir.join(FILE)).ok()?;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(name: &str) -> SiteName {
        SiteName::new(name).expect("a name")
    }

    #[test]
    fn rules_read_back_and_concern_one_direction() {
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b) = (site("site-a"), site("site-b"));
        assert_eq!(Faults::read(dir.path()).expect("none is fine"), Faults::default());
        let cut = Fault { cut: true, ..Fault::default() };
        let first = change(dir.path(), |faults| faults.set(&a, &b, cut)).expect("writable");
        let read = Faults::read(dir.path()).expect("it reads");
        assert_eq!((&read, read.of(&a, &b), read.of(&b, &a)), (&first, cut, Fault::default()));
        let second = change(dir.path(), |faults| faults.set(&a, &b, Fault::default())).expect("writable");
        assert!(second.rules().is_empty() && second.generation() == first.generation() + 1);
        remove(dir.path()).expect("it was there");
        assert_eq!(stamp(dir.path()), None);
    }

    #[test]
    fn only_this_proxy_and_this_generation_count_as_in_force() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!is_applied(dir.path(), 7, 0));
        mark_applied(dir.path(), 7, 3).expect("writable");
        assert!(is_applied(dir.path(), 7, 3) && is_applied(dir.path(), 7, 2));
        assert!(!is_applied(dir.path(), 7, 4) && !is_applied(dir.path(), 8, 3));
    }

    #[test]
    fn damaged_rules_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(FILE), "{").expect("writable");
        assert!(matches!(Faults::read(dir.path()), Err(Error::Damaged { .. })));
    }
}
