//! A disk in memory that forgets, at a crash, any part of what was not synced, and that fails when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cfs_journal::{File, Files};

/// Writes reach the platter in pieces of this size, in any order.
const SECTOR: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This operation and all later ones fail, as after a power cut.
    Crash,
    /// This operation fails.
    Error(io::ErrorKind),
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

#[derive(Clone, Default)]
struct Node {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Entry {
    Add(OsString, Option<usize>),
    Move(OsString, OsString, Option<usize>),
    Remove(OsString),
}

#[derive(Clone, Default)]
struct Dir {
    durable: BTreeMap<OsString, Option<usize>>,
    current: BTreeMap<OsString, Option<usize>>,
    pending: Vec<Entry>,
}

#[derive(Default)]
struct Inner {
    nodes: Vec<Node>,
    dirs: BTreeMap<PathBuf, Dir>,
    locked: BTreeSet<PathBuf>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    log: Vec<&'static str>,
}

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct Disk(Arc<Mutex<Inner>>);

/// Small, fast and repeatable.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => {
                let end = offset + data.len();
                to.resize(to.len().max(end), 0);
                to[*offset..end].copy_from_slice(data);
            }
            Self::Length(len) => to.resize(*len, 0),
        }
    }
}

impl Entry {
    fn apply(&self, to: &mut BTreeMap<OsString, Option<usize>>) {
        match self {
            Self::Add(name, node) => drop(to.insert(name.clone(), *node)),
            Self::Move(from, name, node) => {
                to.remove(from);
                to.insert(name.clone(), *node);
            }
            Self::Remove(name) => drop(to.remove(name)),
        }
    }
}

fn split(path: &Path) -> (PathBuf, OsString) {
    (path.parent().unwrap().to_owned(), path.file_name().unwrap().to_owned())
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Inner {
    /// Counts an operation that changes something; says how it shall fail.
    fn operation(&mut self, name: &'static str) -> Option<io::Error> {
        self.operations += 1;
        self.log.push(name);
        match self.fault {
            Some((at, Fault::Crash)) if self.operations >= at => Some(io::Error::other("the power is cut")),
            Some((at, Fault::Error(kind))) if self.operations == at => Some(kind.into()),
            _ => None,
        }
    }

    fn dead(&self) -> bool {
        matches!(self.fault, Some((at, Fault::Crash)) if self.operations > at)
    }

    fn change_dir(&mut self, dir: &Path, entry: Entry) -> io::Result<()> {
        let dir = self.dirs.get_mut(dir).ok_or_else(not_found)?;
        entry.apply(&mut dir.current);
        dir.pending.push(entry);
        Ok(())
    }

    fn node(&self, path: &Path) -> io::Result<usize> {
        let (dir, name) = split(path);
        self.dirs.get(&dir).and_then(|d| *d.current.get(&name)?).ok_or_else(not_found)
    }
}

impl Disk {
    pub(crate) fn new() -> Self {
        let mut inner = Inner::default();
        inner.dirs.insert("/".into(), Dir::default());
        Self(Arc::new(Mutex::new(inner)))
    }

    pub(crate) fn files(&self) -> Arc<dyn Files> {
        Arc::new(self.clone())
    }

    /// How many operations that change something there were.
    pub(crate) fn operations(&self) -> u64 {
        self.0.lock().unwrap().operations
    }

    /// What operation number `n`, from 1, was.
    pub(crate) fn operation_name(&self, n: u64) -> &'static str {
        self.0.lock().unwrap().log[n as usize - 1]
    }

    /// Makes the `n`th operation from now fail, from 1.
    pub(crate) fn fail(&self, n: u64, fault: Fault) {
        let mut inner = self.0.lock().unwrap();
        inner.fault = Some((inner.operations + n, fault));
    }

    /// Kills the process: nothing is lost, and the disk works again.
    pub(crate) fn kill(&self) {
        let mut inner = self.0.lock().unwrap();
        inner.fault = None;
        inner.locked.clear();
    }

    /// Loses power: what was not synced survives in any part. Afterwards the disk works.
    pub(crate) fn crash(&self, seed: u64) {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
        // Also the extremes: everything survives, nothing does.
        let keeps = match seed % 4 {
            0 => 0,
            1 => 8,
            _ => 1 + random.below(7),
        };
        let mut inner = self.0.lock().unwrap();
        for node in &mut inner.nodes {
            for change in std::mem::take(&mut node.pending) {
                for piece in pieces(change) {
                    if random.below(8) < keeps {
                        piece.apply(&mut node.durable);
                    }
                }
            }
            node.current = node.durable.clone();
        }
        for dir in inner.dirs.values_mut() {
            for entry in std::mem::take(&mut dir.pending) {
                if random.below(8) < keeps {
                    entry.apply(&mut dir.durable);
                }
            }
            dir.current = dir.durable.clone();
        }
        inner.fault = None;
        inner.locked.clear();
    }

    /// What a file holds now.
    pub(crate) fn contents(&self, path: &Path) -> Vec<u8> {
        let inner = self.0.lock().unwrap();
        inner.nodes[inner.node(path).unwrap()].current.clone()
    }

    /// Puts contents into a file that exists, durably.
    pub(crate) fn put(&self, path: &Path, contents: &[u8]) {
        let mut inner = self.0.lock().unwrap();
        let node = inner.node(path).unwrap();
        inner.nodes[node] = Node { durable: contents.to_vec(), current: contents.to_vec(), pending: Vec::new() };
    }

    /// Another disk with the same contents.
    pub(crate) fn copy(&self) -> Self {
        let inner = self.0.lock().unwrap();
        let (nodes, dirs) = (inner.nodes.clone(), inner.dirs.clone());
        Self(Arc::new(Mutex::new(Inner { nodes, dirs, ..Inner::default() })))
    }
}

fn pieces(change: Change) -> Vec<Change> {
    match change {
        Change::Write { offset, data } => {
            let mut out = Vec::new();
            let mut at = 0;
            while at < data.len() {
                let end = data.len().min(at + SECTOR - (offset + at) % SECTOR);
                out.push(Change::Write { offset: offset + at, data: data[at..end].to_vec() });
                at = end;
            }
            out
        }
        other => vec![other],
    }
}

impl Files for Disk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        let (parent, name) = split(path);
        let Some(parent_dir) = inner.dirs.get(&parent) else {
            return Err(not_found());
        };
        if parent_dir.current.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let fault = inner.operation("create_dir");
        if inner.dead() {
            return Err(fault.unwrap());
        }
        inner.change_dir(&parent, Entry::Add(name, None))?;
        inner.dirs.entry(path.to_owned()).or_default();
        fault.map_or(Ok(()), Err)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let inner = self.0.lock().unwrap();
        Ok(inner.dirs.get(dir).ok_or_else(not_found)?.current.keys().cloned().collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut inner = self.0.lock().unwrap();
        if inner.node(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if let Some(fault) = inner.operation("create") {
            return Err(fault);
        }
        let (dir, name) = split(path);
        let node = inner.nodes.len();
        inner.nodes.push(Node::default());
        inner.change_dir(&dir, Entry::Add(name, Some(node)))?;
        Ok(Arc::new(Handle { disk: self.clone(), node }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let node = self.0.lock().unwrap().node(path)?;
        Ok(Arc::new(Handle { disk: self.clone(), node }))
    }

    fn open_read_only(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Files::open(self, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        let fault = inner.operation("rename");
        if inner.dead() {
            return Err(fault.unwrap());
        }
        let node = inner.node(from)?;
        let ((dir, from), (_, to)) = (split(from), split(to));
        inner.change_dir(&dir, Entry::Move(from, to, Some(node)))?;
        fault.map_or(Ok(()), Err)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        if let Some(fault) = inner.operation("remove") {
            return Err(fault);
        }
        let (dir, name) = split(path);
        inner.change_dir(&dir, Entry::Remove(name))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        if let Some(fault) = inner.operation("sync_dir") {
            return Err(fault);
        }
        let dir = inner.dirs.get_mut(path).ok_or_else(not_found)?;
        dir.pending.clear();
        dir.durable = dir.current.clone();
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut inner = self.0.lock().unwrap();
        if !inner.locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Lock { disk: self.clone(), path: path.to_owned() }))
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

struct Lock {
    disk: Disk,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.disk.0.lock().unwrap().locked.remove(&self.path);
    }
}

struct Handle {
    disk: Disk,
    node: usize,
}

impl Handle {
    fn change(&self, name: &'static str, change: Change) -> io::Result<()> {
        let mut inner = self.disk.0.lock().unwrap();
        let fault = inner.operation(name);
        if inner.dead() {
            return Err(fault.unwrap());
        }
        // What fails may have been done in part.
        let change = match change {
            Change::Write { offset, data } if fault.is_some() => {
                Change::Write { offset, data: data[..data.len() / 2].to_vec() }
            }
            other => other,
        };
        let node = &mut inner.nodes[self.node];
        change.apply(&mut node.current);
        node.pending.push(change);
        fault.map_or(Ok(()), Err)
    }

    fn sync(&self, name: &'static str) -> io::Result<()> {
        let mut inner = self.disk.0.lock().unwrap();
        if let Some(fault) = inner.operation(name) {
            return Err(fault);
        }
        let node = &mut inner.nodes[self.node];
        node.pending.clear();
        node.durable = node.current.clone();
        Ok(())
    }
}

impl File for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().unwrap().nodes[self.node].current.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let inner = self.disk.0.lock().unwrap();
        let bytes = inner.nodes[self.node].current.get(offset as usize..).unwrap_or_default();
        let n = bytes.len().min(buf.len());
        buf[..n].copy_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.change("write", Change::Write { offset: offset as usize, data: buf.to_vec() })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change("set_len", Change::Length(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync("sync_data")
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync("sync_all")
    }
}
