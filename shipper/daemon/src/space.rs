//! Room on disk: the site turns read-only before a write can fail, and takes writes again when space is back.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cfs_audit::{Event, Kind, Severity};

use crate::node::Node;

/// How often free space is read. At 500 MB/s no more than 10 MB arrive in between.
const INTERVAL: Duration = Duration::from_millis(20);
/// What the store may grow by for each entry that is in the journal and not applied yet: that growth cannot be stopped
/// any more when appends are. About twice what creates take.
const BYTES_PER_PENDING_ENTRY: u64 = 1024;
/// A reserve never takes more than this share of a small disk.
const LARGEST_SHARE: u64 = 10;

/// Free space on the disk with journal and store.
#[derive(Debug)]
pub(crate) struct Space {
    directory: PathBuf,
    /// Space that is kept free of appends.
    reserve_bytes: u64,
    /// The disk's size.
    total_bytes: u64,
    free_bytes: AtomicU64,
    read_only: AtomicBool,
}

impl Space {
    /// Looks at the disk of `directory`. Blocks.
    ///
    /// Half of the reserve is a file, so that it is there even if something else fills the disk. If the disk is full
    /// now, the file is given up, so that the start can recover and apply what is in the journal.
    pub(crate) fn new(directory: &Path, reserve_bytes: u64) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(directory)?;
        let total_bytes = stat.f_blocks * stat.f_frsize;
        let reserve_bytes = reserve_bytes.min(total_bytes / LARGEST_SHARE);
        let free = stat.f_bavail * stat.f_frsize;
        let space = Self {
            directory: directory.to_owned(),
            reserve_bytes,
            total_bytes,
            free_bytes: AtomicU64::new(free),
            read_only: AtomicBool::new(free < reserve_bytes / 2),
        };
        if space.is_read_only() {
            space.give_up_reserve()?;
        }
        space.refresh(0)?;
        Ok(space)
    }

    /// Whether appends and pulls have to wait for space.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// Size of the disk.
    pub(crate) const fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Removes the reserve's file, so that there is room for what frees more. Returns whether it was there. Blocks.
    pub(crate) fn give_up_reserve(&self) -> io::Result<bool> {
        match std::fs::remove_file(self.file()) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// What an operator is told.
    pub(crate) fn why(&self) -> String {
        format!(
            "{} has {} MiB free, {} MiB are reserved: free some space or enlarge the disk; appends resume by themselves",
            self.directory.display(),
            self.free_bytes() >> 20,
            self.reserve_bytes >> 20,
        )
    }

    fn file(&self) -> PathBuf {
        self.directory.join("reserve")
    }

    /// Reads free space again, of which `pending_entries` will still take some; makes the reserve's file if there is ample
    /// room. Returns whether the answer changed. Blocks.
    fn refresh(&self, pending_entries: u64) -> io::Result<bool> {
        let stat = rustix::fs::statvfs(&self.directory)?;
        let free = stat.f_bavail * stat.f_frsize;
        self.free_bytes.store(free, Ordering::Relaxed);
        let was = self.is_read_only();
        // The file holds the other half. Some slack on the way back keeps the answer from flapping.
        let threshold = self.reserve_bytes / 2 + pending_entries * BYTES_PER_PENDING_ENTRY;
        let now = free < if was { threshold + threshold / 4 } else { threshold };
        self.read_only.store(now, Ordering::Release);
        if !now && free > 2 * self.reserve_bytes && !self.file().exists() {
            make_reserve(&self.file(), self.reserve_bytes / 2)?;
        }
        Ok(was != now)
    }
}

fn make_reserve(path: &Path, bytes: u64) -> io::Result<()> {
    let file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        // A file system that cannot reserve keeps the low-water mark alone.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSPC) => std::fs::remove_file(path),
        other => Ok(other?),
    }
}

/// Watches the disk for as long as the process lives.
pub(crate) async fn watch(node: Arc<Node>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let looking = node.clone();
        match tokio::task::spawn_blocking(move || looking.space.refresh(looking.positions.pending_entries())).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => {
                if node.space.is_read_only() {
                    node.metrics.error("disk_full");
                    let text = format!("ERROR: read-only: {}", node.space.why());
                    node.audit(Event::new(Kind::Disk, Severity::Error, text));
                    tracing::error!("read-only: {}", node.space.why());
                } else {
                    node.audit(Event::new(Kind::Disk, Severity::Info, "space is back, appends resume"));
                    tracing::info!(free_bytes = node.space.free_bytes(), "space is back, appends resume");
                }
                node.signals.role.bump();
            }
            Ok(Err(error)) => tracing::warn!(%error, "free space cannot be read"),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_room_takes_writes_and_holds_a_reserve() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(dir.path(), 1 << 20).unwrap();
        assert!(!space.is_read_only());
        assert_eq!(std::fs::metadata(dir.path().join("reserve")).unwrap().len(), 1 << 19);
    }
}
