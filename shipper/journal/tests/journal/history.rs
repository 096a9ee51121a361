//! Batches that continue each other, to be appended and compared.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cfs_journal::{Files, Journal, Options};
use cfs_model::op::{self, Op};
use cfs_model::{Epoch, Incarnation, Lsn, SiteId, StreamId};
use cfs_shipper_core::batch::{Batch, ChainHash, Header};
use cfs_shipper_core::codec::Codec;
use cfs_shipper_core::payload::Builder;
use prost::Message;

pub(crate) const DIR: &str = "/journal";

pub(crate) fn stream(site: u8) -> StreamId {
    StreamId { site: SiteId(site), incarnation: Incarnation(1) }
}

pub(crate) fn options(segment_bytes: u64) -> Options {
    Options { segment_bytes, tail_cache_bytes: 0, prepare_ahead: false }
}

pub(crate) fn operation(inode: u64, padding: usize) -> Op {
    let value = vec![inode as u8; padding];
    let set = op::SetXattr { inode, name: Bytes::from_static(b"user.test"), value: value.into() };
    Op { kind: Some(op::op::Kind::SetXattr(set)) }
}

/// The batch that follows `after` in a history, of `count` entries with `padding` bytes each.
pub(crate) fn next_batch(stream: StreamId, after: Option<&Batch>, count: u32, padding: usize, codec: Codec) -> Batch {
    let first_lsn = after.map_or(Lsn(1), |b| b.header().last_lsn().next());
    let mut builder = Builder::default();
    for i in 0..u64::from(count) {
        let lsn = first_lsn.0 + i;
        let producer = Bytes::from_static(b"producer");
        builder.push(&producer, lsn, &operation(lsn, padding).encode_to_vec());
    }
    let header = Header {
        stream,
        epoch: Epoch(1 + first_lsn.0 / 20),
        first_lsn,
        count,
        first_clock: 1_700_000_000_000_000_000 + first_lsn.0,
        // As on the origin, where every batch had its own sync: it says nothing of a replica's disk.
        durable_lsn: Lsn(first_lsn.0 - 1),
        vector: (first_lsn.0 % 2 == 1).then(|| [(self::stream(9), first_lsn)].into_iter().collect()),
        codec,
        raw_len: 0,
        encoded_len: 0,
        payload_checksum: 0,
        chain: after.map_or(ChainHash::start(stream), Batch::chain_after),
    };
    Batch::build(header, &builder.finish(), &mut Vec::new()).unwrap()
}

/// `sizes` batches that continue each other, each of (entries, padding).
pub(crate) fn history(stream: StreamId, sizes: &[(u32, usize)]) -> Vec<Batch> {
    let mut out: Vec<Batch> = Vec::new();
    for (count, padding) in sizes {
        let batch = next_batch(stream, out.last(), *count, *padding, Codec::None);
        out.push(batch);
    }
    out
}

/// The history cut into groups of these lengths.
pub(crate) fn groups<'a>(mut batches: &'a [Batch], lengths: &[usize]) -> Vec<&'a [Batch]> {
    let mut out = Vec::new();
    for length in lengths {
        let (group, rest) = batches.split_at(*length);
        out.push(group);
        batches = rest;
    }
    assert!(batches.is_empty());
    out
}

pub(crate) fn open(files: &Arc<dyn Files>, dir: &Path, segment_bytes: u64) -> Journal {
    Journal::open(files.clone(), dir, options(segment_bytes)).unwrap().0
}

/// All that a reader hands out, a few bytes at a time; or what it had when it failed, with the error.
pub(crate) fn read_all(journal: &Journal, stream: StreamId) -> (Vec<Batch>, Option<cfs_journal::read::Error>) {
    let mut out = Vec::new();
    let mut reader = match journal.reader(stream, Lsn::ZERO) {
        Ok(reader) => reader,
        Err(e) => return (out, Some(e)),
    };
    loop {
        match reader.next(500) {
            Ok(batches) if batches.is_empty() => return (out, None),
            Ok(batches) => out.extend(batches),
            Err(e) => return (out, Some(e)),
        }
    }
}

pub(crate) fn segment_path(dir: &Path, stream: StreamId, first_lsn: u64) -> PathBuf {
    dir.join(format!("{}-{}", stream.site, stream.incarnation.0)).join(format!("{first_lsn:020}.seg"))
}
