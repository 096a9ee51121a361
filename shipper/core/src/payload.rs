//! What is inside a batch, before compression: runs of entries, each run by one producer with consecutive sequence
//! numbers. The operations are the very bytes that the producer sent.

use bytes::{Buf, Bytes};
use cfs_model::op::Op;
use prost::Message;
use prost::encoding::{decode_varint, encode_varint};

use crate::caps::{MAX_ENTRY_BYTES, MAX_PRODUCER_BYTES};

/// Why bytes are not a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A length points past the end, or a number does not end.
    #[error("the payload is cut off in {0}")]
    Short(&'static str),
    /// A length is over its limit.
    #[error("the payload holds {0} over its limit")]
    Limit(&'static str),
    /// An operation does not decode.
    #[error("entry {index} holds no operation that this version knows: {why}")]
    Operation {
        /// Which entry of the batch, from 0.
        index: u32,
        /// What the decoder says.
        why: String,
    },
}

/// Collects entries into a payload.
#[derive(Debug, Default)]
pub struct Builder {
    done: Vec<u8>,
    run: Vec<u8>,
    producer: Bytes,
    first_seq: u64,
    run_count: u64,
    count: u32,
}

impl Builder {
    /// Adds an entry. `op` is an encoded [`Op`].
    pub fn push(&mut self, producer: &Bytes, seq: u64, op: &[u8]) {
        if self.run_count == 0 || self.producer != *producer || self.first_seq + self.run_count != seq {
            self.close_run();
            self.producer = producer.clone();
            self.first_seq = seq;
        }
        encode_varint(op.len() as u64, &mut self.run);
        self.run.extend_from_slice(op);
        self.run_count += 1;
        self.count += 1;
    }

    /// How many entries so far.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// How many bytes so far, without the heads of runs.
    pub const fn len(&self) -> usize {
        self.done.len() + self.run.len()
    }

    /// Whether nothing was added.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The payload; the builder is empty afterwards and keeps no memory of it.
    pub fn finish(&mut self) -> Vec<u8> {
        self.close_run();
        self.count = 0;
        std::mem::take(&mut self.done)
    }

    fn close_run(&mut self) {
        if self.run_count > 0 {
            encode_varint(self.producer.len() as u64, &mut self.done);
            self.done.extend_from_slice(&self.producer);
            encode_varint(self.first_seq, &mut self.done);
            encode_varint(self.run_count, &mut self.done);
            self.done.append(&mut self.run);
            self.run_count = 0;
        }
    }
}

/// One entry of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Index in the batch, from 0: its LSN is the batch's first plus this.
    pub index: u32,
    /// Who appended it.
    pub producer: Bytes,
    /// The producer's sequence number.
    pub seq: u64,
    /// The encoded operation.
    pub op: Bytes,
}

impl Entry {
    /// Decodes the operation.
    pub fn decode(&self) -> Result<Op, Error> {
        Op::decode(self.op.clone()).map_err(|e| Error::Operation { index: self.index, why: e.to_string() })
    }
}

/// Reads the entries of a payload one after another; ends after the first error.
#[derive(Debug)]
pub struct Entries {
    rest: Bytes,
    producer: Bytes,
    next_seq: u64,
    left_in_run: u64,
    index: u32,
}

impl Entries {
    /// Reads `payload`, which shares its memory with the entries.
    pub const fn new(payload: Bytes) -> Self {
        Self { rest: payload, producer: Bytes::new(), next_seq: 0, left_in_run: 0, index: 0 }
    }

    fn take(&mut self, limit: usize, what: &'static str) -> Result<Bytes, Error> {
        let len = usize::try_from(self.varint(what)?).map_err(|_| Error::Limit(what))?;
        if len > limit {
            return Err(Error::Limit(what));
        }
        if len > self.rest.remaining() {
            return Err(Error::Short(what));
        }
        Ok(self.rest.split_to(len))
    }

    fn varint(&mut self, what: &'static str) -> Result<u64, Error> {
        decode_varint(&mut self.rest).map_err(|_| Error::Short(what))
    }

    fn read(&mut self) -> Result<Entry, Error> {
        if self.left_in_run == 0 {
            self.producer = self.take(MAX_PRODUCER_BYTES, "a producer's name")?;
            self.next_seq = self.varint("a sequence number")?;
            self.left_in_run = self.varint("a count")?;
            if self.left_in_run == 0 || self.next_seq.checked_add(self.left_in_run).is_none() {
                return Err(Error::Limit("a count"));
            }
        }
        let op = self.take(MAX_ENTRY_BYTES, "an entry")?;
        let entry = Entry { index: self.index, producer: self.producer.clone(), seq: self.next_seq, op };
        self.left_in_run -= 1;
        self.next_seq += 1;
        self.index += 1;
        Ok(entry)
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, Error>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() && self.left_in_run == 0 {
            return None;
        }
        let out = self.read();
        if out.is_err() {
            self.rest.clear();
            self.left_in_run = 0;
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_read_back(items in proptest::collection::vec((0..3u8, 0..4u64, proptest::collection::vec(any::<u8>(), 0..9)), 0..40)) {
            let mut builder = Builder::default();
            for (producer, seq, op) in &items {
                builder.push(&Bytes::from(vec![*producer]), *seq, op);
            }
            prop_assert_eq!(builder.count() as usize, items.len());
            let read: Vec<Entry> = Entries::new(builder.finish().into()).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(read.len(), items.len());
            for (i, (entry, (producer, seq, op))) in read.iter().zip(&items).enumerate() {
                prop_assert_eq!((entry.index as usize, &entry.producer[..], entry.seq, &entry.op[..]), (i, &[*producer][..], *seq, &op[..]));
            }
        }

        #[test]
        fn arbitrary_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Entries::new(bytes.into()).count() <= 201);
        }
    }
}
