//! Keeps the journal up with a tree as it changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cfs_model::op::{InodeKind, StreamPosition};
use tokio::time::MissedTickBehavior;

use super::ROOT_NAME;
use super::compare::{Child, Gone, Seen, Sides, compare, unknown};
use super::disk::{Directory, DiskEntry, Listing};
use super::emit::Emitter;
use super::held::Store;
use super::marked::Marked;
use super::removal::Removal;
use super::walk::{Job, Walk, apply, joined};
use super::watch::{Place, Watcher};

/// What happens together is compared together: so a rename is one, and a burst of writes is looked at once.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// How many times in a row a directory is looked for before everything is compared.
const MAX_TRIES: u32 = 5;

/// Follows one tree.
pub struct Follower<'a> {
    /// The local site's store.
    pub store: &'a Store,
    /// Where changes go.
    pub emitter: &'a mut Emitter,
    /// Watches the tree's directories already.
    pub watcher: Arc<Watcher>,
    /// The tree.
    pub root: Directory,
    /// The last position journalled so far.
    pub applied: Option<StreamPosition>,
    /// How often everything is compared, whatever events say.
    pub rescan_interval: Duration,
    /// Whether each set of changes is told on standard error.
    pub verbose: bool,
    /// Directories that were marked and not found where they should be, and how many times in a row.
    pub missed: HashMap<u64, u32>,
}

impl Follower<'_> {
    /// Follows until `stop` ends. A set of changes that was begun is journalled first.
    ///
    /// # Errors
    /// When the tree's root or the store cannot be read, or the journal not be appended to.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let mut stop = std::pin::pin!(stop);
        let mut rescan = tokio::time::interval(self.rescan_interval);
        rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        rescan.reset();
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                _ = rescan.tick() => self.rescan("it is time to").await?,
                () = self.watcher.changed() => {
                    tokio::time::sleep(DEBOUNCE).await;
                    let marked = self.watcher.take();
                    if marked.everything {
                        self.rescan("events were lost, or directories moved while they were read").await?;
                        rescan.reset();
                    } else {
                        self.apply(marked).await?;
                    }
                }
            }
        }
    }

    async fn rescan(&mut self, why: &str) -> anyhow::Result<()> {
        anstream::eprintln!("comparing the whole tree again: {why}");
        self.emitter.summary.rescans += 1;
        let before = self.emitter.summary.entries_appended;
        let root = self.root.clone();
        let node = tokio::task::spawn_blocking(move || root.node()).await??;
        self.watcher.begin_pass();
        let walk = Walk::new(self.store, self.emitter, false).watched(self.watcher.clone());
        let position = walk.run(self.root.clone(), node, self.applied).await?;
        self.watcher.end_pass();
        self.applied = position.or(self.applied);
        let appended = self.emitter.summary.entries_appended - before;
        anstream::eprintln!("compared the whole tree: {appended} entries appended");
        Ok(())
    }

    /// Journals what changed under the names marked.
    async fn apply(&mut self, mut marked: Marked) -> anyhow::Result<()> {
        let before = self.emitter.summary.entries_appended;
        let mut seen = Seen::new();
        let (mut gone, mut jobs) = (Vec::new(), Vec::new());
        for (way, inode) in self.in_order(&mut marked) {
            let Some(names) = marked.names.get(&inode).map(|names| names.iter().cloned().collect()) else { continue };
            if self.compare(way, inode, names, &mut seen, &mut gone, &mut jobs).await? {
                marked.names.remove(&inode);
            }
        }
        let walk = Walk::new(self.store, self.emitter, false).watched(self.watcher.clone());
        let (gone_below, seen) = walk.having_seen(seen).below(jobs).await?;
        gone.extend(gone_below);
        self.applied = self.emitter.settle().await?.or(self.applied);
        self.remove(gone, &seen).await?;
        self.applied = self.emitter.settle().await?.or(self.applied);
        self.try_again(marked);
        let appended = self.emitter.summary.entries_appended - before;
        if self.verbose && appended > 0 {
            let at = self
                .applied
                .map_or_else(String::new, |p| format!(", durable at {}.{}:{}", p.site, p.incarnation, p.lsn));
            anstream::eprintln!("{appended} entries appended{at}");
        }
        Ok(())
    }

    /// Directories that were not where they had been found last moved meanwhile: they are looked at once more, until
    /// they are found or are known to have gone.
    fn try_again(&mut self, missed: Marked) {
        let known = |(inode, _): &(u64, HashSet<Bytes>)| self.watcher.place(*inode).is_some();
        let missed: Vec<_> = missed.names.into_iter().filter(known).collect();
        let tries = |inode: &u64| self.missed.get(inode).map_or(1, |tries| tries + 1);
        self.missed = missed.iter().map(|(inode, _)| (*inode, tries(inode))).collect();
        if self.missed.values().any(|tries| *tries > MAX_TRIES) {
            self.missed.clear();
            return self.watcher.lose();
        }
        for (inode, names) in missed {
            names.into_iter().for_each(|name| self.watcher.mark(inode, name));
        }
    }

    /// The directories marked, each after those above it, with the ways to them. A change in a directory also changes
    /// the directory itself, so its own name is marked too.
    fn in_order(&self, marked: &mut Marked) -> Vec<(Vec<(Bytes, u64)>, u64)> {
        let changed: Vec<u64> = marked.names.keys().copied().filter(|inode| *inode != 0).collect();
        for inode in changed {
            if let Some(place) = self.watcher.place(inode) {
                marked.mark(place.parent, place.name);
            }
        }
        let way = |inode: &u64| Some((if *inode == 0 { Vec::new() } else { self.watcher.way(*inode)? }, *inode));
        let mut ordered: Vec<_> = marked.names.keys().filter_map(way).collect();
        // The root's own name, in directory 0, before names in the root.
        ordered.sort_by_key(|(way, inode)| (way.len(), *inode != 0));
        ordered
    }

    /// Compares names of one directory; whether it was where it is expected.
    async fn compare(
        &mut self,
        way: Vec<(Bytes, u64)>,
        inode: u64,
        names: Vec<Bytes>,
        seen: &mut Seen,
        gone: &mut Vec<Gone>,
        jobs: &mut Vec<Job>,
    ) -> anyhow::Result<bool> {
        let path = way.iter().fold(Bytes::new(), |path, (name, _)| joined(&path, name));
        let Some((directory, listing)) = self.look(way, inode, names.clone()).await? else { return Ok(false) };
        for trouble in &listing.troubles {
            self.emitter.summary.trouble(&joined(&path, &trouble.name), &trouble.kind);
        }
        let held = self.store.names(inode, names, self.applied).await?;
        let elsewhere = self.store.nodes(unknown(&listing.entries, &held)).await?;
        let sides = Sides { parent: inode, disk: &listing.entries, complete: inode != 0, held, elsewhere: &elsewhere };
        let changes = compare(sides, seen);
        apply(&changes, &path, self.store, self.emitter, gone).await?;
        self.watcher.look_again(inode, &changes.moved);
        changes.emptied.iter().for_each(|emptied| self.watcher.left(*emptied));
        let new = |child: &Child| {
            let watched = self.watcher.is_watched_at(child.inode, inode, &child.name);
            inode != 0 && (!watched || changes.emptied.contains(&child.inode))
        };
        let children: Vec<Child> = changes.children.into_iter().filter(new).collect();
        self.watcher.moved(inode, &children);
        for child in children {
            let path = joined(&path, &child.name);
            let (name, mtime) = (child.name, child.mtime);
            jobs.push(Job { above: directory.clone(), parent: inode, name, inode: child.inode, mtime, path });
        }
        gone.extend(changes.gone);
        Ok(true)
    }

    /// Reads names of a directory on disk. `None` if it is not where it was.
    async fn look(
        &self,
        way: Vec<(Bytes, u64)>,
        inode: u64,
        names: Vec<Bytes>,
    ) -> anyhow::Result<Option<(Directory, Listing)>> {
        let root = self.root.clone();
        let looked = tokio::task::spawn_blocking(move || {
            if inode == 0 {
                let entries = vec![DiskEntry { name: ROOT_NAME, node: root.node().ok() }];
                return Some((root, Listing { entries, troubles: Vec::new() }));
            }
            let directory = way.iter().try_fold(root, |above, (name, inode)| above.open_child(name, *inode)).ok()?;
            let listing = directory.some(names);
            Some((directory, listing))
        });
        Ok(looked.await?)
    }

    /// Removes names. Of other inodes than directories that were not `seen`, the store's count of names says whether
    /// they are gone too.
    async fn remove(&mut self, gone: Vec<Gone>, seen: &Seen) -> anyhow::Result<()> {
        let watcher = self.watcher.clone();
        let alive = |gone: &Gone| {
            let moved = |place: Place| place.parent != gone.parent || place.name != gone.name;
            seen.contains_key(&gone.inode)
                || gone.kind == InodeKind::Directory && watcher.place(gone.inode).is_some_and(moved)
        };
        let left: Vec<u64> =
            gone.iter().filter(|g| g.kind == InodeKind::Directory && !alive(g)).map(|g| g.inode).collect();
        let mut removal = Removal::new(self.store, &alive);
        removal.run(gone, self.applied, self.emitter).await?;
        left.into_iter().for_each(|inode| self.watcher.left(inode));
        // What was changed under the name that went shows under the others, of which there are no events.
        let survivors = removal.survivors();
        if !survivors.is_empty() {
            self.applied = self.emitter.settle().await?.or(self.applied);
            self.store.names(0, vec![ROOT_NAME], self.applied).await?;
        }
        for inode in survivors {
            if let Some(path) = self.store.path(inode).await? {
                self.mark_path(path).await?;
            }
        }
        Ok(())
    }

    /// Marks a path of the tree, if it leads anywhere.
    async fn mark_path(&self, path: Bytes) -> anyhow::Result<()> {
        let (root, watcher) = (self.root.clone(), self.watcher.clone());
        let marking = tokio::task::spawn_blocking(move || {
            let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
            let last = names.pop()?;
            let above = names.into_iter().try_fold(root, |above, name| above.open_any(name)).ok()?;
            watcher.mark(above.node().ok()?.inode, Bytes::copy_from_slice(last));
            Some(())
        });
        marking.await?;
        Ok(())
    }
}
