//! What an operation writes, and which write a register keeps.
//!
//! The state of the store is a set of *registers*: the fields of an inode, a directory entry `(parent, name)`, an
//! extended attribute `(inode, name)`. Each holds one value and the [`Version`] of the entry that wrote it. A merge
//! works on one register at a time, and the later stamp wins; so the outcome depends on the set of writes alone, not
//! on their order. `docs/protocol/store.md` has the encodings.
//!
//! A write is *lost* when it neither wins nor is covered by another write of its register. A write covers what its
//! writer had seen: everything below it in its own stream, and in other streams what its batch's vector says. A clock
//! starts above every stamp its writer has seen, so a covering write also has the later stamp.

mod effects;
mod field;
mod inode;
mod register;
mod validate;

use cfs_model::{Vector, Version};

pub use effects::{Effects, XattrWrite, effects};
pub use field::{Field, Life, Value};
pub use inode::{Inode, Slot};
pub use register::{Dentry, Malformed, Register, VERSION_BYTES, Xattr, decode_version, encode_version};
pub use validate::{Invalid, ROOT_NAME, validate};

/// A write that is being merged, and what its writer had seen.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// The entry that writes.
    pub version: Version,
    /// What its writer had applied of other streams.
    pub seen: &'a Vector,
    /// What has been forgotten here. By the rule that lets it be forgotten, every entry that comes later was written
    /// by a site that had applied it.
    pub forgotten: &'a Vector,
}

impl Incoming<'_> {
    /// Whether this write's author had seen `other`.
    pub fn covers(&self, other: &Version) -> bool {
        let stream = other.stamp.stream();
        if stream == self.version.stamp.stream() {
            return other.lsn < self.version.lsn;
        }
        self.seen.covers_entry(stream, other.lsn) || self.forgotten.covers_entry(stream, other.lsn)
    }
}

/// What becomes of a register that holds a value when another write arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The write is the one that the register holds.
    Duplicate,
    /// The write wins, and its author had seen the value that goes.
    Replaces,
    /// The write wins over one that its author had not seen: the value that goes is lost.
    Wins,
    /// The register keeps its value, whose author had seen the write.
    Dropped,
    /// The register keeps its value, whose author had not seen the write: the write is lost.
    Loses,
}

/// Decides between `incoming` and the value that a register holds. `held_covers` answers whether the author of the
/// value held had seen `incoming`; it is asked only when `incoming` has the earlier stamp. That happens rarely, and the
/// answer may need a look-up.
pub fn decide<E>(
    incoming: &Incoming<'_>,
    held: &Version,
    held_covers: impl FnOnce() -> Result<bool, E>,
) -> Result<Outcome, E> {
    if incoming.version == *held {
        return Ok(Outcome::Duplicate);
    }
    if incoming.version > *held {
        return Ok(if incoming.covers(held) { Outcome::Replaces } else { Outcome::Wins });
    }
    Ok(if held_covers()? { Outcome::Dropped } else { Outcome::Loses })
}

#[cfg(test)]
#[path = "merge/tests.rs"]
mod tests;
