//! Putting one inode's registers in the place of damaged ones, from a store that has them.

use bytes::Bytes;
use cfs_model::Vector;

use crate::lost::LostEvent;
use crate::table;

/// Part of the registers of one inode: its fields, its extended attributes, and for a directory its entries; with the
/// lost writes of each. Read in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What the store it was read from had applied.
    pub applied: Vector,
    /// The rows; checksummed. Only [`crate::Store::repair`] reads them.
    pub bytes: Bytes,
    /// Registers in it.
    pub registers: u64,
    /// Where the next part begins; `None` after the last.
    pub next: Option<Bytes>,
}

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Registers compared.
    pub registers: u64,
    /// Rows that were not as they should be: changed, added or removed. What is derived counts too.
    pub changed: u64,
    /// Lost writes that this store had not recorded yet.
    pub conflicts: Vec<LostEvent>,
}

/// Why registers were not put in place. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The part is older than this store.
    #[error("the part was read at {part}, and this store has applied {here}: read it again")]
    Behind {
        /// Where the part was read.
        part: Vector,
        /// What has been applied here.
        here: Vector,
    },
    /// The store is being filled by a snapshot, or a `Forget` is under way.
    #[error("a snapshot or a forgetting is under way in this store: try again when it has ended")]
    Busy,
    /// The bytes are not a part of these registers.
    #[error("the part that was received is damaged: {0}")]
    Damaged(&'static str),
    /// The tables failed.
    #[error(transparent)]
    Tables(#[from] table::Error),
}
