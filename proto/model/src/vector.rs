//! A site's position: one LSN for each stream.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::fmt;

use bytes::{Buf, BufMut};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Incarnation, Lsn, SiteId, StreamId};

const POSITION_BYTES: usize = 1 + 8 + 8;

/// Why bytes are not a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a vector: {0}")]
pub struct Error(&'static str);

/// For each stream, how far; a stream that is absent is at 0. Never holds a 0.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Vector(BTreeMap<StreamId, Lsn>);

impl Vector {
    /// Streams that one vector may hold (invariant 10).
    pub const MAX_STREAMS: usize = 1024;
    /// The longest encoding.
    pub const MAX_ENCODED_BYTES: usize = 2 + Self::MAX_STREAMS * POSITION_BYTES;

    /// A vector at 0 for every stream.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// How far in `stream`.
    pub fn get(&self, stream: StreamId) -> Lsn {
        self.0.get(&stream).copied().unwrap_or_default()
    }

    /// Sets the position in `stream`, also backwards.
    pub fn set(&mut self, stream: StreamId, lsn: Lsn) {
        if lsn == Lsn::ZERO {
            self.0.remove(&stream);
        } else {
            self.0.insert(stream, lsn);
        }
    }

    /// Moves `stream` to `lsn` unless it is further already.
    pub fn advance(&mut self, stream: StreamId, lsn: Lsn) {
        if lsn > self.get(stream) {
            self.set(stream, lsn);
        }
    }

    /// Whether this vector is at or past `other` in every stream.
    pub fn covers(&self, other: &Self) -> bool {
        other.iter().all(|(stream, lsn)| self.get(stream) >= lsn)
    }

    /// Whether this vector is at or past `lsn` in `stream`.
    pub fn covers_entry(&self, stream: StreamId, lsn: Lsn) -> bool {
        self.get(stream) >= lsn
    }

    /// How many entries this vector reaches to that `other` does not.
    pub fn beyond(&self, other: &Self) -> u64 {
        self.iter().map(|(stream, lsn)| lsn.0.saturating_sub(other.get(stream).0)).sum()
    }

    /// The further position of the two in every stream.
    #[must_use]
    pub fn max(&self, other: &Self) -> Self {
        let mut out = self.clone();
        for (stream, lsn) in other.iter() {
            out.advance(stream, lsn);
        }
        out
    }

    /// The nearer position of the two in every stream.
    #[must_use]
    pub fn min(&self, other: &Self) -> Self {
        self.iter().map(|(stream, lsn)| (stream, lsn.min(other.get(stream)))).collect()
    }

    /// All positions, in the order of streams.
    pub fn iter(&self) -> impl Iterator<Item = (StreamId, Lsn)> + '_ {
        self.0.iter().map(|(stream, lsn)| (*stream, *lsn))
    }

    /// How many streams are past 0.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether every stream is at 0.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends the one encoding of this vector: count (u16), then site (u8), incarnation (u64) and LSN (u64) of each
    /// stream in order, all little-endian. At most [`Self::MAX_STREAMS`] streams are written.
    pub fn encode(&self, out: &mut impl BufMut) {
        let count = self.0.len().min(Self::MAX_STREAMS);
        out.put_u16_le(count as u16);
        for (stream, lsn) in self.iter().take(count) {
            out.put_u8(stream.site.0);
            out.put_u64_le(stream.incarnation.0);
            out.put_u64_le(lsn.0);
        }
    }

    /// Reads what [`Self::encode`] wrote, which must fill `bytes`. Refuses any other encoding of the same vector.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() < 2 {
            return Err(Error("its count is cut off"));
        }
        let count = usize::from(bytes.get_u16_le());
        if count > Self::MAX_STREAMS {
            return Err(Error("it names more than 1024 streams"));
        }
        if bytes.len() != count * POSITION_BYTES {
            return Err(Error("its length does not fit its count"));
        }
        let mut out = Self::new();
        let mut last = None;
        for _ in 0..count {
            let site = SiteId(bytes.get_u8());
            let stream = StreamId { site, incarnation: Incarnation(bytes.get_u64_le()) };
            let lsn = Lsn(bytes.get_u64_le());
            if lsn == Lsn::ZERO {
                return Err(Error("it holds a stream at 0"));
            }
            if last.is_some_and(|last| last >= stream) {
                return Err(Error("its streams are not in order"));
            }
            last = Some(stream);
            out.set(stream, lsn);
        }
        Ok(out)
    }
}

impl FromIterator<(StreamId, Lsn)> for Vector {
    fn from_iter<T: IntoIterator<Item = (StreamId, Lsn)>>(items: T) -> Self {
        let mut out = Self::new();
        for (stream, lsn) in items {
            out.advance(stream, lsn);
        }
        out
    }
}

impl IntoIterator for Vector {
    type Item = (StreamId, Lsn);
    type IntoIter = btree_map::IntoIter<StreamId, Lsn>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (stream, lsn)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{stream}@{lsn}")?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Vector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(stream, lsn)| (stream.to_string(), lsn.0)))
    }
}

impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = BTreeMap::<String, u64>::deserialize(deserializer)?;
        map.into_iter().map(|(stream, lsn)| Ok((stream.parse().map_err(serde::de::Error::custom)?, Lsn(lsn)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(site: u8, incarnation: u64) -> StreamId {
        StreamId { site: SiteId(site), incarnation: Incarnation(incarnation) }
    }

    fn any_vector() -> impl Strategy<Value = Vector> {
        proptest::collection::vec((0..4u8, 0..3u64, 0..9u64), 0..8)
            .prop_map(|items| items.into_iter().map(|(s, i, l)| (stream(s, i), Lsn(l))).collect())
    }

    proptest! {
        #[test]
        fn max_covers_both_and_both_cover_min(a in any_vector(), b in any_vector()) {
            let (max, min) = (a.max(&b), a.min(&b));
            prop_assert!(max.covers(&a) && max.covers(&b) && a.covers(&min) && b.covers(&min));
            prop_assert_eq!(a.covers(&b) && b.covers(&a), a == b);
        }

        #[test]
        fn decode_reads_what_encode_wrote(a in any_vector()) {
            let mut bytes = Vec::new();
            a.encode(&mut bytes);
            prop_assert_eq!(Vector::decode(&bytes), Ok(a));
        }

        #[test]
        fn decode_refuses_or_reproduces_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(vector) = Vector::decode(&bytes) {
                let mut again = Vec::new();
                vector.encode(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
