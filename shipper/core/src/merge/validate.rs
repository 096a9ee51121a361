//! Which operations make sense. The shipper asks before it journals one.

use cfs_model::Vector;
use cfs_model::op::{Attributes, InodeKind, Op, StreamPosition, Time, op::Kind};

use crate::caps::{MAX_ENTRY_BYTES, MAX_NAME_BYTES, MAX_TARGET_BYTES, MAX_XATTR_BYTES};

/// The name of the root directory, in parent 0.
pub const ROOT_NAME: &[u8] = b"/";

const MAX_MODE: u32 = 0o7777;
const NANOS: u32 = 1_000_000_000;

/// Why an operation is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// No operation, or one that this version does not know.
    #[error("the entry holds no operation that this version knows: upgrade this site or send another operation")]
    Unknown,
    /// The name of a directory entry cannot be one.
    #[error(
        "the name {0:?} is not usable: use 1 to {MAX_NAME_BYTES} bytes without '/' and NUL, and not \".\" or \"..\""
    )]
    Name(String),
    /// The root directory is named otherwise than `/` in parent 0, or something else is.
    #[error("parent 0 has one name, \"/\", which is the root directory and may only be made, removed or changed")]
    Root,
    /// An inode number is 0.
    #[error("inode 0 cannot exist: give the inode's number")]
    InodeZero,
    /// A directory would hold itself, or a rename replace what it moves.
    #[error("inode {0} would contain or replace itself")]
    Itself(u64),
    /// The operation does not apply to inodes of this kind.
    #[error("inodes of kind {0} are not made or moved by this operation")]
    Kind(i32),
    /// A device number on what is no device.
    #[error("only device nodes have a device number")]
    Device,
    /// The target of a symbolic link is empty, too long, or holds a NUL.
    #[error("the link's target has {0} bytes: use 1 to {MAX_TARGET_BYTES} without NUL")]
    Target(usize),
    /// The mode has other bits than permissions.
    #[error("mode {0:#o} has bits beyond 0o7777: send permission bits only")]
    Mode(u32),
    /// A time's nanoseconds are a second or more.
    #[error("a time has {0} nanoseconds: use less than 1000000000")]
    Nanos(u32),
    /// The name of an extended attribute cannot be one.
    #[error("the attribute's name has {0} bytes: use 1 to {MAX_NAME_BYTES} without NUL")]
    XattrName(usize),
    /// A value is over its limit.
    #[error("{what} has {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// Which value.
        what: &'static str,
        /// Bytes it has.
        bytes: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// A list of positions is empty, too long, names a stream twice or one that cannot exist.
    #[error("the positions to forget are not a vector of 1 to 1024 streams")]
    Positions,
}

/// Checks an operation by itself: no state is consulted.
pub fn validate(op: &Op) -> Result<(), Invalid> {
    match op.kind.as_ref().ok_or(Invalid::Unknown)? {
        Kind::Create(o) => {
            check_entry(o.parent, &o.name, o.inode)?;
            let kind = check_kind(o.kind, &[InodeKind::Directory, InodeKind::Symlink])?;
            let is_device = matches!(kind, InodeKind::CharDevice | InodeKind::BlockDevice);
            check(o.device == 0 || is_device, Invalid::Device)?;
            check(o.parent != 0, Invalid::Root)?;
            check_attributes(o.attributes.as_ref())
        }
        Kind::Mkdir(o) => {
            check_entry(o.parent, &o.name, o.inode)?;
            check_attributes(o.attributes.as_ref())
        }
        Kind::Symlink(o) => {
            check_entry(o.parent, &o.name, o.inode)?;
            check(o.parent != 0, Invalid::Root)?;
            let len = o.target.len();
            check((1..=MAX_TARGET_BYTES).contains(&len) && !o.target.contains(&0), Invalid::Target(len))?;
            check_attributes(o.attributes.as_ref())
        }
        Kind::Link(o) => {
            check_entry(o.parent, &o.name, o.inode)?;
            check(o.parent != 0, Invalid::Root)?;
            check_kind(o.kind, &[InodeKind::Directory]).map(drop)
        }
        Kind::Unlink(o) => {
            check(o.parent != 0, Invalid::Root)?;
            check_entry(o.parent, &o.name, o.inode)
        }
        Kind::Rmdir(o) => check_entry(o.parent, &o.name, o.inode),
        Kind::Rename(o) => {
            check(o.from_parent != 0 && o.to_parent != 0, Invalid::Root)?;
            check_name(o.from_parent, &o.from_name)?;
            check_entry(o.to_parent, &o.to_name, o.inode)?;
            check(o.replaced != o.inode, Invalid::Itself(o.inode))?;
            check_kind(o.kind, &[]).map(drop)
        }
        Kind::Write(o) => {
            check_inode(o.inode)?;
            check_time(o.mtime.as_ref())?;
            check_len("the list of extents", o.extents.len(), MAX_ENTRY_BYTES)
        }
        Kind::Truncate(o) => {
            check_inode(o.inode)?;
            check_time(o.mtime.as_ref())
        }
        Kind::SetAttr(o) => {
            check_inode(o.inode)?;
            check_attributes(o.attributes.as_ref())
        }
        Kind::SetXattr(o) => {
            check_inode(o.inode)?;
            check_xattr_name(&o.name)?;
            check_len("the attribute's value", o.value.len(), MAX_XATTR_BYTES)
        }
        Kind::RemoveXattr(o) => {
            check_inode(o.inode)?;
            check_xattr_name(&o.name)
        }
        Kind::Forget(o) => check_positions(&o.positions),
    }
}

fn check(ok: bool, error: Invalid) -> Result<(), Invalid> {
    if ok { Ok(()) } else { Err(error) }
}

fn check_inode(inode: u64) -> Result<(), Invalid> {
    check(inode != 0, Invalid::InodeZero)
}

fn check_len(what: &'static str, bytes: usize, limit: usize) -> Result<(), Invalid> {
    check(bytes <= limit, Invalid::TooLong { what, bytes, limit })
}

fn check_name(parent: u64, name: &[u8]) -> Result<(), Invalid> {
    if parent == 0 {
        return check(name == ROOT_NAME, Invalid::Root);
    }
    let usable = (1..=MAX_NAME_BYTES).contains(&name.len())
        && name != b"."
        && name != b".."
        && !name.iter().any(|b| *b == b'/' || *b == 0);
    if usable { Ok(()) } else { Err(Invalid::Name(name.escape_ascii().to_string())) }
}

fn check_entry(parent: u64, name: &[u8], inode: u64) -> Result<(), Invalid> {
    check_name(parent, name)?;
    check_inode(inode)?;
    check(parent != inode, Invalid::Itself(inode))
}

fn check_xattr_name(name: &[u8]) -> Result<(), Invalid> {
    check((1..=MAX_NAME_BYTES).contains(&name.len()) && !name.contains(&0), Invalid::XattrName(name.len()))
}

fn check_kind(kind: i32, barred: &[InodeKind]) -> Result<InodeKind, Invalid> {
    InodeKind::try_from(kind)
        .ok()
        .filter(|k| *k != InodeKind::Unspecified && !barred.contains(k))
        .ok_or(Invalid::Kind(kind))
}

fn check_time(time: Option<&Time>) -> Result<(), Invalid> {
    time.map_or(Ok(()), |t| check(t.nanos < NANOS, Invalid::Nanos(t.nanos)))
}

fn check_attributes(attributes: Option<&Attributes>) -> Result<(), Invalid> {
    let Some(a) = attributes else { return Ok(()) };
    let mode = a.mode.unwrap_or_default();
    check(mode <= MAX_MODE, Invalid::Mode(mode))?;
    check_time(a.mtime.as_ref())?;
    check_time(a.ctime.as_ref())?;
    check_len("the list of extents", a.extents.as_ref().map_or(0, bytes::Bytes::len), MAX_ENTRY_BYTES)
}

fn check_positions(positions: &[StreamPosition]) -> Result<(), Invalid> {
    let distinct: std::collections::BTreeSet<_> = positions.iter().map(|p| (p.site, p.incarnation)).collect();
    let usable = (1..=Vector::MAX_STREAMS).contains(&positions.len())
        && distinct.len() == positions.len()
        && positions.iter().all(|p| (1..=255).contains(&p.site) && p.lsn != 0);
    check(usable, Invalid::Positions)
}
