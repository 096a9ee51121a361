//! Writing directory entries.

use cfs_shipper_core::merge::{Dentry, Incoming, Register, VERSION_BYTES};

use super::lost::Contest;
use super::txn::{Scratch, Txn};
use crate::backend::Write;
use crate::row::{NamedRow, named_key};
use crate::table::{Error, Table};

/// What a change of an entry means for the names of inodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Relink {
    /// The inode that lost the name.
    pub(super) gone: Option<u64>,
    /// The inode that gained it.
    pub(super) added: Option<u64>,
}

impl Relink {
    fn between(before: Option<(u64, u8)>, after: Option<(u64, u8)>) -> Self {
        let (gone, added) = (before.map(|t| t.0), after.map(|t| t.0));
        if gone == added { Self::default() } else { Self { gone, added } }
    }
}

impl<W: Write> Txn<'_, W> {
    /// Merges the entry `(parent, name)`; `None` is a tombstone.
    pub(super) fn write_dentry(
        &mut self,
        parent: u64,
        name: &[u8],
        target: Option<(u64, u8)>,
        incoming: &Incoming<'_>,
    ) -> Result<Relink, Error> {
        let mut buffers = std::mem::take(self.scratch);
        let out = self.merge_dentry(parent, name, target, incoming, &mut buffers);
        *self.scratch = buffers;
        out
    }

    fn merge_dentry(
        &mut self,
        parent: u64,
        name: &[u8],
        target: Option<(u64, u8)>,
        incoming: &Incoming<'_>,
        Scratch { key, value, existing, .. }: &mut Scratch,
    ) -> Result<Relink, Error> {
        const TABLE: Table = Table::Dentries;
        let register = || Register::Dentry(parent, name.to_vec());
        named_key(parent, name, key);
        value.clear();
        value.push(0);
        Dentry { version: incoming.version, target }.encode(value);
        if self.tables.insert(TABLE, key, value, existing)? {
            self.digest_add(parent, TABLE, key, &value[1..]);
            if target.is_none() {
                self.index_tomb(&register(), true)?;
            }
            return Ok(Relink::between(None, target));
        }
        let row = NamedRow::decode(TABLE, key, existing)?;
        let held = row.dentry(key)?;
        let verdict = self.contest(&Contest {
            incoming,
            held: held.map(|d| d.version),
            has_lost: row.has_lost,
            register: &register,
            incoming_value: &|out| out.extend_from_slice(&value[1 + VERSION_BYTES..]),
            held_value: &|out| out.extend_from_slice(row.register.get(VERSION_BYTES..).unwrap_or_default()),
        })?;
        if !verdict.takes {
            if verdict.has_lost != row.has_lost {
                existing[0] = verdict.has_lost.into();
                self.tables.put(TABLE, key, existing)?;
            }
            return Ok(Relink::default());
        }
        value[0] = verdict.has_lost.into();
        self.tables.put(TABLE, key, value)?;
        if !row.register.is_empty() {
            self.digest_sub(parent, TABLE, key, row.register);
        }
        self.digest_add(parent, TABLE, key, &value[1..]);
        let was_tomb = held.is_some_and(|d| d.target.is_none());
        if was_tomb != target.is_none() {
            self.index_tomb(&register(), target.is_none())?;
        }
        Ok(Relink::between(held.and_then(|d| d.target), target))
    }
}
