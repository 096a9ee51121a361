//! One transaction: the tables, the cursors as they will be, and what there is to tell.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cfs_model::{StreamId, Vector};
use cfs_shipper_core::caps::MAX_PRODUCERS;
use cfs_shipper_core::merge::Register;

use super::head::{
    CLOCK_KEY, END_KEY, FORGOTTEN_KEY, Head, PHASE_KEY, encode_cursor, encode_producer, encode_vector, producer_key,
    stream_key,
};
use super::{Engine, Producers};
use crate::apply::Applied;
use crate::backend::{Backend, Size, Write};
use crate::digest;
use crate::store::ProducerState;
use crate::table::{Error, Table};

/// Buffers that one change after another uses.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) existing: Vec<u8>,
    hash: Vec<u8>,
    /// What a call that failed had committed before: the next one tells it.
    pub(super) untold: Applied,
}

/// What a transaction tells once it is committed.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) applied: Applied,
    pub(super) boundaries: Vec<(Vector, u128)>,
    pub(super) producers: BTreeMap<Bytes, ProducerState>,
}

pub(super) struct Txn<'e, W> {
    pub(super) tables: W,
    pub(super) head: Head,
    pub(super) scratch: &'e mut Scratch,
    pub(super) told: Told,
    /// Streams whose cursor moved.
    pub(super) moved: BTreeSet<StreamId>,
}

impl<W: Write> Txn<'_, W> {
    pub(super) fn digest_add(&mut self, inode: u64, table: Table, key: &[u8], register: &[u8]) {
        let hash = digest::hash(table, key, register, &mut self.scratch.hash);
        self.head.sums.add(inode, hash);
    }

    pub(super) fn digest_sub(&mut self, inode: u64, table: Table, key: &[u8], register: &[u8]) {
        let hash = digest::hash(table, key, register, &mut self.scratch.hash);
        self.head.sums.sub(inode, hash);
    }

    /// Notes, or no longer notes, that a `Forget` may remove something of a register.
    pub(super) fn index_tomb(&mut self, register: &Register, present: bool) -> Result<(), Error> {
        let mut key = Vec::with_capacity(Register::MAX_BYTES);
        register.encode(&mut key);
        if present { self.tables.put(Table::Tombs, &key, &[]) } else { self.tables.delete(Table::Tombs, &key) }
    }

    /// Writes what the head has that the tables do not have yet.
    fn write_head(&mut self, before: &Head) -> Result<(), Error> {
        for (row, bytes) in self.head.sums.take_touched() {
            self.tables.put(Table::Digest, &[row], &bytes)?;
        }
        for stream in &self.moved {
            let cursor = encode_cursor(self.head.applied.get(*stream), self.head.chain(*stream));
            self.tables.put(Table::Streams, &stream_key(*stream), &cursor)?;
        }
        let head = &self.head;
        if head.clock != before.clock {
            self.tables.put(Table::Meta, CLOCK_KEY, &head.clock.to_le_bytes())?;
        }
        if head.forgotten != before.forgotten {
            self.tables.put(Table::Meta, FORGOTTEN_KEY, &encode_vector(&head.forgotten))?;
        }
        if head.end != before.end {
            self.tables.put(Table::Meta, END_KEY, &encode_vector(&head.end))?;
        }
        if head.phase != before.phase {
            self.tables.put(Table::Meta, PHASE_KEY, &[head.phase as u8])?;
        }
        Ok(())
    }

    /// Writes the producers that changed. Returns those that go because there are too many.
    fn write_producers(&mut self, known: &Producers) -> Result<Vec<Bytes>, Error> {
        for (name, state) in &self.told.producers {
            self.tables.put(Table::Producers, &producer_key(name), &encode_producer(state))?;
        }
        let new = self.told.producers.keys().filter(|name| !known.contains_key(*name)).count();
        let excess = (known.len() + new).saturating_sub(MAX_PRODUCERS);
        if excess == 0 {
            return Ok(Vec::new());
        }
        let unchanged = known.iter().filter(|(name, _)| !self.told.producers.contains_key(*name));
        let mut by_age: Vec<_> =
            unchanged.chain(&self.told.producers).map(|(name, state)| (state.clock, name.clone())).collect();
        by_age.sort_unstable();
        let gone: Vec<Bytes> = by_age.into_iter().take(excess).map(|(_, name)| name).collect();
        for name in &gone {
            self.tables.delete(Table::Producers, &producer_key(name))?;
        }
        Ok(gone)
    }
}

impl<B: Backend> Engine<B> {
    /// Begins a transaction of about this size. The caller holds the writer's lock.
    pub(super) fn begin<'e>(&'e self, size: Size, scratch: &'e mut Scratch) -> Result<Txn<'e, B::Writer<'e>>, Error> {
        let tables = self.backend.write(size)?;
        let head = self.live().head.clone();
        Ok(Txn { tables, head, scratch, told: Told::default(), moved: BTreeSet::new() })
    }

    /// Commits, and only then lets readers of the head see it.
    pub(super) fn commit(&self, mut txn: Txn<'_, B::Writer<'_>>) -> Result<Applied, Error> {
        let gone = {
            let live = self.live();
            txn.write_head(&live.head)?;
            txn.write_producers(&live.producers)?
        };
        let Txn { tables, head, told, .. } = txn;
        tables.commit()?;
        let mut live = self.live_mut();
        live.head = head;
        live.producers.extend(told.producers);
        for name in gone {
            live.producers.remove(&name);
        }
        for boundary in told.boundaries {
            live.remember(boundary);
        }
        Ok(told.applied)
    }
}
