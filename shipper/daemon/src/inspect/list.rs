//! Directories and trees.

use std::time::Duration;

use cfs_model::op::StreamPosition;
use cfs_model::{Lsn, Vector};
use cfs_rpc::v1;
use cfs_store::Store;
use cfs_store::view::DentryView;
use tonic::Status;

use super::{Sink, node_view, store_error};
use crate::digests::wait_applied;
use crate::node::Node;

/// Names read from the store at a time.
const PAGE: usize = 512;
/// Items in one message.
const ITEMS: usize = 128;
/// Directories nest no deeper: a cycle of renames must not make a listing endless.
const MAX_DEPTH: usize = 4096;
/// A caller that waits for its own write does so for this long.
const WAIT: Duration = Duration::from_secs(30);
const DIRECTORY: u8 = 4;

/// Waits until `position` is applied here.
pub(super) async fn wait_for(node: &Node, position: Option<&StreamPosition>) -> Result<(), Status> {
    let Some(position) = position else { return Ok(()) };
    let stream = position.stream().ok_or_else(|| Status::invalid_argument("the position is not one"))?;
    let wanted: Vector = [(stream, Lsn(position.lsn))].into_iter().collect();
    if wait_applied(node, &wanted, WAIT).await {
        return Ok(());
    }
    Err(Status::deadline_exceeded(format!(
        "{} has not applied {stream} up to {} within {} s; see cfs admin replication cursor status",
        node.site(),
        position.lsn,
        WAIT.as_secs()
    )))
}

/// One directory, or some names of it; the paths are names.
pub(super) fn directory(
    store: &dyn Store,
    inode: u64,
    names: &[bytes::Bytes],
    out: &Sink<v1::ListReply>,
) -> Result<(), Status> {
    let mut reply = Reply::new(out);
    if names.is_empty() {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = store.read_dir(inode, after.as_deref(), PAGE).map_err(store_error)?;
            let Some(last) = page.last() else { break };
            after = Some(last.name.clone());
            for entry in page {
                reply.add(store, entry.name.clone(), &entry)?;
            }
        }
    }
    for name in names {
        if let Some(entry) = store.entry(inode, name).map_err(store_error)? {
            reply.add(store, entry.name.clone(), &entry)?;
        }
    }
    reply.flush()
}

/// A path, and what is below it.
pub(super) fn tree(store: &dyn Store, path: &[u8], recursive: bool, out: &Sink<v1::ListReply>) -> Result<(), Status> {
    let (path, start) = resolve(store, path)?;
    let mut reply = Reply::new(out);
    let mut open: Vec<Directory> = Vec::new();
    reply.add(store, path.clone(), &start)?;
    if start.kind == DIRECTORY {
        open.push(Directory::new(start.inode, path));
    }
    while let Some(directory) = open.last_mut() {
        let Some(entry) = directory.next(store)? else {
            open.pop();
            continue;
        };
        let mut path = directory.path.clone();
        if path != b"/" {
            path.push(b'/');
        }
        path.extend_from_slice(&entry.name);
        let descend = recursive && entry.kind == DIRECTORY && open.iter().all(|above| above.inode != entry.inode);
        reply.add(store, path.clone(), &entry)?;
        if descend {
            if open.len() == MAX_DEPTH {
                return Err(Status::out_of_range(format!("directories nest deeper than {MAX_DEPTH}")));
            }
            open.push(Directory::new(entry.inode, path));
        }
    }
    reply.flush()
}

/// The entry at an absolute path, and the path without superfluous slashes.
fn resolve(store: &dyn Store, path: &[u8]) -> Result<(Vec<u8>, DentryView), Status> {
    let shown = || String::from_utf8_lossy(path).into_owned();
    let missing = || Status::not_found(format!("{} does not exist in this site's store", shown()));
    let mut entry = store.entry(0, b"/").map_err(store_error)?.ok_or_else(|| {
        Status::not_found("this site's store has no root directory yet: nothing was imported or replicated")
    })?;
    if path.first() != Some(&b'/') {
        return Err(Status::invalid_argument(format!("{} is not an absolute path: start it with /", shown())));
    }
    let mut clean = Vec::new();
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        clean.push(b'/');
        clean.extend_from_slice(name);
        entry = store.entry(entry.inode, name).map_err(store_error)?.ok_or_else(missing)?;
    }
    if clean.is_empty() {
        clean.push(b'/');
    }
    Ok((clean, entry))
}

/// A directory that is being listed, page by page.
struct Directory {
    inode: u64,
    path: Vec<u8>,
    page: std::vec::IntoIter<DentryView>,
    last: Option<Vec<u8>>,
}

impl Directory {
    fn new(inode: u64, path: Vec<u8>) -> Self {
        Self { inode, path, page: Vec::new().into_iter(), last: None }
    }

    fn next(&mut self, store: &dyn Store) -> Result<Option<DentryView>, Status> {
        if self.page.as_slice().is_empty() {
            let page = store.read_dir(self.inode, self.last.as_deref(), PAGE).map_err(store_error)?;
            self.last = page.last().map(|entry| entry.name.clone()).or(self.last.take());
            self.page = page.into_iter();
        }
        Ok(self.page.next())
    }
}

/// Gathers items into messages.
struct Reply<'a> {
    out: &'a Sink<v1::ListReply>,
    items: Vec<v1::ListItem>,
}

impl<'a> Reply<'a> {
    fn new(out: &'a Sink<v1::ListReply>) -> Self {
        Self { out, items: Vec::with_capacity(ITEMS) }
    }

    /// Adds an entry; one whose inode does not exist goes without attributes.
    fn add(&mut self, store: &dyn Store, path: Vec<u8>, entry: &DentryView) -> Result<(), Status> {
        let node = store.inode(entry.inode).map_err(store_error)?.and_then(node_view::node);
        let node = node.unwrap_or_else(|| v1::Node { inode: entry.inode, ..v1::Node::default() });
        self.items.push(v1::ListItem { path: path.into(), node: Some(node) });
        if self.items.len() == ITEMS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Status> {
        if self.items.is_empty() {
            return Ok(());
        }
        let items = std::mem::replace(&mut self.items, Vec::with_capacity(ITEMS));
        self.out.blocking_send(Ok(v1::ListReply { items })).map_err(|_| Status::cancelled("the caller is gone"))
    }
}
