//! Repairing one inode: reading its registers where they are sound, putting them in place where they are not.

mod put;

use std::collections::BTreeMap;
use std::sync::PoisonError;

use bytes::Bytes;
use cfs_model::{Lsn, StreamId, Vector, Version};
use cfs_shipper_core::merge::{Dentry, Field, Inode, Register, Xattr};

use super::Engine;
use super::head::{self, Phase, encode_vector, split_stream, vector_key};
use super::paths::names;
use super::verify::{REGISTERS, bucket_sum, register_part};
use crate::backend::{Backend, Read, Scan, Size, Write};
use crate::digest::bucket_of;
use crate::lost;
use crate::repair::{Error, Part, Repaired};
use crate::row::{inode_key, link_key, split_key};
use crate::snapshot::{Item, TAG_END, Writer, items};
use crate::table::{self, Table};

/// Names that one part brings: where an inode has more, those that this store knows itself must do.
const MAX_NAMES: usize = 1024;
/// Once a part is this long, settled lost writes stay behind.
const MAX_SETTLED_BYTES: usize = 2 * 1024 * 1024;
const DAMAGED: Error = Error::Damaged("a row does not decode");

/// Where a part begins: a table and a key in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Start {
    table: Table,
    key: Vec<u8>,
}

impl Start {
    fn decode(inode: u64, bytes: &[u8]) -> Result<Self, Error> {
        let [tag, key @ ..] = bytes else { return Ok(Self { table: Table::Inodes, key: inode_key(inode).to_vec() }) };
        let table = REGISTERS.into_iter().find(|table| *table as u8 == *tag);
        let table = table.filter(|_| key.starts_with(&inode_key(inode)));
        Ok(Self { table: table.ok_or(Error::Damaged("it begins at no place"))?, key: key.to_vec() })
    }

    fn encode(&self) -> Bytes {
        [&[self.table as u8], &self.key[..]].concat().into()
    }
}

impl<B: Backend> Engine<B> {
    pub(super) fn read_part(&self, inode: u64, from: &[u8], max_bytes: usize) -> Result<Part, Error> {
        let start = Start::decode(inode, from)?;
        let tables = self.backend.read()?;
        let head = head::load(&tables)?;
        if head.phase != Phase::Ready {
            return Err(Error::Busy);
        }
        let mut reading = Reading { tables: &tables, out: Writer::new(), seen: BTreeMap::new(), registers: 0 };
        if start.table == Table::Inodes {
            reading.names(inode)?;
        }
        let (mut next, mut rows) = (None, 0);
        for table in REGISTERS.into_iter().filter(|table| *table >= start.table) {
            let key = if table == start.table { start.key.clone() } else { inode_key(inode).to_vec() };
            tables.scan(table, &key, &mut |key, row| {
                if !key.starts_with(&inode_key(inode)) {
                    return Ok(Scan::Stop);
                }
                if rows > 0 && reading.out.len() >= max_bytes {
                    next = Some(Start { table, key: key.to_vec() });
                    return Ok(Scan::Stop);
                }
                reading.row(table, key, row)?;
                rows += 1;
                Ok(Scan::More)
            })?;
            if next.is_some() {
                break;
            }
        }
        for ((stream, lsn), seen) in std::mem::take(&mut reading.seen) {
            reading.out.push(Table::Vectors as u8, &vector_key(stream, lsn), &encode_vector(&seen));
        }
        reading.out.push(TAG_END, &[], &encode_vector(&head.applied));
        Ok(Part {
            applied: head.applied,
            registers: reading.registers,
            bytes: reading.out.finish().into(),
            next: next.map(|start| start.encode()),
        })
    }

    pub(super) fn repair_part(&self, inode: u64, from: &[u8], part: &Part) -> Result<Repaired, Error> {
        let start = Start::decode(inode, from)?;
        let end = part.next.as_ref().map(|next| Start::decode(inode, next)).transpose()?;
        let sent = Sent::decode(inode, &start, end.as_ref(), part)?;
        let mut scratch = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let size = Size { rows: 4 * sent.rows.len() + 16, bytes: part.bytes.len() };
        let mut txn = self.begin(size, &mut scratch)?;
        if txn.head.phase != Phase::Ready {
            return Err(Error::Busy);
        }
        if !part.applied.covers(&txn.head.applied) {
            return Err(Error::Behind { part: part.applied.clone(), here: txn.head.applied.clone() });
        }
        let mut done = put::Put::new(inode, &sent);
        done.lost(&mut txn)?;
        for table in REGISTERS {
            done.table(&mut txn, table, &start, end.as_ref())?;
        }
        for (stream, lsn, seen) in &sent.seen {
            if !txn.head.applied.covers_entry(*stream, *lsn) {
                txn.tables.put(Table::Vectors, &vector_key(*stream, *lsn), &encode_vector(seen))?;
            }
        }
        let repaired = Repaired { registers: sent.registers, changed: done.changed, conflicts: done.conflicts };
        if repaired.changed == 0 {
            return Ok(repaired);
        }
        let bucket = bucket_of(inode);
        let mut corrected = false;
        let sums = &mut txn.head.sums;
        if done.before != done.after {
            let now = bucket_sum(&txn.tables, bucket)?;
            let was = now.wrapping_sub(done.after).wrapping_add(done.before);
            // A kept sum that fitted the damaged registers counted the damage in. One that did not is right already:
            // it was kept by those who wrote.
            if sums.buckets[usize::from(bucket)] == was {
                sums.set(bucket, now);
                corrected = true;
            }
        }
        if part.applied != txn.head.applied {
            // What the source had applied beyond is in the registers now: applied again, it changes nothing.
            txn.head.end = txn.head.end.max(&part.applied);
        }
        self.commit(txn)?;
        if corrected {
            self.forget_history();
        }
        Ok(repaired)
    }

    pub(super) fn settle(&self, bucket: u16) -> Result<bool, table::Error> {
        let mut scratch = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut txn = self.begin(Size { rows: 1, bytes: 0 }, &mut scratch)?;
        let now = bucket_sum(&txn.tables, bucket)?;
        if txn.head.sums.buckets[usize::from(bucket)] == now {
            return Ok(false);
        }
        txn.head.sums.set(bucket, now);
        self.commit(txn)?;
        self.forget_history();
        Ok(true)
    }

    /// What the digest was at earlier positions was wrong too.
    fn forget_history(&self) {
        self.live_mut().history.clear();
    }
}

/// A part while it is read.
struct Reading<'a, T> {
    tables: &'a T,
    out: Writer,
    /// What the writers of the registers had seen.
    seen: BTreeMap<(StreamId, Lsn), Vector>,
    registers: u64,
}

impl<T: Read> Reading<'_, T> {
    /// The names of the inode: what its own site derived, for one that cannot read its own any more.
    fn names(&mut self, inode: u64) -> Result<(), table::Error> {
        let mut key = Vec::new();
        for (parent, name) in names(self.tables, inode, MAX_NAMES)? {
            link_key(inode, parent, &name, &mut key);
            self.out.push(Table::Links as u8, &key, &[]);
        }
        Ok(())
    }

    fn row(&mut self, table: Table, key: &[u8], row: &[u8]) -> Result<(), table::Error> {
        let register = register_part(table, key, row)?;
        if !register.is_empty() {
            for version in versions(table, register).map_err(|_| table::Error::corrupt(table, key, "a register"))? {
                let (stream, lsn) = (version.stamp.stream(), version.lsn);
                if let Some(seen) = head::seen_at(self.tables, stream, lsn)? {
                    self.seen.insert((stream, lsn), seen);
                }
            }
            self.out.push(table as u8, key, register);
            self.registers += 1;
        }
        let (inode, name) = split_key(table, key)?;
        for prefix in lost_prefixes(table, inode, name) {
            self.tables.scan_prefix(Table::Lost, &prefix, &mut |key, row| {
                // Of those that are settled, sites need not hold the same.
                if !lost::is_superseded(row) || self.out.len() < MAX_SETTLED_BYTES {
                    self.out.push(Table::Lost as u8, key, row);
                }
                Ok(Scan::More)
            })?;
        }
        Ok(())
    }
}

/// What the keys of lost writes of a row's registers begin with.
fn lost_prefixes(table: Table, inode: u64, name: &[u8]) -> Vec<Vec<u8>> {
    let registers = match table {
        Table::Inodes => Field::ALL.into_iter().map(|field| Register::Field(inode, field)).collect(),
        Table::Dentries => vec![Register::Dentry(inode, name.to_vec())],
        _ => vec![Register::Xattr(inode, name.to_vec())],
    };
    registers
        .iter()
        .map(|register| {
            let mut prefix = Vec::new();
            register.encode(&mut prefix);
            prefix
        })
        .collect()
}

/// The versions in a row of registers.
fn versions(table: Table, register: &[u8]) -> Result<Vec<Version>, cfs_shipper_core::merge::Malformed> {
    Ok(match table {
        Table::Inodes => Inode::decode(register)?.iter().map(|(_, slot)| slot.version).collect(),
        Table::Dentries => vec![Dentry::decode(register)?.version],
        _ => vec![Xattr::decode(register)?.version],
    })
}

/// What a part says, checked.
pub(super) struct Sent<'a> {
    /// Registers by table and key.
    pub(super) rows: BTreeMap<(Table, &'a [u8]), &'a [u8]>,
    pub(super) names: Vec<(u64, &'a [u8])>,
    pub(super) lost: Vec<(&'a [u8], &'a [u8])>,
    seen: Vec<(StreamId, Lsn, Vector)>,
    registers: u64,
}

impl<'a> Sent<'a> {
    fn decode(inode: u64, start: &Start, end: Option<&Start>, part: &'a Part) -> Result<Self, Error> {
        const FOREIGN: Error = Error::Damaged("a row belongs elsewhere");
        let read = items(&part.bytes).map_err(|_| Error::Damaged("its checksum or form is wrong"))?;
        let mut out =
            Self { rows: BTreeMap::new(), names: Vec::new(), lost: Vec::new(), seen: Vec::new(), registers: 0 };
        let mut ended = false;
        for Item { tag, key, value } in read {
            if ended {
                return Err(Error::Damaged("it goes on after its end"));
            }
            if let Some(table) = REGISTERS.into_iter().find(|table| *table as u8 == tag) {
                let at = Start { table, key: key.to_vec() };
                if split_key(table, key)?.0 != inode || at < *start || end.is_some_and(|end| at >= *end) {
                    return Err(FOREIGN);
                }
                versions(table, value).map_err(|_| DAMAGED)?;
                out.rows.insert((table, key), value);
                out.registers += 1;
            } else if tag == Table::Links as u8 {
                let (of, rest) = split_key(Table::Links, key)?;
                let (parent, name) = split_key(Table::Links, rest)?;
                if of != inode {
                    return Err(FOREIGN);
                }
                out.names.push((parent, name));
            } else if tag == Table::Lost as u8 {
                let event = lost::decode(key, value).map_err(|_| DAMAGED)?;
                if event.key.register.inode() != inode {
                    return Err(FOREIGN);
                }
                out.lost.push((key, value));
            } else if tag == Table::Vectors as u8 {
                let (stream, lsn) = split_stream(Table::Vectors, key)?;
                let lsn = lsn.try_into().map(u64::from_be_bytes).map_err(|_| DAMAGED)?;
                out.seen.push((stream, Lsn(lsn), Vector::decode(value).map_err(|_| DAMAGED)?));
            } else if tag == TAG_END {
                ended = true;
                if Vector::decode(value).ok().as_ref() != Some(&part.applied) {
                    return Err(Error::Damaged("it was read elsewhere than it says"));
                }
            } else {
                return Err(Error::Damaged("it holds what this version does not know"));
            }
        }
        if ended { Ok(out) } else { Err(Error::Damaged("its end is missing")) }
    }
}
