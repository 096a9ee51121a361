//! Counts a tree while it is walked, so that progress has a total.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::disk::Directory;

/// A directory, and the names and numbers of its subdirectories that are left.
type Open = (Directory, Vec<(Vec<u8>, u64)>);

/// A count that grows until it is complete.
#[derive(Debug, Default)]
pub struct Count {
    entries: AtomicU64,
    complete: AtomicBool,
}

impl Count {
    /// Starts counting everything below `root`, in a thread of its own. It ends when nobody holds
    /// the count any more.
    pub fn start(root: Directory) -> Arc<Self> {
        let count = Arc::new(Self { entries: AtomicU64::new(1), complete: AtomicBool::new(false) });
        let shared = count.clone();
        tokio::task::spawn_blocking(move || shared.run(root));
        count
    }

    /// Entries so far, and whether those are all.
    pub fn get(&self) -> (u64, bool) {
        (self.entries.load(Ordering::Relaxed), self.complete.load(Ordering::Relaxed))
    }

    fn run(self: Arc<Self>, root: Directory) {
        let mut open: Vec<Open> = Vec::new();
        let enter = |directory: Directory, open: &mut Vec<Open>| {
            let (entries, children) = directory.census();
            self.entries.fetch_add(entries, Ordering::Relaxed);
            if !children.is_empty() {
                open.push((directory, children));
            }
        };
        enter(root, &mut open);
        while let Some((directory, children)) = open.last_mut() {
            if Arc::strong_count(&self) == 1 {
                return;
            }
            let Some((name, inode)) = children.pop() else {
                open.pop();
                continue;
            };
            // The last subdirectory needs its parent no longer: a deep chain holds one directory open, not all.
            let child = directory.open_child(&name, inode);
            if children.is_empty() {
                open.pop();
            }
            if let Ok(child) = child {
                enter(child, &mut open);
            }
        }
        self.complete.store(true, Ordering::Relaxed);
    }
}
