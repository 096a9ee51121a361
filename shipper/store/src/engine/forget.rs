//! Forgetting: what a `Forget` entry lets go, in bounded steps.

use cfs_model::{Vector, Version};
use cfs_shipper_core::merge::Register;

use super::head::{split_stream, vector_key};
use super::txn::Txn;
use crate::backend::{Scan, Size, Write};
use crate::lost;
use crate::row::{InodeRow, NamedRow, inode_key, named_key};
use crate::table::{Error, Table};

/// Rows looked at in one transaction. Tests take few, so that a `Forget` of a few rows is spread over several.
const ROWS_PER_STEP: usize = if cfg!(test) { 2 } else { 2048 };
/// A `Forget` with at most so many rows to look at is done in the transaction of its batch.
const ROWS_AT_ONCE: u64 = if cfg!(test) { 6 } else { 4096 };

/// What one step changes at most.
pub(super) const STEP_SIZE: Size = Size { rows: ROWS_PER_STEP, bytes: 0 };

/// How far a `Forget` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    table: Table,
    from: Vec<u8>,
}

impl Progress {
    pub(super) const START: Self = Self { table: Table::Tombs, from: Vec::new() };
}

impl<W: Write> Txn<'_, W> {
    /// Whether all of it fits in the transaction that is open.
    pub(super) fn forgets_at_once(&self) -> Result<bool, Error> {
        let rows = [Table::Tombs, Table::Lost, Table::Vectors].map(|table| self.tables.len(table));
        let mut sum = 0;
        for count in rows {
            sum += count?;
        }
        Ok(sum <= ROWS_AT_ONCE)
    }

    /// Looks at up to [`ROWS_PER_STEP`] rows and removes what `head.forgotten` lets go. Returns where to go on.
    /// Repeating a step changes nothing.
    pub(super) fn forget_step(&mut self, at: Progress) -> Result<Option<Progress>, Error> {
        let Progress { table, from } = at;
        let mut rows = Vec::new();
        self.tables.scan(table, &from, &mut |key, row| {
            rows.push((key.to_vec(), if table == Table::Lost { row.to_vec() } else { Vec::new() }));
            Ok(if rows.len() > ROWS_PER_STEP { Scan::Stop } else { Scan::More })
        })?;
        let next = if rows.len() > ROWS_PER_STEP { rows.pop().map(|(key, _)| key) } else { None };
        for (key, row) in rows {
            match table {
                Table::Tombs => self.forget_tomb(&key)?,
                Table::Lost => self.forget_lost(&key, &row)?,
                _ => self.forget_vector(&key)?,
            }
        }
        Ok(match (next, table) {
            (Some(from), _) => Some(Progress { table, from }),
            (None, Table::Tombs) => Some(Progress { table: Table::Lost, from: Vec::new() }),
            (None, Table::Lost) => Some(Progress { table: Table::Vectors, from: Vec::new() }),
            (None, _) => None,
        })
    }

    fn forget_tomb(&mut self, tomb: &[u8]) -> Result<(), Error> {
        match Register::decode(tomb).map_err(|e| Error::corrupt(Table::Tombs, tomb, e))? {
            Register::Field(inode, _) => self.forget_inode(inode),
            Register::Dentry(parent, name) => self.forget_named(Table::Dentries, parent, &name, tomb),
            Register::Xattr(inode, name) => self.forget_named(Table::Xattrs, inode, &name, tomb),
        }
    }

    fn forget_inode(&mut self, inode: u64) -> Result<(), Error> {
        let key = inode_key(inode);
        let Some(bytes) = self.tables.get(Table::Inodes, &key)?.map(<[u8]>::to_vec) else {
            return Ok(());
        };
        let row = InodeRow::decode(&key, &bytes)?;
        let before = row.inode(&key)?;
        let mut after = before;
        if after.forget(&self.head.forgotten) {
            self.told.applied.forgotten += 1;
            let mut value = Vec::new();
            self.replace_inode(inode, &row, &before, (row.lost, &after, &row.links), &mut value)?;
        }
        Ok(())
    }

    /// Removes a tombstone, or a hidden attribute, if it is covered; drops the note of it if it is neither.
    fn forget_named(&mut self, table: Table, inode: u64, name: &[u8], tomb: &[u8]) -> Result<(), Error> {
        let mut key = Vec::new();
        named_key(inode, name, &mut key);
        let Some(row) = self.tables.get(table, &key)?.map(<[u8]>::to_vec) else {
            return self.tables.delete(Table::Tombs, tomb);
        };
        let named = NamedRow::decode(table, &key, &row)?;
        let held: Option<(Version, bool)> = if table == Table::Dentries {
            named.dentry(&key)?.map(|d| (d.version, d.target.is_none()))
        } else {
            named.xattr(&key)?.map(|x| (x.version, x.value.is_none()))
        };
        let goes = match held {
            None => true,
            Some((_, false)) if table == Table::Dentries => true,
            Some((version, is_tomb)) => {
                let hidden = is_tomb || !self.shows(inode, &version)?;
                let covered = covers(&self.head.forgotten, &version);
                if hidden && covered {
                    self.told.applied.forgotten += 1;
                    self.remove_named(table, &key, &row)?;
                }
                !hidden || covered
            }
        };
        if goes { self.tables.delete(Table::Tombs, tomb) } else { Ok(()) }
    }

    fn shows(&self, inode: u64, version: &Version) -> Result<bool, Error> {
        let key = inode_key(inode);
        let Some(row) = self.tables.get(Table::Inodes, &key)? else { return Ok(false) };
        Ok(InodeRow::decode(&key, row)?.inode(&key)?.shows(version))
    }

    /// A superseded lost write has been told of everywhere once it is covered.
    fn forget_lost(&mut self, key: &[u8], row: &[u8]) -> Result<(), Error> {
        let version = lost::version_of(row).map_err(|e| Error::corrupt(Table::Lost, key, e))?;
        if lost::is_superseded(row) && covers(&self.head.forgotten, &version) {
            self.tables.delete(Table::Lost, key)?;
        }
        Ok(())
    }

    /// Of the changes at or below what is forgotten, only the last one of each stream is still needed.
    fn forget_vector(&mut self, key: &[u8]) -> Result<(), Error> {
        let (stream, _) = split_stream(Table::Vectors, key)?;
        let forgotten = self.head.forgotten.get(stream);
        let kept = vector_key(stream, forgotten);
        let newest = self.tables.at_or_below(Table::Vectors, &kept)?.map(|(newest, _)| newest.to_vec());
        if newest.is_some_and(|newest| key < newest.as_slice()) {
            self.tables.delete(Table::Vectors, key)?;
        }
        Ok(())
    }
}

fn covers(forgotten: &Vector, version: &Version) -> bool {
    forgotten.covers_entry(version.stamp.stream(), version.lsn)
}
