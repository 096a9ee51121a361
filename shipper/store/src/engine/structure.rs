//! Checking what is derived from the registers.

use cfs_shipper_core::merge::{Dentry, Field, Inode, Life, Register};

use super::derived;
use super::paths::reaches_root;
use super::read::is_directory;
use super::verify::{REGISTERS, page, raw_part};
use crate::backend::{Backend, Read};
use crate::lost;
use crate::row::{InodeRow, NamedRow, inode_key, split_key};
use crate::structure::StructureReport;
use crate::table::{Error, Table};

/// Tables of what is derived, looked at from their own side too: what is there should not be more than what follows.
const DERIVED: [Table; 2] = [Table::Links, Table::Lost];

/// Many short read transactions over all rows. Memory is bounded by `limit` and the depth of the tree; the time grows
/// with entries times one look-up, and directories times their depth.
pub(super) fn check(backend: &impl Backend, limit: usize) -> Result<StructureReport, Error> {
    let mut report = StructureReport::default();
    for table in REGISTERS.into_iter().chain(DERIVED) {
        let mut from = Some(Vec::new());
        while let Some(start) = from {
            let tables = backend.read()?;
            let mut check = Check { tables: &tables, limit, home: None, report: &mut report };
            from = page(&tables, table, &start, |key, row| check.row(table, key, row))?;
        }
    }
    Ok(report)
}

fn note<T>(list: &mut Vec<T>, count: &mut u64, limit: usize, finding: T) {
    *count += 1;
    if list.len() < limit {
        list.push(finding);
    }
}

/// One transaction of the check.
struct Check<'a, T> {
    tables: &'a T,
    limit: usize,
    /// The directory of the entry before, and whether it is one.
    home: Option<(u64, bool)>,
    report: &'a mut StructureReport,
}

impl<T: Read> Check<'_, T> {
    fn row(&mut self, table: Table, key: &[u8], row: &[u8]) -> Result<(), Error> {
        match table {
            Table::Inodes | Table::Dentries | Table::Xattrs => {
                let (inode, _) = split_key(table, key)?;
                if !raw_part(table, key, row).1 {
                    note(&mut self.report.unreadable, &mut self.report.unreadable_count, self.limit, inode);
                    return Ok(());
                }
                let holds = match table {
                    Table::Inodes => self.inode(inode, key, row)?,
                    Table::Dentries => self.entry(inode, key, row)?,
                    _ => derived::xattr_holds(self.tables, key, row)?,
                };
                self.derived(inode, holds);
                Ok(())
            }
            Table::Links => {
                let (inode, rest) = split_key(table, key)?;
                let (parent, name) = split_key(table, rest)?;
                let holds = derived::is_name(self.tables, inode, parent, name)?;
                self.derived(inode, holds);
                Ok(())
            }
            _ => self.lost(key, row),
        }
    }

    fn derived(&mut self, inode: u64, holds: bool) {
        if !holds {
            note(&mut self.report.derived, &mut self.report.derived_count, self.limit, inode);
        }
    }

    /// A lost write is noted in the row of its register; one that does not decode counts for its register's inode, as
    /// far as its key tells.
    fn lost(&mut self, key: &[u8], row: &[u8]) -> Result<(), Error> {
        let Ok((register, ..)) = lost::register_of(key) else { return Ok(()) };
        let inode = register.inode();
        if lost::decode(key, row).is_err() {
            note(&mut self.report.unreadable, &mut self.report.unreadable_count, self.limit, inode);
        } else if !lost::is_superseded(row) {
            let holds = derived::is_flagged(self.tables, &register)?;
            self.derived(inode, holds);
        }
        Ok(())
    }

    /// Returns whether what is derived of the inode holds.
    fn inode(&mut self, number: u64, key: &[u8], row: &[u8]) -> Result<bool, Error> {
        let Self { tables, limit, report, .. } = self;
        let row = InodeRow::decode(key, row)?;
        let inode = row.inode(key)?;
        if inode.visible(Field::Life).is_some() {
            report.inodes += 1;
            if row.links.count == 0 {
                note(&mut report.orphans, &mut report.orphan_count, *limit, number);
            }
            if is_directory(&inode) {
                report.directories += 1;
                if row.links.count > 1 {
                    note(&mut report.multiply_named, &mut report.multiply_named_count, *limit, number);
                }
                if row.links.count > 0 && !reaches_root(*tables, number)? {
                    note(&mut report.detached, &mut report.detached_count, *limit, number);
                }
            }
        }
        derived::inode_holds(*tables, number, &row, &inode)
    }

    /// Returns whether what is derived of the entry holds.
    fn entry(&mut self, parent: u64, key: &[u8], row: &[u8]) -> Result<bool, Error> {
        let named = NamedRow::decode(Table::Dentries, key, row)?;
        let (_, name) = split_key(Table::Dentries, key)?;
        let register = || Register::Dentry(parent, name.to_vec());
        let Some(dentry) = named.dentry(key)? else {
            return derived::named_holds(self.tables, &register(), &named, false);
        };
        let Dentry { target, .. } = dentry;
        if !derived::named_holds(self.tables, &register(), &named, target.is_none())? {
            return Ok(false);
        }
        let Some((inode, kind)) = target else { return Ok(true) };
        self.report.entries += 1;
        let is_home = match self.home {
            Some((home, is_home)) if home == parent => is_home,
            _ => with_inode(self.tables, parent, is_directory)?,
        };
        self.home = Some((parent, is_home));
        let Self { limit, report, .. } = self;
        // Above the root there is no directory, and its one entry needs none.
        if !is_home && parent != 0 {
            note(&mut report.homeless, &mut report.homeless_count, *limit, (parent, name.to_vec(), inode));
        }
        let is_kind = |held: &Inode<'_>| matches!(held.life(), Some((_, Life::Live { kind: k, .. })) if k == kind);
        if !with_inode(self.tables, inode, is_kind)? {
            let Self { limit, report, .. } = self;
            note(&mut report.dangling, &mut report.dangling_count, *limit, (parent, name.to_vec(), inode));
        }
        let has_link = derived::has_link(self.tables, inode, parent, name)?;
        self.derived(inode, has_link);
        Ok(true)
    }
}

/// Whether something holds of an inode; not of one without a row. Of one that does not decode nothing is said: it is a
/// finding of its own.
fn with_inode(tables: &impl Read, inode: u64, holds: impl Fn(&Inode<'_>) -> bool) -> Result<bool, Error> {
    let key = inode_key(inode);
    let Some(row) = tables.get(Table::Inodes, &key)? else { return Ok(false) };
    let Ok(row) = InodeRow::decode(&key, row) else { return Ok(true) };
    Ok(row.inode(&key).map_or(true, |inode| holds(&inode)))
}
