//! Where a node's state lies: one directory for each group and node, and a file that says which one is in use.
//!
//! ```text
//! control/current                   names the directory in use
//! control/GROUP-NODE/node.json      whose it is
//! control/GROUP-NODE/data.mdb       log and state
//! ```
//!
//! A directory that is no longer in use stays: it may be evidence. Everything here blocks.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use cfs_control_core::NodeId;
use cfs_model::{ClusterId, Level, SiteId, SiteName};
use cfs_rpc::private_file;
use serde::{Deserialize, Serialize};

use super::disk::Disk;

/// The format that this version writes, and the only one that it reads.
pub const FORMAT: u32 = 1;
const CURRENT: &str = "current";
const NODE: &str = "node.json";
const LOCK: &str = "lock";

/// Why a node's state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is of another site.
    #[error(
        "{path} holds the state of {found}, but this process is {expected}: set paths.control to this site's own \
         directory, or correct site.name and site.id"
    )]
    OtherSite {
        /// Which directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asks.
        expected: String,
    },
    /// It is of another cluster.
    #[error(
        "{path} holds the state of cluster {found}, but cluster.id is {expected}: set paths.control to another \
         directory, or correct cluster.id"
    )]
    OtherCluster {
        /// Which directory.
        path: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Who asks.
        expected: ClusterId,
    },
    /// It is of another node than its name says: it was copied or renamed.
    #[error(
        "{path} holds the state of node {found}: it was copied or renamed. Put the directory back that belongs here; or \
         move the whole of paths.control away, start again, and bring this site back with `cfs admin replication rejoin --primary SITE`"
    )]
    OtherNode {
        /// Which directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
    },
    /// It cannot be read.
    #[error(
        "{path} is damaged: {reason}. A node must never go on with a part of its state: move the whole of \
         paths.control away, start again, and bring this site back with `cfs admin replication rejoin --primary SITE`"
    )]
    Damaged {
        /// What.
        path: PathBuf,
        /// In which way.
        reason: String,
    },
    /// A newer version wrote it.
    #[error("{path} has format {found}, this version reads {FORMAT}: run the version that wrote it, or a newer one")]
    Newer {
        /// What.
        path: PathBuf,
        /// The number that it holds.
        found: u32,
    },
    /// Another process uses it.
    #[error("{path} is in use by another process: stop the other cfs-control of this site")]
    InUse {
        /// Which directory.
        path: PathBuf,
    },
    /// A directory for this group and node exists already.
    #[error("{path} exists already: a node's number is never used twice. Move it away and try again")]
    Exists {
        /// Which directory.
        path: PathBuf,
    },
}

/// Whose state it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The site's name.
    pub site: SiteName,
    /// The site's number.
    pub site_id: SiteId,
    /// What it acts as.
    pub level: Level,
}

/// What `node.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    format: u32,
    cluster: ClusterId,
    site: SiteName,
    site_id: SiteId,
    group: u64,
    node: NodeId,
}

/// The format alone, which every version can read.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// A node's directory, open; no other process can open it meanwhile.
#[derive(Debug)]
pub struct GroupDir {
    path: PathBuf,
    group: u64,
    node: NodeId,
    disk: Disk,
    _lock: File,
}

impl GroupDir {
    /// The group.
    pub fn group(&self) -> u64 {
        self.group
    }

    /// The node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Log and state.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }
}

/// The directory in use below `control`, with its group and node, by its name alone; nothing is opened or locked.
pub(super) fn in_use(control: &Path) -> Result<Option<(PathBuf, u64, NodeId)>, Error> {
    let Some(name) = current(control)? else { return Ok(None) };
    let path = control.join(name);
    let record = read_record(&path)?;
    Ok(Some((path, record.group, record.node)))
}

/// Opens the directory in use below `control`; `None` if there is none: this site is not enrolled.
///
/// # Errors
/// It is not this site's, damaged, of a newer version, or in use; nothing was changed.
pub fn open(control: &Path, owner: &Owner) -> Result<Option<GroupDir>, Error> {
    let Some(name) = current(control)? else { return Ok(None) };
    let path = control.join(&name);
    let record = read_record(&path)?;
    check(&path, &record, owner)?;
    if name != directory(record.group, record.node) {
        return Err(Error::OtherNode { path, found: directory(record.group, record.node) });
    }
    open_at(path, record.group, record.node, Disk::open).map(Some)
}

/// Makes the directory of a node that never ran, without taking it into use: [`take_into_use`] does. On stable storage
/// on return.
///
/// # Errors
/// It exists, or cannot be written.
pub fn create(control: &Path, owner: &Owner, group: u64, node: NodeId) -> Result<GroupDir, Error> {
    let path = control.join(directory(group, node));
    if path.exists() {
        return Err(Error::Exists { path });
    }
    private_file::create_directory(&path).map_err(at("create", &path))?;
    let Owner { cluster, site, site_id, .. } = owner.clone();
    let record = Record { format: FORMAT, cluster, site, site_id, group, node };
    let json = serde_json::to_vec_pretty(&record)
        .map_err(|error| Error::Damaged { path: path.clone(), reason: error.to_string() })?;
    private_file::replace(&path, NODE, &json).map_err(at("write", &path.join(NODE)))?;
    File::open(control).and_then(|dir| dir.sync_all()).map_err(at("write", control))?;
    open_at(path, group, node, Disk::create)
}

/// From now on [`open`] opens this directory; the one before stays where it is. On stable storage on return.
///
/// # Errors
/// What the system said.
pub fn take_into_use(control: &Path, dir: &GroupDir) -> Result<(), Error> {
    let name = directory(dir.group, dir.node);
    private_file::replace(control, CURRENT, format!("{name}\n").as_bytes()).map_err(at("write", &control.join(CURRENT)))
}

/// From now on there is no directory in use; returns the one that was, which stays where it is. On stable storage on
/// return.
///
/// # Errors
/// What the system said.
pub fn retire(control: &Path) -> Result<Option<PathBuf>, Error> {
    let Some(name) = current(control)? else { return Ok(None) };
    let path = control.join(CURRENT);
    fs::remove_file(&path).map_err(at("remove", &path))?;
    File::open(control).and_then(|dir| dir.sync_all()).map_err(at("write", control))?;
    Ok(Some(control.join(name)))
}

fn directory(group: u64, node: NodeId) -> String {
    format!("{group:016x}-{node}")
}

fn current(control: &Path) -> Result<Option<String>, Error> {
    let path = control.join(CURRENT);
    let bytes = match private_file::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::File { action: "read", path, source }),
    };
    let name = String::from_utf8_lossy(&bytes).trim().to_owned();
    let is_name = name.split_once('-').is_some_and(|(group, node)| {
        group.len() == 16 && u64::from_str_radix(group, 16).is_ok() && node.parse::<NodeId>().is_ok()
    });
    if is_name {
        Ok(Some(name))
    } else {
        Err(Error::Damaged { path, reason: "it names no directory of the form GROUP-NODE".to_owned() })
    }
}

fn read_record(path: &Path) -> Result<Record, Error> {
    let file = path.join(NODE);
    let bytes = private_file::read(&file).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::Damaged { path: path.to_owned(), reason: format!("it holds no {NODE}") },
        _ => Error::File { action: "read", path: file.clone(), source },
    })?;
    let damaged = |error: serde_json::Error| Error::Damaged { path: file.clone(), reason: error.to_string() };
    let Format { format } = serde_json::from_slice(&bytes).map_err(damaged)?;
    if format > FORMAT {
        return Err(Error::Newer { path: file, found: format });
    }
    serde_json::from_slice(&bytes).map_err(damaged)
}

fn check(path: &Path, record: &Record, owner: &Owner) -> Result<(), Error> {
    let path = path.to_owned();
    if record.cluster != owner.cluster {
        return Err(Error::OtherCluster { path, found: record.cluster, expected: owner.cluster });
    }
    if record.site != owner.site || record.site_id != owner.site_id {
        let found = format!("{} (number {})", record.site, record.site_id);
        return Err(Error::OtherSite { path, found, expected: format!("{} (number {})", owner.site, owner.site_id) });
    }
    Ok(())
}

fn open_at(
    path: PathBuf,
    group: u64,
    node: NodeId,
    open: impl FnOnce(&Path) -> Result<Disk, Error>,
) -> Result<GroupDir, Error> {
    let lock = path.join(LOCK);
    let file =
        fs::OpenOptions::new().create(true).truncate(false).write(true).open(&lock).map_err(at("open", &lock))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::InUse { path }),
        Err(error) => return Err(Error::File { action: "lock", path: lock, source: error.into() }),
    }
    let disk = open(&path)?;
    Ok(GroupDir { path, group, node, disk, _lock: file })
}

/// For `map_err`: an error at a path.
pub(super) fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
