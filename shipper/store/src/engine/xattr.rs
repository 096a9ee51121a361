//! Writing extended attributes.

use cfs_shipper_core::merge::{Incoming, Inode, Register, Xattr};

use super::named::Named;
use super::txn::{Scratch, Txn};
use crate::backend::{Scan, Write};
use crate::row::{InodeRow, NamedRow, inode_key, named_key, split_key};
use crate::table::{Error, Table};

const TABLE: Table = Table::Xattrs;

impl<W: Write> Txn<'_, W> {
    /// Merges the attribute `(inode, name)`; `None` is a tombstone.
    pub(super) fn write_xattr(
        &mut self,
        inode: u64,
        name: &[u8],
        new: Option<&[u8]>,
        incoming: &Incoming<'_>,
    ) -> Result<(), Error> {
        let mut buffers = std::mem::take(self.scratch);
        let out = self.merge_xattr(inode, name, new, incoming, &mut buffers);
        *self.scratch = buffers;
        out
    }

    fn merge_xattr(
        &mut self,
        inode: u64,
        name: &[u8],
        new: Option<&[u8]>,
        incoming: &Incoming<'_>,
        Scratch { key, value, existing, .. }: &mut Scratch,
    ) -> Result<(), Error> {
        let register = || Register::Xattr(inode, name.to_vec());
        named_key(inode, name, key);
        value.clear();
        value.push(0);
        Xattr { version: incoming.version, value: new }.encode(value);
        let inserted = self.tables.insert(TABLE, key, value, existing)?;
        if inserted {
            self.digest_add(inode, TABLE, key, &value[1..]);
        } else {
            let held = NamedRow::decode(TABLE, key, existing)?.xattr(key)?.map(|x| x.version);
            let named = Named { table: TABLE, inode, key, register: &register };
            if !self.merge_named(&named, incoming, held, value, existing)? {
                return Ok(());
            }
        }
        let forgettable = new.is_none() || !self.inode_shows(inode, incoming)?;
        if forgettable || !inserted {
            self.index_tomb(&register(), forgettable)?;
        }
        Ok(())
    }

    fn inode_shows(&self, inode: u64, incoming: &Incoming<'_>) -> Result<bool, Error> {
        let key = inode_key(inode);
        let Some(row) = self.tables.get(Table::Inodes, &key)? else { return Ok(false) };
        Ok(InodeRow::decode(&key, row)?.inode(&key)?.shows(&incoming.version))
    }

    /// Called when an inode's life has changed: attributes of the old one are hidden from now on, and wait for a
    /// `Forget`, or go at once when an earlier one covers them.
    pub(super) fn hide_xattrs(&mut self, inode: u64, now: &Inode<'_>) -> Result<(), Error> {
        let mut hidden = Vec::new();
        self.tables.scan_prefix(TABLE, &inode_key(inode), &mut |key, row| {
            if let Some(xattr) = NamedRow::decode(TABLE, key, row)?.xattr(key)?
                && !now.shows(&xattr.version)
            {
                hidden.push((key.to_vec(), row.to_vec(), xattr.version));
            }
            Ok(Scan::More)
        })?;
        for (key, row, version) in hidden {
            let (_, name) = split_key(TABLE, &key)?;
            let register = Register::Xattr(inode, name.to_vec());
            let forgotten = self.head.forgotten.covers_entry(version.stamp.stream(), version.lsn);
            self.index_tomb(&register, !forgotten)?;
            if forgotten {
                self.remove_named(TABLE, &key, &row)?;
            }
        }
        Ok(())
    }

    /// Removes the register of an entry's or attribute's row; the row stays, empty, while lost writes of it wait.
    pub(super) fn remove_named(&mut self, table: Table, key: &[u8], row: &[u8]) -> Result<(), Error> {
        let (inode, _) = split_key(table, key)?;
        let decoded = NamedRow::decode(table, key, row)?;
        if !decoded.register.is_empty() {
            self.digest_sub(inode, table, key, decoded.register);
        }
        if decoded.has_lost { self.tables.put(table, key, &[1]) } else { self.tables.delete(table, key) }
    }
}
