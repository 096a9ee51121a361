//! The batch: unit of group commit, compression, shipping and checking.
//!
//! The bytes made here are the bytes on the origin's disk, on the wire and on every replica's disk. The layout is in
//! `docs/protocol/journal.md`.

use bytes::{Buf, BufMut, Bytes};
use cfs_model::{Epoch, Incarnation, Lsn, SiteId, Stamp, StreamId, Vector};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::caps::{MAX_BATCH_ENCODED_BYTES, MAX_BATCH_ENTRIES, MAX_BATCH_RAW_BYTES};
use crate::codec::{self, Codec};
use crate::payload::{self, Entries};

/// First bytes of every batch.
pub const MAGIC: [u8; 4] = *b"CFSB";
/// The format that this code writes, and the only one it reads.
pub const FORMAT: u16 = 1;
/// Bytes of a header before the vector.
pub const FIXED_HEADER_BYTES: usize = 96;
/// Bytes of the checksum that ends a header.
pub const HEADER_CHECKSUM_BYTES: usize = 8;
/// The longest header.
pub const MAX_HEADER_BYTES: usize = FIXED_HEADER_BYTES + Vector::MAX_ENCODED_BYTES + HEADER_CHECKSUM_BYTES;

const FLAG_VECTOR: u8 = 1;

/// XXH3-128 over everything in a stream before a batch: the chain of the empty stream is
/// [`ChainHash::start`], and each batch's header, which covers its payload's checksum, is folded in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChainHash(pub [u8; 16]);

impl ChainHash {
    /// The chain at LSN 0 of `stream`, so that no two streams share a history.
    pub fn start(stream: StreamId) -> Self {
        let mut seed = Vec::with_capacity(32);
        seed.extend_from_slice(b"claudefs stream");
        seed.put_u8(stream.site.0);
        seed.put_u64_le(stream.incarnation.0);
        Self(xxh3_128(&seed).to_le_bytes())
    }

    /// The chain after the batch with this encoded header. The header carries the chain before it.
    fn after(header: &[u8]) -> Self {
        Self(xxh3_128(header).to_le_bytes())
    }
}

impl std::fmt::Display for ChainHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl std::fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// What a batch says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The stream it belongs to.
    pub stream: StreamId,
    /// The epoch in which all its entries were appended.
    pub epoch: Epoch,
    /// LSN of the first entry.
    pub first_lsn: Lsn,
    /// How many entries; at least 1.
    pub count: u32,
    /// Clock of the first entry; entry `i` has this plus `i`.
    pub first_clock: u64,
    /// What of this stream was durable at its origin when the header was written.
    pub durable_lsn: Lsn,
    /// What the origin had applied of the *other* streams, when that changed since its previous batch.
    pub vector: Option<Vector>,
    /// How the payload is compressed.
    pub codec: Codec,
    /// Bytes of the payload before compression.
    pub raw_len: u32,
    /// Bytes of the payload as stored.
    pub encoded_len: u32,
    /// XXH3-64 of the payload as stored.
    pub payload_checksum: u64,
    /// The chain of everything before this batch.
    pub chain: ChainHash,
}

/// Why bytes are not a valid batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Fewer bytes than the header, or than header and payload together.
    #[error("it is cut off: {have} bytes of {need}")]
    Short {
        /// Bytes at hand.
        have: usize,
        /// Bytes needed, as far as known.
        need: usize,
    },
    /// The first bytes are not a batch's.
    #[error("it does not start with the mark of a batch")]
    Magic,
    /// A format of another version.
    #[error("its format is {0}, this version reads {FORMAT}; upgrade this site")]
    Format(u16),
    /// The header's checksum does not fit.
    #[error("the checksum of its header is wrong")]
    HeaderChecksum,
    /// The payload's checksum does not fit.
    #[error("the checksum of its payload is wrong")]
    PayloadChecksum,
    /// A field is out of its range although the checksum fits.
    #[error("its {0} is out of range")]
    Range(&'static str),
    /// The codec is unknown or the payload does not decompress.
    #[error(transparent)]
    Codec(#[from] codec::Error),
}

/// Why a batch could never be applied, although its checksums fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is no batch, or does not decompress.
    #[error(transparent)]
    Batch(#[from] Error),
    /// The payload is not a run of entries.
    #[error(transparent)]
    Payload(#[from] payload::Error),
    /// The payload holds more or fewer entries than the header says.
    #[error("it holds {found} entries or more, its header says {claimed}")]
    Count {
        /// Entries found before the check ended.
        found: usize,
        /// What the header says.
        claimed: u32,
    },
}

impl Header {
    /// LSN of the last entry.
    pub const fn last_lsn(&self) -> Lsn {
        self.first_lsn.plus(self.count as u64 - 1)
    }

    /// Stamp of entry `i`.
    pub const fn stamp(&self, i: u32) -> Stamp {
        Stamp {
            epoch: self.epoch,
            clock: self.first_clock + i as u64,
            site: self.stream.site,
            incarnation: self.stream.incarnation,
        }
    }

    /// Appends the encoded header to `out` and returns the chain after this batch.
    pub fn encode(&self, out: &mut Vec<u8>) -> ChainHash {
        let start = out.len();
        let vector_bytes = self.vector.as_ref().map_or(0, |v| {
            let mut counted = Vec::new();
            v.encode(&mut counted);
            counted.len()
        });
        out.extend_from_slice(&MAGIC);
        out.put_u16_le(FORMAT);
        out.put_u16_le((FIXED_HEADER_BYTES + vector_bytes + HEADER_CHECKSUM_BYTES) as u16);
        out.put_u8(if self.vector.is_some() { FLAG_VECTOR } else { 0 });
        out.put_u8(self.codec.number());
        out.put_u8(self.stream.site.0);
        out.put_u8(0);
        out.put_u32_le(self.count);
        out.put_u64_le(self.stream.incarnation.0);
        out.put_u64_le(self.epoch.0);
        out.put_u64_le(self.first_lsn.0);
        out.put_u64_le(self.first_clock);
        out.put_u64_le(self.durable_lsn.0);
        out.put_u32_le(self.raw_len);
        out.put_u32_le(self.encoded_len);
        out.extend_from_slice(&self.chain.0);
        out.put_u64_le(self.payload_checksum);
        out.put_u64_le(0);
        debug_assert_eq!(out.len() - start, FIXED_HEADER_BYTES);
        if let Some(vector) = &self.vector {
            vector.encode(out);
        }
        let checksum = xxh3_64(&out[start..]);
        out.put_u64_le(checksum);
        ChainHash::after(&out[start..])
    }

    /// Reads a header from the start of `bytes`; returns it, its encoded length, and the chain after the batch.
    /// Allocates nothing that the checked lengths do not bound.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize, ChainHash), Error> {
        let short = |need| Error::Short { have: bytes.len(), need };
        if bytes.len() < 8 {
            return Err(short(FIXED_HEADER_BYTES + HEADER_CHECKSUM_BYTES));
        }
        if bytes[..4] != MAGIC {
            return Err(Error::Magic);
        }
        let format = u16::from_le_bytes([bytes[4], bytes[5]]);
        if format != FORMAT {
            return Err(Error::Format(format));
        }
        let header_len = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
        if !(FIXED_HEADER_BYTES + HEADER_CHECKSUM_BYTES..=MAX_HEADER_BYTES).contains(&header_len) {
            return Err(Error::HeaderChecksum);
        }
        let header = bytes.get(..header_len).ok_or_else(|| short(header_len))?;
        let (covered, mut checksum) = header.split_at(header_len - HEADER_CHECKSUM_BYTES);
        if checksum.get_u64_le() != xxh3_64(covered) {
            return Err(Error::HeaderChecksum);
        }
        let out = Self::decode_fields(covered)?;
        Ok((out, header_len, ChainHash::after(header)))
    }

    fn decode_fields(covered: &[u8]) -> Result<Self, Error> {
        let mut b = &covered[8..];
        let flags = b.get_u8();
        let codec = Codec::from_number(b.get_u8())?;
        let site = SiteId(b.get_u8());
        let reserved = b.get_u8();
        let count = b.get_u32_le();
        let stream = StreamId { site, incarnation: Incarnation(b.get_u64_le()) };
        let epoch = Epoch(b.get_u64_le());
        let first_lsn = Lsn(b.get_u64_le());
        let first_clock = b.get_u64_le();
        let durable_lsn = Lsn(b.get_u64_le());
        let raw_len = b.get_u32_le();
        let encoded_len = b.get_u32_le();
        let mut chain = [0; 16];
        b.copy_to_slice(&mut chain);
        let payload_checksum = b.get_u64_le();
        let reserved_tail = b.get_u64_le();
        let vector = match (flags, b) {
            (0, []) => None,
            (FLAG_VECTOR, rest) => Some(Vector::decode(rest).map_err(|_| Error::Range("vector"))?),
            _ => return Err(Error::Range("flags")),
        };
        let check = |ok, what| if ok { Ok(()) } else { Err(Error::Range(what)) };
        check(reserved == 0 && reserved_tail == 0, "reserved field")?;
        check(site.0 != 0, "site")?;
        check((1..=MAX_BATCH_ENTRIES).contains(&count), "count")?;
        check(first_lsn.0 != 0 && first_lsn.0.checked_add(u64::from(count)).is_some(), "first LSN")?;
        check(first_clock.checked_add(u64::from(count)).is_some(), "clock")?;
        check(durable_lsn < first_lsn, "durable LSN")?;
        check(raw_len as usize <= MAX_BATCH_RAW_BYTES, "raw length")?;
        check(encoded_len as usize <= MAX_BATCH_ENCODED_BYTES && encoded_len <= raw_len, "encoded length")?;
        Ok(Self {
            stream,
            epoch,
            first_lsn,
            count,
            first_clock,
            durable_lsn,
            vector,
            codec,
            raw_len,
            encoded_len,
            payload_checksum,
            chain: ChainHash(chain),
        })
    }
}

/// A batch whose header and payload have been checked. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    header: Header,
    header_len: usize,
    chain_after: ChainHash,
    bytes: Bytes,
}

impl Batch {
    /// Compresses `raw` and makes the batch. `header`'s codec, lengths and checksum are filled in here.
    pub fn build(mut header: Header, raw: &[u8], scratch: &mut Vec<u8>) -> Result<Self, Error> {
        if raw.len() > MAX_BATCH_RAW_BYTES {
            return Err(Error::Codec(codec::Error::TooLarge(raw.len())));
        }
        header.codec = header.codec.compress(raw, scratch)?;
        header.raw_len = raw.len() as u32;
        header.encoded_len = scratch.len() as u32;
        header.payload_checksum = xxh3_64(scratch);
        let mut bytes = Vec::with_capacity(FIXED_HEADER_BYTES + HEADER_CHECKSUM_BYTES + scratch.len());
        let chain_after = header.encode(&mut bytes);
        let header_len = bytes.len();
        bytes.extend_from_slice(scratch);
        Ok(Self { header, header_len, chain_after, bytes: bytes.into() })
    }

    /// Checks header and payload of the batch at the start of `bytes`, which may be longer than the batch.
    /// Contiguity, chain and epoch are the caller's to check.
    pub fn decode(bytes: &Bytes) -> Result<Self, Error> {
        let (header, header_len, chain_after) = Header::decode(bytes)?;
        let need = header_len + header.encoded_len as usize;
        if bytes.len() < need {
            return Err(Error::Short { have: bytes.len(), need });
        }
        if xxh3_64(&bytes[header_len..need]) != header.payload_checksum {
            return Err(Error::PayloadChecksum);
        }
        Ok(Self { header, header_len, chain_after, bytes: bytes.slice(..need) })
    }

    /// What the batch says of itself.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The chain of everything up to and including this batch.
    pub const fn chain_after(&self) -> ChainHash {
        self.chain_after
    }

    /// Header and payload, as on disk and on the wire.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The payload, decompressed; never more than [`MAX_BATCH_RAW_BYTES`].
    pub fn decompress(&self) -> Result<Bytes, Error> {
        let payload = self.bytes.slice(self.header_len..);
        match self.header.codec {
            Codec::None => Ok(payload),
            codec => Ok(codec.decompress(&payload, self.header.raw_len as usize)?.into()),
        }
    }

    /// Checks what the checksums do not show: that the payload decompresses to its claimed length and holds as many
    /// entries as the header says. A batch that fails could never be applied, so it must not reach a journal.
    pub fn check_payload(&self) -> Result<(), Unusable> {
        let claimed = self.header.count;
        let mut found = 0;
        for entry in Entries::new(self.decompress()?).take(claimed as usize + 1) {
            entry?;
            found += 1;
        }
        if found == claimed as usize { Ok(()) } else { Err(Unusable::Count { found, claimed }) }
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
