//! One pass over the whole tree: several directories are read at a time, and compared and journalled one after another.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cfs_model::op::{StreamPosition, Time};
use cfs_rpc::v1::Node;
use rustix::io::Errno;
use tokio::task::JoinSet;

use super::compare::{Changes, Gone, Seen, Sides, changed_since, compare, unknown};
use super::disk::{Directory, DiskEntry, DiskNode, Listing, TroubleKind};
use super::emit::Emitter;
use super::held::{Names, Store};
use super::progress::Progress;
use super::removal::Removal;
use super::watch::{Place, Watcher};

/// Directories that are read at the same time.
const IN_FLIGHT: usize = 8;

/// A directory to be read.
#[derive(Debug)]
pub struct Job {
    /// The directory that it is in; for the root, itself.
    pub above: Directory,
    /// Number of that directory; 0 for the root.
    pub parent: u64,
    /// Its name there.
    pub name: Bytes,
    /// Its number.
    pub inode: u64,
    /// When it was changed last, as journalled.
    pub mtime: Option<Time>,
    /// Its path within the tree, for messages.
    pub path: Bytes,
}

/// A directory as it was read.
struct Reading {
    job: Job,
    directory: Directory,
    /// Itself, after it was watched and read.
    node: Option<DiskNode>,
    listing: Listing,
    held: Names,
    elsewhere: HashMap<u64, Node>,
}

enum Read {
    Done(Box<Reading>),
    /// Its number, where it was to be, its path, and what happened.
    Failed(u64, Place, Bytes, Errno),
}

/// A walk, and what it has met.
pub struct Walk<'a> {
    store: &'a Store,
    emitter: &'a mut Emitter,
    watcher: Option<Arc<Watcher>>,
    progress: Option<Progress>,
    /// The store holds nothing but what this walk journals.
    fresh: bool,
    seen: Seen,
    gone: Vec<Gone>,
}

impl<'a> Walk<'a> {
    /// Compares with `store` and appends through `emitter`. With `fresh` the store is taken to be empty and not read.
    pub fn new(store: &'a Store, emitter: &'a mut Emitter, fresh: bool) -> Self {
        Self { store, emitter, watcher: None, progress: None, fresh, seen: Seen::new(), gone: Vec::new() }
    }

    /// Watches every directory before it is read.
    pub fn watched(mut self, watcher: Arc<Watcher>) -> Self {
        self.watcher = Some(watcher);
        self
    }

    /// Goes on from a comparison that met these already.
    pub(super) fn having_seen(mut self, seen: Seen) -> Self {
        self.seen = seen;
        self
    }

    /// Shows how far it is.
    pub fn shown(mut self, progress: Progress) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Walks the whole tree, then removes what is gone. Everything is durable and applied here when it returns. `applied` is the last
    /// position that the store must have reached to be compared with.
    ///
    /// # Errors
    /// When the store cannot be read or the journal not be appended to; what cannot be read on disk is counted.
    pub async fn run(
        mut self,
        root: Directory,
        node: DiskNode,
        applied: Option<StreamPosition>,
    ) -> anyhow::Result<Option<StreamPosition>> {
        let (inode, mtime) = (node.inode, node.attributes.mtime);
        let held = self.store.names(0, vec![super::ROOT_NAME], applied).await?;
        let entry = DiskEntry { name: super::ROOT_NAME, node: Some(node) };
        let sides = Sides {
            parent: 0,
            disk: &[entry],
            complete: false,
            held,
            elsewhere: &self.store.nodes(vec![inode]).await?,
        };
        let changes = compare(sides, &mut self.seen);
        self.apply(&changes, b"").await?;
        self.gone.extend(changes.gone);
        self.emitter.summary.seen += 1;
        let job = Job { above: root, parent: 0, name: super::ROOT_NAME, inode, mtime, path: Bytes::new() };
        self.descend(vec![job]).await?;
        let applied = self.emitter.settle().await?.or(applied);
        let seen = &self.seen;
        let alive = |gone: &Gone| seen.contains_key(&gone.inode);
        Removal::new(self.store, &alive).run(self.gone, applied, self.emitter).await?;
        if let Some(progress) = &self.progress {
            progress.finish();
        }
        let end = self.emitter.settle().await?.or(applied);
        // Whoever looks at this site's store next sees the tree.
        self.store.names(0, vec![super::ROOT_NAME], end).await?;
        Ok(end)
    }

    /// Walks what is below `jobs`, directories that are journalled already. What is gone is left in the answer, with all
    /// that was met.
    ///
    /// # Errors
    /// As [`Walk::run`].
    pub async fn below(mut self, jobs: Vec<Job>) -> anyhow::Result<(Vec<Gone>, Seen)> {
        self.descend(jobs).await?;
        Ok((self.gone, self.seen))
    }

    async fn descend(&mut self, mut waiting: Vec<Job>) -> anyhow::Result<()> {
        let mut reading: JoinSet<anyhow::Result<Read>> = JoinSet::new();
        loop {
            while reading.len() < IN_FLIGHT
                && let Some(job) = waiting.pop()
            {
                reading.spawn(read(job, self.store.clone(), self.fresh, self.watcher.clone()));
            }
            let Some(read) = reading.join_next().await else { return Ok(()) };
            match read?? {
                Read::Done(reading) => waiting.extend(self.compare(*reading).await?),
                Read::Failed(inode, place, path, error) => {
                    let trouble = TroubleKind::of(error);
                    self.emitter.summary.trouble(&path, &trouble);
                    if let (Some(watcher), TroubleKind::Vanished) = (&self.watcher, trouble) {
                        watcher.missed(inode, place);
                    }
                }
            }
        }
    }

    async fn compare(&mut self, reading: Reading) -> anyhow::Result<Vec<Job>> {
        let Reading { job, directory, node, listing, held, elsewhere } = reading;
        for trouble in &listing.troubles {
            self.emitter.summary.trouble(&joined(&job.path, &trouble.name), &trouble.kind);
        }
        let complete = Directory::is_complete(&listing);
        let sides = Sides { parent: job.inode, disk: &listing.entries, complete, held, elsewhere: &elsewhere };
        let changes = compare(sides, &mut self.seen);
        let count = listing.entries.len() as u64;
        self.emitter.summary.seen += count;
        self.apply(&changes, &job.path).await?;
        // Before it was watched, it may have changed unnoticed.
        let itself = node.and_then(|node| changed_since(job.mtime, &node));
        self.emitter.emit(itself.as_slice()).await?;
        if let Some(progress) = &mut self.progress {
            progress.advance(count);
        }
        if let Some(watcher) = &self.watcher {
            watcher.look_again(job.inode, &changes.moved);
            changes.emptied.iter().for_each(|emptied| watcher.left(*emptied));
            // Also when it cannot be opened any more: this is where the journal has it.
            watcher.moved(job.inode, &changes.children);
        }
        self.gone.extend(changes.gone);
        let child = |child: super::compare::Child| Job {
            above: directory.clone(),
            parent: job.inode,
            path: joined(&job.path, &child.name),
            name: child.name,
            inode: child.inode,
            mtime: child.mtime,
        };
        Ok(changes.children.into_iter().map(child).collect())
    }

    async fn apply(&mut self, changes: &Changes, path: &[u8]) -> anyhow::Result<()> {
        apply(changes, path, self.store, self.emitter, &mut self.gone).await
    }
}

/// Journals the changes of the directory at `path`; what was in directories that are none any more joins `gone`.
pub(super) async fn apply(
    changes: &Changes,
    path: &[u8],
    store: &Store,
    emitter: &mut Emitter,
    gone: &mut Vec<Gone>,
) -> anyhow::Result<()> {
    for child in &changes.moved {
        emitter.summary.trouble(&joined(path, &child.name), &TroubleKind::Vanished);
    }
    for parent in &changes.emptied {
        for (name, held) in store.names(*parent, Vec::new(), None).await? {
            gone.push(Gone { parent: *parent, name, inode: held.inode, kind: held.kind(), occupant: None });
        }
    }
    emitter.summary.created += changes.created;
    emitter.summary.updated += changes.updated;
    emitter.emit(&changes.ops).await
}

pub(super) fn joined(path: &[u8], name: &[u8]) -> Bytes {
    [path, if name.is_empty() { b"" } else { b"/" }, name].concat().into()
}

async fn read(job: Job, store: Store, fresh: bool, watcher: Option<Arc<Watcher>>) -> anyhow::Result<Read> {
    let (inode, path, place) = (job.inode, job.path.clone(), Place { parent: job.parent, name: job.name.clone() });
    let opened = tokio::task::spawn_blocking(move || look(job, watcher.as_deref())).await?;
    let mut reading = match opened {
        Ok(reading) => reading,
        // Something was mounted on it meanwhile.
        Err(Errno::XDEV) => return Ok(Read::Failed(inode, place, path, Errno::NOENT)),
        Err(error) => return Ok(Read::Failed(inode, place, path, error)),
    };
    if !fresh {
        reading.held = store.names(reading.job.inode, Vec::new(), None).await?;
        reading.elsewhere = store.nodes(unknown(&reading.listing.entries, &reading.held)).await?;
    }
    Ok(Read::Done(Box::new(reading)))
}

/// Reads a directory on disk. Blocks.
fn look(job: Job, watcher: Option<&Watcher>) -> Result<Reading, Errno> {
    let directory = if job.parent == 0 { job.above.clone() } else { job.above.open_child(&job.name, job.inode)? };
    // First watched, then read: what changes in between is seen twice, and not never.
    if let Some(watcher) = watcher {
        watcher.watch(&directory, job.inode, job.parent, job.name.clone());
    }
    let listing = directory.list();
    let node = directory.node().ok();
    Ok(Reading { job, directory, node, listing, held: Names::new(), elsewhere: HashMap::new() })
}
