//! Every path of a real tree against what a site's store holds, side by side and in bounded memory.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use cfs_model::op::{InodeKind, Time};
use cfs_rpc::v1::inspect_client::InspectClient;
use cfs_rpc::v1::{ListItem, ListReply, ListRequest};
use tonic::Streaming;
use tonic::transport::Channel;
use walkdir::WalkDir;

use super::is_in;
use crate::client;
use crate::path_text::for_terminal;

/// Differences that are described; more are counted.
const MAX_DESCRIBED: usize = 10;

/// What a comparison found.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// Paths in the tree or in the store.
    pub paths: u64,
    /// Paths that differ.
    pub different: u64,
    /// The first differences, in words.
    pub first: Vec<String>,
    /// Directories of the tree that this user may not read; what is below them was not compared.
    pub unreadable: u64,
}

/// What `lstat` and the store must agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    path: Vec<u8>,
    inode: u64,
    kind: i32,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    mtime: Option<Time>,
    target: Vec<u8>,
}

/// Compares the tree at `root` with the one that the site holds, leaving out what the site holds at `apart` in the root
/// directory. The tree is read with `lstat`, on one file system.
///
/// # Errors
/// When the site does not answer, or the tree's root cannot be read.
pub async fn compare(root: &Path, apart: &str, inspect: &mut InspectClient<Channel>) -> anyhow::Result<Comparison> {
    let request = ListRequest { path: b"/".to_vec().into(), recursive: true };
    let replies = inspect.list(request).await.map_err(client::failed("list its tree"))?.into_inner();
    let mut held = Held { replies, items: VecDeque::new(), apart };
    let mut found = Comparison::default();
    let mut right = held.next().await?;
    let walk = WalkDir::new(root).same_file_system(true).sort_by(|a, b| a.file_name().cmp(b.file_name()));
    for step in walk {
        let left = match step {
            Ok(step) => Entry::on_disk(root, &step)?,
            Err(error) if error.depth() > 0 => {
                found.unreadable += 1;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        while let Some(other) = right.take_if(|other| order(&other.path, &left.path) == Ordering::Less) {
            found.note(&other.path, "is not in the tree");
            right = held.next().await?;
        }
        match right.take_if(|other| other.path == left.path) {
            Some(other) => {
                found.note_difference(&left, &other);
                right = held.next().await?;
            }
            None => found.note(&left.path, "is missing in the store"),
        }
    }
    while let Some(other) = right {
        found.note(&other.path, "is not in the tree");
        right = held.next().await?;
    }
    Ok(found)
}

impl Comparison {
    fn note(&mut self, path: &[u8], what: &str) {
        self.paths += 1;
        self.different += 1;
        if self.first.len() < MAX_DESCRIBED {
            self.first.push(format!("{} {what}", for_terminal(path)));
        }
    }

    fn note_difference(&mut self, left: &Entry, right: &Entry) {
        match left.difference(right) {
            Some(what) => self.note(&left.path, &what),
            None => self.paths += 1,
        }
    }
}

impl Entry {
    fn on_disk(root: &Path, step: &walkdir::DirEntry) -> anyhow::Result<Self> {
        let metadata = step.metadata()?;
        let kind = metadata.file_type();
        let target = if kind.is_symlink() {
            std::fs::read_link(step.path())?.as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        let below = step.path().strip_prefix(root)?;
        Ok(Self {
            path: [b"/", below.as_os_str().as_bytes()].concat(),
            inode: metadata.ino(),
            kind: kind_of(kind) as i32,
            mode: Some(metadata.mode() & 0o7777),
            uid: Some(metadata.uid()),
            gid: Some(metadata.gid()),
            size: Some(metadata.size()),
            mtime: Some(Time { seconds: metadata.mtime(), nanos: u32::try_from(metadata.mtime_nsec())? }),
            target,
        })
    }

    fn in_store(item: ListItem) -> Self {
        let node = item.node.unwrap_or_default();
        let attributes = node.attributes.unwrap_or_default();
        Self {
            path: item.path.to_vec(),
            inode: node.inode,
            kind: node.kind,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            size: attributes.size,
            mtime: attributes.mtime,
            target: node.target.to_vec(),
        }
    }

    /// What differs first, in words.
    fn difference(&self, other: &Self) -> Option<String> {
        let Self { path: _, inode, kind, mode, uid, gid, size, mtime, target } = self;
        let octal = |mode: Option<u32>| mode.map_or_else(|| "none".to_owned(), |mode| format!("{mode:04o}"));
        let time = |time: &Option<Time>| {
            time.as_ref().map_or_else(|| "none".to_owned(), |t| format!("{}.{:09}", t.seconds, t.nanos))
        };
        let fields = [
            ("inode", inode.to_string(), other.inode.to_string()),
            ("type", kind.to_string(), other.kind.to_string()),
            ("mode", octal(*mode), octal(other.mode)),
            ("uid", format!("{uid:?}"), format!("{:?}", other.uid)),
            ("gid", format!("{gid:?}"), format!("{:?}", other.gid)),
            ("size", format!("{size:?}"), format!("{:?}", other.size)),
            ("mtime", time(mtime), time(&other.mtime)),
            ("target", for_terminal(target), for_terminal(&other.target)),
        ];
        let (name, here, there) = fields.into_iter().find(|(_, here, there)| here != there)?;
        Some(format!("has {name} {here} in the tree and {there} in the store"))
    }
}

fn kind_of(kind: std::fs::FileType) -> InodeKind {
    match kind {
        k if k.is_file() => InodeKind::File,
        k if k.is_dir() => InodeKind::Directory,
        k if k.is_symlink() => InodeKind::Symlink,
        k if k.is_fifo() => InodeKind::Fifo,
        k if k.is_socket() => InodeKind::Socket,
        k if k.is_char_device() => InodeKind::CharDevice,
        _ => InodeKind::BlockDevice,
    }
}

/// The order in which both sides list: a directory, then what is in it, names in byte order.
fn order(a: &[u8], b: &[u8]) -> Ordering {
    fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
        path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }
    names(a).cmp(names(b))
}

/// What the store holds, as it arrives.
struct Held<'a> {
    replies: Streaming<ListReply>,
    items: VecDeque<ListItem>,
    apart: &'a str,
}

impl Held<'_> {
    async fn next(&mut self) -> anyhow::Result<Option<Entry>> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(Some(Entry::in_store(item)));
            }
            match self.replies.message().await.map_err(client::failed("list its tree"))? {
                Some(reply) => {
                    self.items.extend(reply.items.into_iter().filter(|item| !is_in(&item.path, self.apart)));
                }
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_before_what_is_in_them() {
        for (less, more) in [("/", "/a"), ("/a", "/a/b"), ("/a/b", "/a-"), ("/a/z", "/b"), ("/a", "/a-")] {
            assert_eq!(order(less.as_bytes(), more.as_bytes()), Ordering::Less, "{less} {more}");
            assert_eq!(order(more.as_bytes(), less.as_bytes()), Ordering::Greater, "{less} {more}");
        }
        assert_eq!(order(b"/", b"/"), Ordering::Equal);
    }

    #[test]
    fn every_field_counts() {
        let place = tempfile::tempdir().expect("a directory");
        std::fs::write(place.path().join("f"), "x").expect("writable");
        let step = WalkDir::new(place.path()).into_iter().nth(1).expect("two entries").expect("readable");
        let entry = Entry::on_disk(place.path(), &step).expect("readable");
        assert_eq!((entry.path.as_slice(), entry.size, entry.difference(&entry)), (&b"/f"[..], Some(1), None));
        let changes: [fn(&mut Entry); 8] = [
            |e| e.inode += 1,
            |e| e.kind = 4,
            |e| e.mode = Some(0),
            |e| e.uid = None,
            |e| e.gid = Some(12345),
            |e| e.size = Some(2),
            |e| e.mtime = Some(Time { seconds: 0, nanos: 1 }),
            |e| e.target = vec![b'y'],
        ];
        for (i, change) in changes.iter().enumerate() {
            let mut other = entry.clone();
            change(&mut other);
            assert!(entry.difference(&other).is_some(), "change {i} goes unseen");
        }
    }
}
