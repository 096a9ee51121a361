//! A copy of a store, read in parts while the store goes on, and its format.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut};
use cfs_model::{Incarnation, Lsn, SiteId, StreamId, Vector};
use cfs_shipper_core::batch::ChainHash;
use xxhash_rust::xxh3::xxh3_64;

use crate::table::{self, Table};

/// First bytes of every part.
pub const MAGIC: [u8; 4] = *b"CFSS";
/// The format that this version writes, and the only one it reads.
pub const FORMAT: u16 = 1;
/// No part is longer, whatever was asked for.
pub const MAX_CHUNK_BYTES: usize = 64 * 1024 * 1024;

/// Where a snapshot began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its cursors: from there, batches are applied after it is installed.
    pub applied: Vector,
    /// The chain of each stream there.
    pub chains: BTreeMap<StreamId, ChainHash>,
    /// The highest clock of any entry in it.
    pub clock: u64,
    pub(crate) forgotten: Vector,
}

/// Where the next part begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    pub(crate) stage: Stage,
    pub(crate) key: Vec<u8>,
}

impl Resume {
    /// At the first part.
    pub const START: Self = Self { stage: Stage::Head, key: Vec::new() };

    /// As bytes: a number for what the part is about, then the key.
    pub fn encode(&self) -> Vec<u8> {
        let stage = match self.stage {
            Stage::Head => STAGE_HEAD,
            Stage::Rows(table) => table as u8,
            Stage::End => STAGE_END,
        };
        [&[stage], self.key.as_slice()].concat()
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        const WHAT: Error = Error::Damaged("the place to go on from does not decode");
        let (stage, key) = bytes.split_first().ok_or(WHAT)?;
        let stage = match *stage {
            STAGE_HEAD => Stage::Head,
            STAGE_END => Stage::End,
            table => Stage::Rows(Table::ALL.into_iter().find(|t| *t as u8 == table).ok_or(WHAT)?),
        };
        Ok(Self { stage, key: key.to_vec() })
    }
}

/// How far an installation is, as the store keeps it with the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The snapshot that is being installed; `None` before its first part.
    pub snapshot: Option<Snapshot>,
    /// The part that comes next; `None` after the last.
    pub next: Option<Resume>,
    /// What the sources of the parts so far had applied: a later part must not be older.
    pub end: Vector,
}

/// What a part is about, in the order in which it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Head,
    Rows(Table),
    End,
}

impl Stage {
    pub(crate) const fn next(self) -> Option<Self> {
        match self {
            Self::Head => Some(Self::Rows(Table::Inodes)),
            Self::Rows(Table::Inodes) => Some(Self::Rows(Table::Dentries)),
            Self::Rows(Table::Dentries) => Some(Self::Rows(Table::Xattrs)),
            Self::Rows(Table::Xattrs) => Some(Self::Rows(Table::Lost)),
            Self::Rows(Table::Lost) => Some(Self::Rows(Table::Producers)),
            Self::Rows(Table::Producers) => Some(Self::Rows(Table::Vectors)),
            Self::Rows(_) => Some(Self::End),
            Self::End => None,
        }
    }
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// What [`crate::Store::install_chunk`] takes; checksummed.
    pub bytes: Vec<u8>,
    /// Where the next part begins; `None` after the last.
    pub next: Option<Resume>,
}

/// Why a snapshot cannot be read or installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something was forgotten since it began, so its parts do not fit together.
    #[error("tombstones were forgotten while the snapshot was read: begin it again")]
    Stale,
    /// This store is itself waiting to be complete.
    #[error("this store is not complete itself yet: take the snapshot later, or from another site")]
    Incomplete,
    /// The store to install into is not empty.
    #[error("the store is not empty: a snapshot is installed only into a new one")]
    NotEmpty,
    /// This store has not applied what the snapshot began with.
    #[error("this store has not applied yet what the snapshot began with: ask again, or another site")]
    Behind,
    /// Nothing is being installed.
    #[error("no installation has begun, or it has ended")]
    NotInstalling,
    /// Parts are missing.
    #[error("the snapshot has not been received to its end: {0} is missing")]
    Unfinished(&'static str),
    /// The bytes are not a part of a snapshot, or not this version's.
    #[error("part of the snapshot is damaged: {0}; fetch it again")]
    Damaged(&'static str),
    /// The tables failed.
    #[error(transparent)]
    Tables(#[from] table::Error),
}

/// Tags of what a part holds, beside the rows of tables, which have the table's number.
pub(crate) const TAG_HEAD: u8 = 0xf0;
pub(crate) const TAG_END: u8 = 0xf1;
/// What the source had applied when it read the part.
pub(crate) const TAG_READ_AT: u8 = 0xf2;
/// Where the next part begins.
pub(crate) const TAG_NEXT: u8 = 0xf3;

const STAGE_HEAD: u8 = TAG_HEAD;
const STAGE_END: u8 = TAG_END;

const HEAD_BYTES: usize = 6;
const CHECKSUM_BYTES: usize = 8;
const ITEM_HEAD_BYTES: usize = 1 + 2 + 4;

/// Writes one part: mark, format, items (tag, lengths, key, value), checksum.
#[derive(Debug)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new() -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.put_u16_le(FORMAT);
        Self(bytes)
    }

    pub(crate) fn push(&mut self, tag: u8, key: &[u8], value: &[u8]) {
        self.0.put_u8(tag);
        self.0.put_u16_le(key.len() as u16);
        self.0.put_u32_le(value.len() as u32);
        self.0.extend_from_slice(key);
        self.0.extend_from_slice(value);
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        let checksum = xxh3_64(&self.0);
        self.0.put_u64_le(checksum);
        self.0
    }
}

pub(crate) struct Item<'a> {
    pub(crate) tag: u8,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// Checks a part and splits it. Nothing is allocated that the part's own length does not bound.
pub(crate) fn items(bytes: &[u8]) -> Result<Vec<Item<'_>>, Error> {
    if bytes.len() < HEAD_BYTES + CHECKSUM_BYTES || bytes.len() > MAX_CHUNK_BYTES {
        return Err(Error::Damaged("its length is out of range"));
    }
    let (covered, mut checksum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
    if covered[..4] != MAGIC {
        return Err(Error::Damaged("it does not start with the mark of a snapshot"));
    }
    if covered[4..6] != FORMAT.to_le_bytes() {
        return Err(Error::Damaged("its format is not this version's"));
    }
    if checksum.get_u64_le() != xxh3_64(covered) {
        return Err(Error::Damaged("its checksum is wrong"));
    }
    let mut rest = &covered[HEAD_BYTES..];
    let mut out = Vec::new();
    while !rest.is_empty() {
        if rest.len() < ITEM_HEAD_BYTES {
            return Err(Error::Damaged("a row is cut off"));
        }
        let (tag, key_len, value_len) = (rest.get_u8(), rest.get_u16_le() as usize, rest.get_u32_le() as usize);
        let (key, after) = rest.split_at_checked(key_len).ok_or(Error::Damaged("a key is cut off"))?;
        let (value, after) = after.split_at_checked(value_len).ok_or(Error::Damaged("a value is cut off"))?;
        rest = after;
        out.push(Item { tag, key, value });
    }
    Ok(out)
}

impl Snapshot {
    /// Clock, what was forgotten after its length, then for each stream its number, cursor and chain.
    pub fn encode(&self) -> Vec<u8> {
        let mut forgotten = Vec::new();
        self.forgotten.encode(&mut forgotten);
        let mut out = Vec::new();
        out.put_u64_le(self.clock);
        out.put_u32_le(forgotten.len() as u32);
        out.extend_from_slice(&forgotten);
        for (stream, lsn) in self.applied.iter() {
            out.put_u8(stream.site.0);
            out.put_u64_le(stream.incarnation.0);
            out.put_u64_le(lsn.0);
            out.extend_from_slice(&self.chains.get(&stream).copied().unwrap_or(ChainHash::start(stream)).0);
        }
        out
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, Error> {
        const WHAT: Error = Error::Damaged("its head does not decode");
        const STREAM_BYTES: usize = 1 + 8 + 8 + 16;
        if bytes.len() < 12 {
            return Err(WHAT);
        }
        let clock = bytes.get_u64_le();
        let len = bytes.get_u32_le() as usize;
        let (forgotten, rest) = bytes.split_at_checked(len).ok_or(WHAT)?;
        let forgotten = Vector::decode(forgotten).map_err(|_| WHAT)?;
        if rest.len() % STREAM_BYTES != 0 || rest.len() / STREAM_BYTES > Vector::MAX_STREAMS {
            return Err(WHAT);
        }
        let mut out = Self { applied: Vector::new(), chains: BTreeMap::new(), clock, forgotten };
        for mut b in rest.chunks_exact(STREAM_BYTES) {
            let site = SiteId(b.get_u8());
            let stream = StreamId { site, incarnation: Incarnation(b.get_u64_le()) };
            out.applied.set(stream, Lsn(b.get_u64_le()));
            let mut chain = [0; 16];
            b.copy_to_slice(&mut chain);
            out.chains.insert(stream, ChainHash(chain));
        }
        Ok(out)
    }
}
