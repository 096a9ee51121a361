//! Writing extended attributes.

use cfs_shipper_core::merge::{Incoming, Inode, Register, VERSION_BYTES, Xattr};

use super::lost::Contest;
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
        if !inserted {
            let row = NamedRow::decode(TABLE, key, existing)?;
            let held = row.xattr(key)?;
            let verdict = self.contest(&Contest {
                incoming,
                held: held.map(|x| x.version),
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
                return Ok(());
            }
            value[0] = verdict.has_lost.into();
            self.tables.put(TABLE, key, value)?;
            if !row.register.is_empty() {
                self.digest_sub(inode, TABLE, key, row.register);
            }
        }
        self.digest_add(inode, TABLE, key, &value[1..]);
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
