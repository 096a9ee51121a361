//! What goes into [`crate::Store::apply`], what comes out, and what may be wrong.

use std::collections::BTreeSet;

use bytes::Bytes;
use cfs_model::op::Op;
use cfs_model::{Lsn, StreamId, Vector, Version};
use cfs_shipper_core::batch::{ChainHash, Header};
use cfs_shipper_core::payload;

use crate::lost::{LostEvent, LostKey};
use crate::table;

/// One batch, checked and decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// What the batch says of itself.
    pub header: Header,
    /// The chain of everything up to and including it.
    pub chain_after: ChainHash,
    /// Its payload, decompressed.
    pub payload: Bytes,
}

/// What applying has changed. What a call had committed before it failed is told by the next one that succeeds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Applied {
    /// How many batches were new.
    pub batches: usize,
    /// How many entries were new.
    pub entries: u64,
    /// Writes that were lost, new to this store. After a crash between the commit and the caller's taking notice they
    /// are found by [`crate::Store::lost`] alone.
    pub conflicts: Vec<LostEvent>,
    /// Lost writes that a write has superseded, whose author had seen them.
    pub superseded: Vec<LostEvent>,
    /// Of the lost writes those that would have set the very value that stands: what a producer has sent again.
    pub repeated: BTreeSet<LostKey>,
    /// Entries that hold no operation this version knows, or one that is not valid: they changed nothing.
    pub ignored: u64,
    /// Registers that were forgotten.
    pub forgotten: u64,
    /// Entries of [`cfs_model::STRUCTURE_REPAIR`].
    pub repairs: Vec<Repair>,
}

/// An entry that mends the structure.
#[derive(Debug, Clone, PartialEq)]
pub struct Repair {
    /// Its stream.
    pub stream: StreamId,
    /// When it was written, and its position.
    pub version: Version,
    /// What it does.
    pub op: Op,
}

impl Applied {
    /// How many of the lost writes meant something that does not stand now: neither sent again nor settled within this call.
    pub fn losses(&self) -> usize {
        let settled: BTreeSet<&LostKey> =
            self.superseded.iter().map(|event| &event.key).chain(&self.repeated).collect();
        self.conflicts.iter().filter(|event| !settled.contains(&event.key)).count()
    }
}

/// Why batches are not applied. Refusals change nothing; after the others, the cursors tell what was applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Entries are missing before the batch.
    #[error("stream {stream} is applied up to {applied}, the batch starts at {first}: fetch what is between")]
    Gap {
        /// The batch's stream.
        stream: StreamId,
        /// The cursor.
        applied: Lsn,
        /// The batch's first LSN.
        first: Lsn,
    },
    /// The batch starts at or below the cursor and ends above it, which no batch of the same history does.
    #[error(
        "stream {stream} is applied up to {applied}, in the middle of a batch from {first} to {last}: \
         its histories have diverged"
    )]
    Overlap {
        /// The batch's stream.
        stream: StreamId,
        /// The cursor.
        applied: Lsn,
        /// The batch's first LSN.
        first: Lsn,
        /// The batch's last LSN.
        last: Lsn,
    },
    /// What came before the batch is not what was applied here.
    #[error("stream {stream} has another history before {first} than was applied here: its histories have diverged")]
    Chain {
        /// The batch's stream.
        stream: StreamId,
        /// The batch's first LSN.
        first: Lsn,
    },
    /// The batch's writer had seen what is not applied here yet.
    #[error("the batch at {first} of stream {stream} comes after {needs}, of which only {applied} is applied")]
    NotCovered {
        /// The batch's stream.
        stream: StreamId,
        /// The batch's first LSN.
        first: Lsn,
        /// Its vector.
        needs: Vector,
        /// The cursors.
        applied: Vector,
    },
    /// The payload is not what its header says.
    #[error("the batch at {first} of stream {stream} is not usable: {why}")]
    Payload {
        /// The batch's stream.
        stream: StreamId,
        /// The batch's first LSN.
        first: Lsn,
        /// What is wrong.
        why: payload::Error,
    },
    /// Another number of entries than the header says.
    #[error("the batch at {first} of stream {stream} holds {found} entries, its header says {claimed}")]
    Count {
        /// The batch's stream.
        stream: StreamId,
        /// The batch's first LSN.
        first: Lsn,
        /// Entries found.
        found: u32,
        /// Entries claimed.
        claimed: u32,
    },
    /// A snapshot is being installed, or was not finished.
    #[error("a snapshot is half installed in this store: finish it, or remove the store's directory and start over")]
    Installing,
    /// The map is nearly used up. Readable still; may be repeated once there is room.
    #[error("the metadata store uses {used} of the {map} bytes it may grow to: raise its map size and restart")]
    MapFull {
        /// Bytes in use.
        used: u64,
        /// Bytes of the map.
        map: u64,
    },
    /// The file system is full. Readable still; may be repeated once there is room.
    #[error("no space is left for the metadata store: free some; nothing applied is lost")]
    NoSpace,
    /// The tables failed.
    #[error(transparent)]
    Tables(table::Error),
}

impl From<table::Error> for Error {
    fn from(error: table::Error) -> Self {
        match error {
            table::Error::MapFull { used, map } => Self::MapFull { used, map },
            table::Error::NoSpace => Self::NoSpace,
            other => Self::Tables(other),
        }
    }
}
