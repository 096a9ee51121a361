//! What is in a segment beside batches: its header and the sync marks. The layout is in `docs/protocol/journal.md`.

use std::ffi::OsStr;

use bytes::{Buf, BufMut};
use cfs_model::{Incarnation, Lsn, SiteId, StreamId};
use cfs_shipper_core::batch::ChainHash;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// First bytes of every segment.
pub(crate) const MAGIC: [u8; 4] = *b"CFSS";
/// First bytes of every sync mark.
pub(crate) const MARK_MAGIC: [u8; 4] = *b"CFSM";
/// The format of segment headers and sync marks that this code writes, and the only one it reads.
pub(crate) const FORMAT: u16 = 1;
/// Bytes of a segment header.
pub(crate) const HEADER_BYTES: usize = 64;
/// Bytes of a sync mark.
pub(crate) const MARK_BYTES: usize = 48;
/// How a file ends that is being made and has no segment's name yet; recovery removes it.
pub(crate) const UNFINISHED: &str = ".tmp";

const CHECKSUM_BYTES: usize = 8;

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) stream: StreamId,
    /// LSN of the first entry; also the file's name.
    pub(crate) first_lsn: Lsn,
    /// First LSN of the segment before; 0 if there was none.
    pub(crate) previous: Lsn,
    /// The chain of everything before this segment.
    pub(crate) chain: ChainHash,
    /// The header's own checksum, which seeds the checksums of the marks in the segment.
    pub(crate) checksum: u64,
}

impl SegmentHeader {
    /// A header whose checksum is filled in.
    pub(crate) fn new(stream: StreamId, first_lsn: Lsn, previous: Lsn, chain: ChainHash) -> Self {
        let mut header = Self { stream, first_lsn, previous, chain, checksum: 0 };
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        header.encode_fields(&mut bytes);
        header.checksum = xxh3_64(&bytes);
        header
    }

    fn encode_fields(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.put_u16_le(FORMAT);
        out.put_u16_le(HEADER_BYTES as u16);
        out.put_u8(self.stream.site.0);
        out.put_bytes(0, 7);
        out.put_u64_le(self.stream.incarnation.0);
        out.put_u64_le(self.first_lsn.0);
        out.put_u64_le(self.previous.0);
        out.extend_from_slice(&self.chain.0);
    }

    /// Appends the encoded header to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.encode_fields(out);
        out.put_u64_le(self.checksum);
    }

    /// Reads a header from the start of `bytes`; says what is wrong with it otherwise.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Some(bytes) = bytes.get(..HEADER_BYTES) else {
            return Err(format!("the segment's header is cut off at {} bytes of {HEADER_BYTES}", bytes.len()));
        };
        if bytes[..4] != MAGIC {
            return Err("the file does not start with the mark of a segment".to_owned());
        }
        let mut b = &bytes[4..];
        let format = b.get_u16_le();
        if format != FORMAT {
            return Err(format!("the segment's format is {format}, this version reads {FORMAT}"));
        }
        let (covered, mut checksum) = bytes.split_at(HEADER_BYTES - CHECKSUM_BYTES);
        let checksum = checksum.get_u64_le();
        if xxh3_64(covered) != checksum {
            return Err("the checksum of the segment's header is wrong".to_owned());
        }
        let length = b.get_u16_le();
        let site = SiteId(b.get_u8());
        b.advance(7);
        let stream = StreamId { site, incarnation: Incarnation(b.get_u64_le()) };
        let (first_lsn, previous) = (Lsn(b.get_u64_le()), Lsn(b.get_u64_le()));
        let mut chain = ChainHash([0; 16]);
        b.copy_to_slice(&mut chain.0);
        let read = Self::new(stream, first_lsn, previous, chain);
        if usize::from(length) != HEADER_BYTES || read.checksum != checksum || previous >= first_lsn {
            return Err("a field of the segment's header is out of its range".to_owned());
        }
        Ok(read)
    }
}

/// Stands before each group of batches that one sync made durable, and says what was durable here before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// How many batches were written together with the mark.
    pub(crate) batches: u32,
    /// What of the stream was durable on this disk when the mark was written.
    pub(crate) durable: Lsn,
}

impl Mark {
    /// Appends the mark for `offset` of `segment` to `out`.
    pub(crate) fn encode(self, segment: &SegmentHeader, offset: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&MARK_MAGIC);
        out.put_u16_le(FORMAT);
        out.put_u16_le(MARK_BYTES as u16);
        out.put_u8(segment.stream.site.0);
        out.put_bytes(0, 3);
        out.put_u32_le(self.batches);
        out.put_u64_le(segment.stream.incarnation.0);
        out.put_u64_le(self.durable.0);
        out.put_u64_le(offset);
        let checksum = xxh3_64_with_seed(&out[start..], segment.checksum);
        out.put_u64_le(checksum);
    }

    /// Reads the mark at the start of `bytes`, which are at `offset` of `segment`: a mark of another place or another
    /// segment is none here, so that no bytes in a payload can pass for one.
    pub(crate) fn decode(bytes: &[u8], segment: &SegmentHeader, offset: u64) -> Option<Self> {
        let bytes = bytes.get(..MARK_BYTES)?;
        let mut b = &bytes[12..];
        let batches = b.get_u32_le();
        b.advance(8);
        let mark = Self { batches, durable: Lsn(b.get_u64_le()) };
        let mut again = Vec::with_capacity(MARK_BYTES);
        mark.encode(segment, offset, &mut again);
        (batches > 0 && again == bytes).then_some(mark)
    }
}

/// Name of the segment that starts at `first_lsn`: 20 digits, so that names sort as numbers.
pub(crate) fn file_name(first_lsn: Lsn) -> String {
    format!("{:020}.seg", first_lsn.0)
}

/// The first LSN in a segment's name; `None` if this is no segment's name.
pub(crate) fn parse_file_name(name: &OsStr) -> Option<Lsn> {
    let digits = name.to_str()?.strip_suffix(".seg")?;
    let lsn = Lsn(digits.parse().ok()?);
    (file_name(lsn).as_str() == name && lsn != Lsn::ZERO).then_some(lsn)
}

/// Name of a stream's directory.
pub(crate) fn dir_name(stream: StreamId) -> String {
    format!("{}-{}", stream.site, stream.incarnation.0)
}

/// The stream in a directory's name; `None` if this is no stream's directory.
pub(crate) fn parse_dir_name(name: &OsStr) -> Option<StreamId> {
    let (site, incarnation) = name.to_str()?.split_once('-')?;
    let site = SiteId(site.parse().ok()?);
    let stream = StreamId { site, incarnation: Incarnation(incarnation.parse().ok()?) };
    (dir_name(stream).as_str() == name && site.0 != 0).then_some(stream)
}
