//! Writing directory entries.

use cfs_shipper_core::merge::{Dentry, Incoming, Register};

use super::named::Named;
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
        let held = NamedRow::decode(TABLE, key, existing)?.dentry(key)?;
        let named = Named { table: TABLE, inode: parent, key, register: &register };
        if !self.merge_named(&named, incoming, held.map(|d| d.version), value, existing)? {
            return Ok(Relink::default());
        }
        let was_tomb = held.is_some_and(|d| d.target.is_none());
        if was_tomb != target.is_none() {
            self.index_tomb(&register(), target.is_none())?;
        }
        Ok(Relink::between(held.and_then(|d| d.target), target))
    }
}
