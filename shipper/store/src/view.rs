//! What readers see.

use cfs_model::Version;
use cfs_shipper_core::merge::{Field, Register};

use crate::lost::{LostEvent, LostValue};

/// Whether an inode exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing says that it was ever made; some other register knows its number.
    Absent,
    /// It was removed.
    Removed,
    /// It exists.
    Live {
        /// Number of its kind, as in `cfs.v1.InodeKind`.
        kind: u8,
        /// `st_rdev` of a device node, otherwise 0.
        device: u64,
        /// Where a symbolic link points, otherwise empty.
        target: Vec<u8>,
    },
}

/// A point in time since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// Below 1e9.
    pub nanos: u32,
}

/// One field's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldVersion {
    /// Which field.
    pub field: Field,
    /// The entry that wrote it.
    pub version: Version,
    /// Whether it belongs to the current life and so shows.
    pub visible: bool,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XattrView {
    /// Its name.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// The entry that wrote it.
    pub version: Version,
}

/// An inode as it shows. Attributes are `None` when nothing has set them in the inode's current life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InodeView {
    /// Its number.
    pub inode: u64,
    /// Whether it exists.
    pub state: State,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
    /// Time of the last change of content.
    pub mtime: Option<Time>,
    /// Time of the last change of attributes.
    pub ctime: Option<Time>,
    /// Opaque.
    pub extents: Option<Vec<u8>>,
    /// Derived: names that point to it; for a directory, 2 and one for each directory in it.
    pub nlink: u64,
    /// Its extended attributes that show, in the order of their names.
    pub xattrs: Vec<XattrView>,
    /// The version of every field held, visible or not.
    pub versions: Vec<FieldVersion>,
}

/// A live entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DentryView {
    /// Its name.
    pub name: Vec<u8>,
    /// The inode it points to.
    pub inode: u64,
    /// Number of the kind of that inode.
    pub kind: u8,
    /// The entry that wrote it.
    pub version: Version,
}

/// A register and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRegister {
    /// Its name.
    pub register: Register,
    /// The entry that wrote it.
    pub version: Version,
    /// What it holds; of a directory entry or attribute that is gone, a tombstone.
    pub value: LostValue,
}

/// Everything that is held of one inode, visible or not; the same in stores that hold the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// The sum of all its registers, as in the digest; 0 if there is none.
    pub digest: u128,
    /// Fields, extended attributes, and the entries of a directory, in the order of their names; cut at the limit.
    pub registers: Vec<HeldRegister>,
    /// How many there are.
    pub register_count: u64,
    /// The entries that name the inode, in the order of directory and name; cut at the limit.
    pub parents: Vec<HeldRegister>,
    /// Lost writes of its registers that nothing has superseded; cut at the limit.
    pub conflicts: Vec<LostEvent>,
    /// How many there are.
    pub conflict_count: u64,
}
