//! Registers with a row of their own: directory entries and extended attributes.

use cfs_model::Version;
use cfs_shipper_core::merge::{Incoming, Register, VERSION_BYTES};

use super::lost::Contest;
use super::txn::Txn;
use crate::backend::Write;
use crate::row::NamedRow;
use crate::table::{Error, Table};

/// Such a register.
pub(super) struct Named<'a> {
    pub(super) table: Table,
    /// The inode whose bucket of the digest it is in.
    pub(super) inode: u64,
    pub(super) key: &'a [u8],
    /// Its name; asked for only when something is lost.
    pub(super) register: &'a dyn Fn() -> Register,
}

impl<W: Write> Txn<'_, W> {
    /// Merges a write into the row that is there. `new` is the row as it is if the write takes, `existing` the present one, of
    /// which `held` is the version. Returns whether the write takes.
    pub(super) fn merge_named(
        &mut self,
        named: &Named<'_>,
        incoming: &Incoming<'_>,
        held: Option<Version>,
        new: &mut [u8],
        existing: &mut [u8],
    ) -> Result<bool, Error> {
        let Named { table, inode, key, register } = *named;
        let row = NamedRow::decode(table, key, existing)?;
        let verdict = self.contest(&Contest {
            incoming,
            held,
            has_lost: row.has_lost,
            register,
            incoming_value: &|out| out.extend_from_slice(&new[1 + VERSION_BYTES..]),
            held_value: &|out| out.extend_from_slice(row.register.get(VERSION_BYTES..).unwrap_or_default()),
        })?;
        if !verdict.takes {
            if verdict.has_lost != row.has_lost {
                existing[0] = verdict.has_lost.into();
                self.tables.put(table, key, existing)?;
            }
            return Ok(false);
        }
        new[0] = verdict.has_lost.into();
        self.tables.put(table, key, new)?;
        if !row.register.is_empty() {
            self.digest_sub(inode, table, key, row.register);
        }
        self.digest_add(inode, table, key, &new[1..]);
        Ok(true)
    }
}
