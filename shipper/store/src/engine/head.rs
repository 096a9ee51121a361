//! Cursors, chains, digest: the part of a store that is kept in memory beside the tables.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use cfs_model::{Epoch, Incarnation, Lsn, SiteId, StreamId, Vector};
use cfs_shipper_core::batch::ChainHash;

use super::Producers;
use crate::backend::{Read, Scan};
use crate::digest::Sums;
use crate::store::{Position, ProducerState};
use crate::table::{Error, Table};

pub(super) const CLOCK_KEY: &[u8] = b"clock";
pub(super) const FORGOTTEN_KEY: &[u8] = b"forgotten";
pub(super) const END_KEY: &[u8] = b"end";
pub(super) const PHASE_KEY: &[u8] = b"phase";

/// What the store is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nothing but applying.
    #[default]
    Ready = 0,
    /// A `Forget` is spread over several transactions.
    Forgetting = 1,
    /// A snapshot is being installed.
    Installing = 2,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) applied: Vector,
    pub(super) chains: BTreeMap<StreamId, ChainHash>,
    /// The vector in effect in each stream.
    pub(super) seen: BTreeMap<StreamId, Vector>,
    pub(super) clock: u64,
    /// All that a `Forget` has covered.
    pub(super) forgotten: Vector,
    /// What must be applied before the store is comparable: the end of the snapshot that it came from.
    pub(super) end: Vector,
    pub(super) phase: Phase,
    pub(super) sums: Sums,
}

impl Head {
    pub(super) fn is_comparable(&self) -> bool {
        self.phase == Phase::Ready && self.applied.covers(&self.end)
    }

    pub(super) fn chain(&self, stream: StreamId) -> ChainHash {
        self.chains.get(&stream).copied().unwrap_or_else(|| ChainHash::start(stream))
    }

    pub(super) fn position(&self) -> Position {
        Position {
            applied: self.applied.clone(),
            chains: self.chains.clone(),
            highest_clock: self.clock,
            comparable: self.is_comparable(),
        }
    }
}

pub(super) fn stream_key(stream: StreamId) -> [u8; 9] {
    let mut out = [0; 9];
    out[0] = stream.site.0;
    out[1..].copy_from_slice(&stream.incarnation.0.to_be_bytes());
    out
}

/// The stream that a key starts with, and the rest of the key.
pub(super) fn split_stream(table: Table, key: &[u8]) -> Result<(StreamId, &[u8]), Error> {
    let (head, rest) =
        key.split_first_chunk::<9>().ok_or_else(|| Error::corrupt(table, key, "its key is too short"))?;
    let mut b = &head[..];
    let site = SiteId(b.get_u8());
    Ok((StreamId { site, incarnation: Incarnation(b.get_u64()) }, rest))
}

pub(super) fn vector_key(stream: StreamId, first: Lsn) -> [u8; 17] {
    let mut out = [0; 17];
    out[..9].copy_from_slice(&stream_key(stream));
    out[9..].copy_from_slice(&first.0.to_be_bytes());
    out
}

/// What the writer of `(stream, lsn)` had seen, if a change of its vector at or below is known.
pub(super) fn seen_at(tables: &impl Read, stream: StreamId, lsn: Lsn) -> Result<Option<Vector>, Error> {
    let Some((key, value)) = tables.at_or_below(Table::Vectors, &vector_key(stream, lsn))? else {
        return Ok(None);
    };
    if !key.starts_with(&stream_key(stream)) {
        return Ok(None);
    }
    Vector::decode(value).map(Some).map_err(|e| Error::corrupt(Table::Vectors, key, e))
}

pub(super) fn encode_vector(vector: &Vector) -> Vec<u8> {
    let mut out = Vec::new();
    vector.encode(&mut out);
    out
}

pub(super) fn encode_cursor(lsn: Lsn, chain: ChainHash) -> [u8; 24] {
    let mut out = [0; 24];
    out[..8].copy_from_slice(&lsn.0.to_le_bytes());
    out[8..].copy_from_slice(&chain.0);
    out
}

/// Reads everything but the producers.
pub(super) fn load(tables: &impl Read) -> Result<Head, Error> {
    let mut head = Head::default();
    tables.scan(Table::Streams, &[], &mut |key, value| {
        let bad = || Error::corrupt(Table::Streams, key, "it does not decode");
        let (stream, rest) = split_stream(Table::Streams, key)?;
        let (lsn, chain) = value.split_first_chunk::<8>().filter(|_| rest.is_empty()).ok_or_else(bad)?;
        head.applied.set(stream, Lsn(u64::from_le_bytes(*lsn)));
        head.chains.insert(stream, ChainHash(chain.try_into().map_err(|_| bad())?));
        Ok(Scan::More)
    })?;
    for (stream, lsn) in head.applied.iter() {
        if let Some(seen) = seen_at(tables, stream, lsn)? {
            head.seen.insert(stream, seen);
        }
    }
    tables.scan(Table::Digest, &[], &mut |key, value| {
        if head.sums.load_row(key, value) {
            Ok(Scan::More)
        } else {
            Err(Error::corrupt(Table::Digest, key, "it does not decode"))
        }
    })?;
    let meta = |key: &[u8]| tables.get(Table::Meta, key);
    let bad = |key: &[u8]| Error::corrupt(Table::Meta, key, "it does not decode");
    if let Some(clock) = meta(CLOCK_KEY)? {
        head.clock = u64::from_le_bytes(clock.try_into().map_err(|_| bad(CLOCK_KEY))?);
    }
    for (key, vector) in [(FORGOTTEN_KEY, &mut head.forgotten), (END_KEY, &mut head.end)] {
        if let Some(bytes) = meta(key)? {
            *vector = Vector::decode(bytes).map_err(|_| bad(key))?;
        }
    }
    head.phase = match meta(PHASE_KEY)? {
        None | Some([0]) => Phase::Ready,
        Some([1]) => Phase::Forgetting,
        Some([2]) => Phase::Installing,
        Some(_) => return Err(bad(PHASE_KEY)),
    };
    Ok(head)
}

pub(super) fn encode_producer(state: &ProducerState) -> Vec<u8> {
    let mut out = Vec::with_capacity(33);
    out.put_u8(state.stream.site.0);
    out.put_u64_le(state.stream.incarnation.0);
    out.put_u64_le(state.epoch.0);
    out.put_u64_le(state.seq);
    out.put_u64_le(state.clock);
    out
}

pub(super) fn decode_producer(key: &[u8], mut value: &[u8]) -> Result<ProducerState, Error> {
    if value.len() != 33 {
        return Err(Error::corrupt(Table::Producers, key, "it does not decode"));
    }
    let site = SiteId(value.get_u8());
    let stream = StreamId { site, incarnation: Incarnation(value.get_u64_le()) };
    let epoch = Epoch(value.get_u64_le());
    Ok(ProducerState { stream, epoch, seq: value.get_u64_le(), clock: value.get_u64_le() })
}

/// A producer may have the empty name, which is no key: names are stored after a mark.
pub(super) fn producer_key(name: &[u8]) -> Vec<u8> {
    [b"p", name].concat()
}

pub(super) fn load_producers(tables: &impl Read) -> Result<Producers, Error> {
    let mut out = Producers::new();
    tables.scan(Table::Producers, &[], &mut |key, value| {
        let name = key.get(1..).unwrap_or_default();
        out.insert(Bytes::copy_from_slice(name), decode_producer(key, value)?);
        Ok(Scan::More)
    })?;
    Ok(out)
}
