//! Reads directories of a real file system, relative to open directories: no path is too long, no link is followed.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cfs_model::op::{Attributes, InodeKind, Time};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::xattrs::read_xattrs;

/// An inode as the file system has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskNode {
    /// `st_ino`.
    pub inode: u64,
    /// From `st_mode`.
    pub kind: InodeKind,
    /// Mode, owner, group, size and time of change of content.
    pub attributes: Attributes,
    /// Where a symbolic link points, verbatim.
    pub target: Bytes,
    /// `st_rdev` of a device node, otherwise 0.
    pub device: u64,
    /// Sorted by name. `None`: they could not be read, or are not wanted.
    pub xattrs: Option<Vec<(Bytes, Bytes)>>,
    /// Another file system is mounted here.
    pub mount_point: bool,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskEntry {
    /// The name.
    pub name: Bytes,
    /// What it leads to; `None`: it is there, and unreadable.
    pub node: Option<DiskNode>,
}

/// What could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Name within the directory; empty for the directory itself.
    pub name: Bytes,
    /// What happened.
    pub kind: TroubleKind,
}

/// How something could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TroubleKind {
    /// It went away meanwhile.
    Vanished,
    /// The system refused.
    Unreadable(String),
    /// It cannot be replicated: what, and why.
    Unsupported(String),
}

impl TroubleKind {
    /// The kind of trouble behind an error number.
    pub fn of(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE => Self::Vanished,
            other => Self::Unreadable(io::Error::from(other).to_string()),
        }
    }
}

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// In no order.
    pub entries: Vec<DiskEntry>,
    /// What could not be read.
    pub troubles: Vec<Trouble>,
}

/// An open directory.
#[derive(Debug, Clone)]
pub struct Directory {
    fd: Arc<OwnedFd>,
    /// Device of the tree: other devices are not entered.
    device: u64,
}

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Directory {
    /// Opens the root of a tree; a link to it is followed. Blocks.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open_root(path: &Path) -> io::Result<(Self, DiskNode)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let device = rustix::fs::fstat(&fd)?.st_dev;
        let directory = Self { fd: Arc::new(fd), device };
        let node = directory.node()?;
        Ok((directory, node))
    }

    /// Opens the directory `name` within this one. Blocks.
    ///
    /// # Errors
    /// Those of the system; [`Errno::XDEV`] for a mount point, [`Errno::STALE`] if it is another inode than expected.
    pub fn open_child(&self, name: &[u8], inode: u64) -> Result<Self, Errno> {
        let child = self.open_any(name)?;
        if rustix::fs::fstat(&*child.fd)?.st_ino == inode { Ok(child) } else { Err(Errno::STALE) }
    }

    /// Opens the directory `name` within this one, whichever it is. Blocks.
    ///
    /// # Errors
    /// Those of the system; [`Errno::XDEV`] for a mount point.
    pub fn open_any(&self, name: &[u8]) -> Result<Self, Errno> {
        let fd = rustix::fs::openat(&*self.fd, name, OPEN, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if stat.st_dev == self.device { Ok(Self { fd: Arc::new(fd), device: self.device }) } else { Err(Errno::XDEV) }
    }

    /// A path under which the system finds this directory while it is open here.
    pub fn proc_path(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    /// The directory's own inode. Blocks.
    ///
    /// # Errors
    /// Those of the system.
    pub fn node(&self) -> Result<DiskNode, Errno> {
        let stat = rustix::fs::fstat(&*self.fd)?;
        let mut node = of_stat(&stat);
        node.xattrs = read_xattrs(self.proc_path().as_bytes(), &mut |_| {}).ok();
        Ok(node)
    }

    /// Everything in it. Blocks.
    pub fn list(&self) -> Listing {
        let mut listing = Listing::default();
        let failed = |error| Trouble { name: Bytes::new(), kind: TroubleKind::of(error) };
        let mut dir = match Dir::read_from(self.fd.as_fd()) {
            Ok(dir) => dir,
            Err(error) => {
                listing.troubles.push(failed(error));
                return listing;
            }
        };
        while let Some(item) = dir.read() {
            match item {
                Ok(item) if is_dot(item.file_name()) => {}
                Ok(item) => self.add(item.file_name(), item.ino(), &mut listing),
                Err(error) => {
                    listing.troubles.push(failed(error));
                    break;
                }
            }
        }
        listing
    }

    /// Whether [`Directory::list`] saw everything: only then is a name that it lacks gone.
    pub fn is_complete(listing: &Listing) -> bool {
        listing.troubles.iter().all(|trouble| !trouble.name.is_empty())
    }

    /// Those of `names` that exist. Blocks.
    pub fn some(&self, names: impl IntoIterator<Item = Bytes>) -> Listing {
        let mut listing = Listing::default();
        for name in names {
            // The covered directory's number of a mount point comes with a listing only.
            match self.stat(&name) {
                Ok(stat) if self.is_mount_point(&name, &stat) => {
                    listing.entries.push(DiskEntry { name, node: None });
                }
                Ok(stat) => self.add_stat(name, &stat, stat.st_ino, &mut listing),
                Err(Errno::NOENT) => {}
                Err(error) => self.add_unknown(name, error, &mut listing),
            }
        }
        listing
    }

    /// Names and kinds of subdirectories on this file system, and the number of all entries. Blocks.
    pub fn census(&self) -> (u64, Vec<(Vec<u8>, u64)>) {
        let (mut count, mut children) = (0, Vec::new());
        let Ok(mut dir) = Dir::read_from(self.fd.as_fd()) else { return (0, children) };
        while let Some(Ok(item)) = dir.read() {
            if is_dot(item.file_name()) {
                continue;
            }
            count += 1;
            if matches!(item.file_type(), FileType::Directory | FileType::Unknown) {
                children.push((item.file_name().to_bytes().to_vec(), item.ino()));
            }
        }
        (count, children)
    }

    fn stat(&self, name: &[u8]) -> Result<Stat, Errno> {
        rustix::fs::statat(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
    }

    /// Also of a part of the same file system, which would show directories twice.
    fn is_mount_point(&self, name: &[u8], stat: &Stat) -> bool {
        let is_root = || {
            let found = rustix::fs::statx(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
            // An old kernel does not tell.
            found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        };
        is_directory(stat) && (stat.st_dev != self.device || is_root())
    }

    fn add(&self, name: &CStr, covered: u64, listing: &mut Listing) {
        let name = Bytes::copy_from_slice(name.to_bytes());
        match self.stat(&name) {
            Ok(stat) => self.add_stat(name, &stat, covered, listing),
            Err(error) => self.add_unknown(name, error, listing),
        }
    }

    fn add_unknown(&self, name: Bytes, error: Errno, listing: &mut Listing) {
        let kind = TroubleKind::of(error);
        if kind != TroubleKind::Vanished {
            listing.entries.push(DiskEntry { name: name.clone(), node: None });
        }
        listing.troubles.push(Trouble { name, kind });
    }

    fn add_stat(&self, name: Bytes, stat: &Stat, covered: u64, listing: &mut Listing) {
        let mut node = of_stat(stat);
        if self.is_mount_point(&name, stat) {
            // The mounted root's own number may be one of this file system's too: the covered directory's is not.
            node.inode = covered;
            node.mount_point = true;
            node.xattrs = None;
            listing.entries.push(DiskEntry { name, node: Some(node) });
            return;
        }
        if node.kind == InodeKind::Symlink {
            match rustix::fs::readlinkat(&*self.fd, &*name, Vec::new()) {
                Ok(target) => node.target = target.into_bytes().into(),
                Err(error) => return self.add_unknown(name, error, listing),
            }
        }
        let mut path = self.proc_path().into_bytes();
        path.push(b'/');
        path.extend_from_slice(&name);
        let mut trouble = |why: String| {
            listing.troubles.push(Trouble { name: name.clone(), kind: TroubleKind::Unsupported(why) });
        };
        match read_xattrs(&path, &mut trouble) {
            Ok(xattrs) => node.xattrs = Some(xattrs),
            Err(error) => listing.troubles.push(Trouble { name: name.clone(), kind: TroubleKind::of(error) }),
        }
        listing.entries.push(DiskEntry { name, node: Some(node) });
    }
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn of_stat(stat: &Stat) -> DiskNode {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => InodeKind::Directory,
        FileType::Symlink => InodeKind::Symlink,
        FileType::Fifo => InodeKind::Fifo,
        FileType::Socket => InodeKind::Socket,
        FileType::CharacterDevice => InodeKind::CharDevice,
        FileType::BlockDevice => InodeKind::BlockDevice,
        FileType::RegularFile | FileType::Unknown => InodeKind::File,
    };
    let is_device = matches!(kind, InodeKind::CharDevice | InodeKind::BlockDevice);
    DiskNode {
        inode: stat.st_ino,
        kind,
        attributes: Attributes {
            mode: Some(stat.st_mode & 0o7777),
            uid: Some(stat.st_uid),
            gid: Some(stat.st_gid),
            size: Some(u64::try_from(stat.st_size).unwrap_or(0)),
            mtime: Some(Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }),
            ..Attributes::default()
        },
        target: Bytes::new(),
        device: if is_device { stat.st_rdev } else { 0 },
        xattrs: None,
        mount_point: false,
    }
}

/// Allows this process as many open files as the system lets it have: a deep and wide walk holds one for each level.
pub fn raise_open_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With the lower limit the walk reports what it cannot open.
    let _ = setrlimit(Resource::Nofile, limit);
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
