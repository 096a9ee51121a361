//! Proof that the append path works, its disk included: a commit is one, and while there is none, a probe through the same
//! queue and the same thread.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cfs_service::Watchdog;
use tokio::sync::mpsc;

use crate::fatal::fatal;
use crate::node::Node;
use crate::path::commit::Work;

/// While nothing else proves it, a probe goes out so often.
const INTERVAL: Duration = Duration::from_millis(150);
/// While this site is primary, a probe writes to the journal's disk so often.
const DISK_INTERVAL_MS: u64 = 500;
/// The file that probes write to, in the directory of the journal.
const FILE: &str = ".append-path";

/// When the append path last proved that it works.
#[derive(Debug)]
pub(crate) struct Proof {
    at_ms: AtomicU64,
    asked: AtomicBool,
    /// What proves that the append path works is the sign of life of this process.
    watchdog: Watchdog,
}

impl Proof {
    pub(crate) fn new(now_ms: u64) -> Self {
        let watchdog = Watchdog::of_environment();
        Self { at_ms: AtomicU64::new(now_ms), asked: AtomicBool::new(false), watchdog }
    }

    /// The append path did its work.
    pub(crate) fn given(&self, now_ms: u64) {
        self.at_ms.store(now_ms, Ordering::Release);
        self.watchdog.alive(now_ms);
    }

    /// A probe has arrived; another may be sent.
    pub(crate) fn arrived(&self) {
        self.asked.store(false, Ordering::Release);
    }

    pub(crate) fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.at_ms.load(Ordering::Acquire))
    }

    /// Whether a probe is to be sent now: one at a time is under way.
    fn is_due(&self, now_ms: u64) -> bool {
        u128::from(self.age_ms(now_ms)) + 1 >= INTERVAL.as_millis() && !self.asked.swap(true, Ordering::AcqRel)
    }
}

/// Sends probes for as long as the process lives.
pub(crate) async fn keep_proving(node: Arc<Node>, queue: mpsc::UnboundedSender<Work>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if node.proof.is_due(node.boot_ms()) && queue.send(Work::Prove).is_err() {
            return;
        }
    }
}

/// The group commit's end of a probe.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    file: Option<File>,
    proved_at_ms: Option<u64>,
}

impl Disk {
    /// Proves that the thread runs and, on a primary, that its disk answers. Blocks. A disk that fails ends the process, as
    /// it would for a commit; a full one does not, since that is told to producers otherwise.
    pub(crate) fn prove(&mut self, node: &Node) {
        let now_ms = node.boot_ms();
        let due = self.proved_at_ms.is_none_or(|at| now_ms.saturating_sub(at) >= DISK_INTERVAL_MS);
        if node.governed.is_told_primary() && due {
            let is_full =
                |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            if let Err(error) = self.write(node.config.journal_dir())
                && !is_full(&error)
            {
                fatal("the journal's disk cannot be written", &error);
            }
            self.proved_at_ms = Some(now_ms);
        }
        node.proof.given(node.boot_ms());
    }

    fn write(&mut self, directory: &Path) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                let path = directory.join(FILE);
                let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
                self.file.insert(file)
            }
        };
        file.write_all_at(b"alive\n", 0)?;
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_probe_at_a_time_and_only_without_commits() {
        let proof = Proof::new(1000);
        assert!(!proof.is_due(1100), "a proof is fresh");
        assert!(proof.is_due(1150));
        assert!(!proof.is_due(1400), "the last one has not arrived");
        assert_eq!(proof.age_ms(1400), 400, "a thread that hangs shows");
        proof.arrived();
        proof.given(1400);
        assert!(!proof.is_due(1450) && proof.is_due(1550));
    }

    #[test]
    fn a_probe_writes_to_the_disk_of_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = Disk::default();
        disk.write(dir.path()).unwrap();
        disk.write(dir.path()).unwrap();
        assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), b"alive\n");
        assert!(Disk::default().write(&dir.path().join("missing")).is_err());
    }
}
