//! The ordered tables that a store is made of.

use std::fmt;

/// One table: bytes to bytes, ordered by key. The keys and values are in `docs/protocol/store.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Inode → its fields, and derived from entries: how many names it has, and the first of them.
    Inodes = 0,
    /// Parent and name → entry or tombstone.
    Dentries = 1,
    /// Inode and name → value or tombstone.
    Xattrs = 2,
    /// Derived: inode, parent and name of every name but the first.
    Links = 3,
    /// Derived: registers that a `Forget` may remove.
    Tombs = 4,
    /// Lost writes.
    Lost = 5,
    /// Stream and first LSN → what the stream's writer had seen from there on.
    Vectors = 6,
    /// Producer → its highest sequence number.
    Producers = 7,
    /// Stream → cursor and chain.
    Streams = 8,
    /// Rows of 16 buckets of the running digest.
    Digest = 9,
    /// Format, clock, and what was forgotten.
    Meta = 10,
}

impl Table {
    /// Every table, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Inodes,
        Self::Dentries,
        Self::Xattrs,
        Self::Links,
        Self::Tombs,
        Self::Lost,
        Self::Vectors,
        Self::Producers,
        Self::Streams,
        Self::Digest,
        Self::Meta,
    ];

    /// The name on disk and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inodes => "inodes",
            Self::Dentries => "dentries",
            Self::Xattrs => "xattrs",
            Self::Links => "links",
            Self::Tombs => "tombs",
            Self::Lost => "lost",
            Self::Vectors => "vectors",
            Self::Producers => "producers",
            Self::Streams => "streams",
            Self::Digest => "digest",
            Self::Meta => "meta",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why the tables could not be read or written. The transaction is gone with all its changes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The map is nearly used up.
    #[error(
        "the metadata store uses {used} of the {map} bytes it may grow to: raise its map size and restart; \
         until then it can be read but takes no changes"
    )]
    MapFull {
        /// Bytes of pages in use.
        used: u64,
        /// Bytes that the map holds.
        map: u64,
    },
    /// The file system has no space left.
    #[error("no space is left for the metadata store: free some; what was applied is kept and it goes on by itself")]
    NoSpace,
    /// The operating system refused.
    #[error("the metadata store's file failed: {0}")]
    Io(#[from] std::io::Error),
    /// LMDB refused.
    #[error("the metadata store's database failed: {0}")]
    Database(String),
    /// A row is not what this version writes.
    #[error(
        "table {table} of the metadata store is damaged at key {key}: {why}; next: `cfs admin meta consistency-check` names the \
         inode, and `cfs admin replication resync --inode N` repairs it from another site"
    )]
    Corrupt {
        /// Where.
        table: Table,
        /// The row, escaped.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// Rows do not stand in the order of their keys.
    #[error(
        "rows of table {table} of the metadata store do not stand where their keys belong, so that no inode can be repaired \
         alone; next: rebuild the site: `cfs admin replication enroll --primary SITE --force-rebuild`"
    )]
    Disordered {
        /// Where.
        table: Table,
    },
}

impl Error {
    pub(crate) fn corrupt(table: Table, key: &[u8], why: impl fmt::Display) -> Self {
        Self::Corrupt { table, key: key.escape_ascii().to_string(), why: why.to_string() }
    }
}

/// Space that a store takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that the map holds; 0 when there is no such limit.
    pub map_bytes: u64,
    /// Bytes of pages in use, without free ones.
    pub used_bytes: u64,
    /// Bytes of the file, free pages included.
    pub file_bytes: u64,
    /// Rows of inodes.
    pub inodes: u64,
    /// Rows of directory entries, tombstones included.
    pub dentries: u64,
    /// Lost writes that are kept, superseded ones included.
    pub lost: u64,
}
