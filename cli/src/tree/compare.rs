//! What must be journalled so that one directory in the store becomes what it is on disk. Pure.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use cfs_model::op::op::Kind;
use cfs_model::op::{
    Attributes, Create, InodeKind, Link, Mkdir, Op, RemoveXattr, Rmdir, SetAttr, SetXattr, Symlink, Time, Unlink,
};
use cfs_rpc::v1::{Node, Xattr};

use super::disk::{DiskEntry, DiskNode};
use super::held::{Held, Names};

/// Inodes met in a walk, and their kinds: all that it remembers of what it has passed.
pub type Seen = HashMap<u64, InodeKind>;

/// A name that does not lead any more where the store says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// The directory.
    pub parent: u64,
    /// The name in it.
    pub name: Bytes,
    /// Where it led.
    pub inode: u64,
    /// What that is; unspecified if the store has no such inode.
    pub kind: InodeKind,
    /// What the name leads to now, as journalled already; `None`: the name is to go.
    pub occupant: Option<(u64, InodeKind)>,
}

/// A directory to go into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Its name.
    pub name: Bytes,
    /// Its number.
    pub inode: u64,
    /// When it was changed last, as compared.
    pub mtime: Option<Time>,
}

impl Child {
    fn new(name: &Bytes, node: &DiskNode) -> Self {
        Self { name: name.clone(), inode: node.inode, mtime: node.attributes.mtime }
    }
}

/// What to journal for a directory that was compared when it had this time of change, and was read as `now` after.
pub fn changed_since(mtime: Option<Time>, now: &DiskNode) -> Option<Op> {
    let Attributes { size, mtime: mtime_now, .. } = now.attributes;
    let attributes = Some(Attributes { size, mtime: mtime_now, ..Attributes::default() });
    (mtime != mtime_now).then(|| Op { kind: Some(Kind::SetAttr(SetAttr { inode: now.inode, attributes })) })
}

/// The difference of one directory.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// To append, in this order.
    pub ops: Vec<Op>,
    /// To be dealt with when the walk is over.
    pub gone: Vec<Gone>,
    /// Directories found.
    pub children: Vec<Child>,
    /// Numbers that were directories in the store and are something else now: what the store has in them is gone.
    pub emptied: Vec<u64>,
    /// Directories that were met under another name before: they moved while they were read. Nothing is journalled for
    /// these names.
    pub moved: Vec<Child>,
    /// Inodes made.
    pub created: u64,
    /// Inodes and names changed.
    pub updated: u64,
}

/// One directory on disk and in the store.
#[derive(Debug)]
pub struct Sides<'a> {
    /// The directory's inode.
    pub parent: u64,
    /// What is on disk.
    pub disk: &'a [DiskEntry],
    /// Whether a name that `disk` lacks and `held` has is gone.
    pub complete: bool,
    /// What the store holds.
    pub held: Names,
    /// What the store holds of the inodes that [`unknown`] named.
    pub elsewhere: &'a HashMap<u64, Node>,
}

/// The inodes on disk of which `held` does not say what the store has.
pub fn unknown(disk: &[DiskEntry], held: &Names) -> Vec<u64> {
    let nodes = disk.iter().filter_map(|entry| Some((&entry.name, entry.node.as_ref()?)));
    let missing: HashSet<u64> = nodes
        .filter(|(name, node)| held.get(*name).is_none_or(|held| held.inode != node.inode))
        .map(|(_, node)| node.inode)
        .collect();
    missing.into_iter().collect()
}

/// Compares. `seen` gains what is met for the first time; the attributes of an inode are compared then only.
pub fn compare(mut sides: Sides<'_>, seen: &mut Seen) -> Changes {
    let mut changes = Changes::default();
    for entry in sides.disk {
        let old = sides.held.remove(&entry.name);
        let Some(node) = &entry.node else { continue };
        let at = Place { parent: sides.parent, name: &entry.name };
        if seen.insert(node.inode, node.kind) == Some(node.kind) {
            again(&at, node, old, &mut changes);
        } else {
            first(&at, node, old, sides.elsewhere, &mut changes);
        }
    }
    if sides.complete {
        for (name, old) in sides.held {
            let kind = old.kind();
            changes.gone.push(Gone { parent: sides.parent, name, inode: old.inode, kind, occupant: None });
        }
    }
    changes
}

struct Place<'a> {
    parent: u64,
    name: &'a Bytes,
}

/// Another name of an inode that was compared already.
fn again(at: &Place<'_>, node: &DiskNode, old: Option<Held>, changes: &mut Changes) {
    if node.kind == InodeKind::Directory {
        changes.moved.push(Child::new(at.name, node));
    } else if old.as_ref().is_none_or(|old| old.inode != node.inode) {
        changes.updated += 1;
        changes.ops.push(link(at, node));
        displace(at, node, old, changes);
    }
}

fn first(at: &Place<'_>, node: &DiskNode, old: Option<Held>, elsewhere: &HashMap<u64, Node>, changes: &mut Changes) {
    if node.kind == InodeKind::Directory && !node.mount_point {
        changes.children.push(Child::new(at.name, node));
    }
    let here = old.as_ref().is_some_and(|old| old.inode == node.inode);
    let known = if here { old.as_ref().and_then(|old| old.node.as_ref()) } else { elsewhere.get(&node.inode) };
    match known {
        Some(known) if same_life(known, node) => {
            let attributes = differing(&node.attributes, known.attributes.as_ref());
            let mut changed = !here;
            if !here {
                changes.ops.push(link(at, node));
            }
            // To give a directory a name is to make it, with all its attributes.
            if let Some(attributes) = attributes.filter(|_| here || node.kind != InodeKind::Directory) {
                changed = true;
                let set = SetAttr { inode: node.inode, attributes: Some(attributes) };
                changes.ops.push(Op { kind: Some(Kind::SetAttr(set)) });
            }
            // That begins a new life, which shows nothing of the extended attributes that it had before.
            let begun_anew = !here && node.kind == InodeKind::Directory;
            let shown = if begun_anew { &[][..] } else { &known.xattrs };
            changed |= set_xattrs(node, shown, &mut changes.ops);
            changes.updated += u64::from(changed);
        }
        Some(known) => {
            // The number was given to another inode meanwhile.
            changes.ops.push(kill(at, known));
            if known.kind() == InodeKind::Directory {
                changes.emptied.push(node.inode);
            }
            make(at, node, &known.xattrs, changes);
        }
        None => make(at, node, &[], changes),
    }
    if !here {
        displace(at, node, old, changes);
    }
}

fn make(at: &Place<'_>, node: &DiskNode, stale_xattrs: &[Xattr], changes: &mut Changes) {
    changes.created += 1;
    changes.ops.push(create(at, node));
    set_xattrs(node, stale_xattrs, &mut changes.ops);
}

fn displace(at: &Place<'_>, node: &DiskNode, old: Option<Held>, changes: &mut Changes) {
    if let Some(old) = old.filter(|old| old.node.is_some()) {
        let occupant = Some((node.inode, node.kind));
        let (name, kind) = (at.name.clone(), old.kind());
        changes.gone.push(Gone { parent: at.parent, name, inode: old.inode, kind, occupant });
    }
}

/// Whether what cannot change during an inode's life is the same.
fn same_life(known: &Node, node: &DiskNode) -> bool {
    known.kind() == node.kind && known.target == node.target && known.device == node.device
}

/// The attributes of `wanted` that are not so in `held`; `None` if all are.
fn differing(wanted: &Attributes, held: Option<&Attributes>) -> Option<Attributes> {
    let Some(held) = held else { return Some(wanted.clone()) };
    let differing = Attributes {
        mode: wanted.mode.filter(|_| wanted.mode != held.mode),
        uid: wanted.uid.filter(|_| wanted.uid != held.uid),
        gid: wanted.gid.filter(|_| wanted.gid != held.gid),
        size: wanted.size.filter(|_| wanted.size != held.size),
        mtime: wanted.mtime.filter(|_| wanted.mtime != held.mtime),
        ..Attributes::default()
    };
    (differing != Attributes::default()).then_some(differing)
}

/// Whether anything had to be changed.
fn set_xattrs(node: &DiskNode, held: &[Xattr], ops: &mut Vec<Op>) -> bool {
    let before = ops.len();
    let Some(wanted) = &node.xattrs else { return false };
    for (name, value) in wanted {
        if !held.iter().any(|xattr| xattr.name == *name && xattr.value == *value) {
            let set = SetXattr { inode: node.inode, name: name.clone(), value: value.clone() };
            ops.push(Op { kind: Some(Kind::SetXattr(set)) });
        }
    }
    for xattr in held.iter().filter(|xattr| wanted.iter().all(|(name, _)| *name != xattr.name)) {
        let remove = RemoveXattr { inode: node.inode, name: xattr.name.clone() };
        ops.push(Op { kind: Some(Kind::RemoveXattr(remove)) });
    }
    ops.len() > before
}

fn create(at: &Place<'_>, node: &DiskNode) -> Op {
    let (parent, name, inode) = (at.parent, at.name.clone(), node.inode);
    let attributes = Some(node.attributes.clone());
    Op {
        kind: Some(match node.kind {
            InodeKind::Directory => Kind::Mkdir(Mkdir { parent, name, inode, attributes }),
            InodeKind::Symlink => {
                Kind::Symlink(Symlink { parent, name, inode, target: node.target.clone(), attributes })
            }
            kind => Kind::Create(Create { parent, name, inode, kind: kind as i32, attributes, device: node.device }),
        }),
    }
}

/// Gives an inode that exists a further name. A directory is made once more, which changes nothing else of it.
fn link(at: &Place<'_>, node: &DiskNode) -> Op {
    match node.kind {
        InodeKind::Directory => create(at, node),
        kind => {
            let (parent, name, inode) = (at.parent, at.name.clone(), node.inode);
            Op { kind: Some(Kind::Link(Link { parent, name, inode, kind: kind as i32 })) }
        }
    }
}

fn kill(at: &Place<'_>, known: &Node) -> Op {
    let (parent, name, inode) = (at.parent, at.name.clone(), known.inode);
    Op {
        kind: Some(match known.kind() {
            InodeKind::Directory => Kind::Rmdir(Rmdir { parent, name, inode }),
            _ => Kind::Unlink(Unlink { parent, name, inode, last: true }),
        }),
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
