//! Checking what is derived from the registers.

use cfs_shipper_core::merge::{Field, Inode, Life};

use super::paths::{names, reaches_root};
use super::read::is_directory;
use crate::backend::{Read, Scan};
use crate::row::{InodeRow, NamedRow, inode_key, split_key};
use crate::structure::StructureReport;
use crate::table::{Error, Table};

/// One read transaction over all inodes and entries. Memory is bounded by `limit` and the depth of the tree; the time
/// grows with entries times one look-up, and directories times their depth.
pub(super) fn check(tables: &impl Read, limit: usize) -> Result<StructureReport, Error> {
    let mut report = StructureReport::default();
    tables.scan(Table::Inodes, &[], &mut |key, row| {
        check_inode(tables, key, row, limit, &mut report)?;
        Ok(Scan::More)
    })?;
    let mut home = (0, true);
    tables.scan(Table::Dentries, &[], &mut |key, row| {
        check_entry(tables, key, row, limit, &mut home, &mut report)?;
        Ok(Scan::More)
    })?;
    Ok(report)
}

fn note<T>(list: &mut Vec<T>, count: &mut u64, limit: usize, finding: T) {
    *count += 1;
    if list.len() < limit {
        list.push(finding);
    }
}

fn check_inode(
    tables: &impl Read,
    key: &[u8],
    row: &[u8],
    limit: usize,
    report: &mut StructureReport,
) -> Result<(), Error> {
    let row = InodeRow::decode(key, row)?;
    let inode = row.inode(key)?;
    if inode.visible(Field::Life).is_none() {
        return Ok(());
    }
    let (number, _) = split_key(Table::Inodes, key)?;
    report.inodes += 1;
    if row.links.count == 0 {
        note(&mut report.orphans, &mut report.orphan_count, limit, number);
    }
    if is_directory(&inode) {
        report.directories += 1;
        if row.links.count > 1 {
            note(&mut report.multiply_named, &mut report.multiply_named_count, limit, number);
        }
        if row.links.count > 0 && !reaches_root(tables, number)? {
            note(&mut report.detached, &mut report.detached_count, limit, number);
        }
    }
    Ok(())
}

/// `home` is the directory of the entry before, and whether it is one.
fn check_entry(
    tables: &impl Read,
    key: &[u8],
    row: &[u8],
    limit: usize,
    home: &mut (u64, bool),
    report: &mut StructureReport,
) -> Result<(), Error> {
    let Some(dentry) = NamedRow::decode(Table::Dentries, key, row)?.dentry(key)? else { return Ok(()) };
    let Some((inode, kind)) = dentry.target else { return Ok(()) };
    report.entries += 1;
    let (parent, name) = split_key(Table::Dentries, key)?;
    if home.0 != parent {
        *home = (parent, with_inode(tables, parent, is_directory)?);
    }
    if !home.1 {
        note(&mut report.homeless, &mut report.homeless_count, limit, (parent, name.to_vec(), inode));
    }
    let is_kind = |held: &Inode<'_>| matches!(held.life(), Some((_, Life::Live { kind: k, .. })) if k == kind);
    if !with_inode(tables, inode, is_kind)? {
        note(&mut report.dangling, &mut report.dangling_count, limit, (parent, name.to_vec(), inode));
    }
    debug_assert!(!names(tables, inode, 1)?.is_empty(), "every live entry has a link back");
    Ok(())
}

/// Whether something holds of an inode; not of one without a row.
fn with_inode(tables: &impl Read, inode: u64, holds: impl Fn(&Inode<'_>) -> bool) -> Result<bool, Error> {
    let key = inode_key(inode);
    match tables.get(Table::Inodes, &key)? {
        Some(row) => Ok(holds(&InodeRow::decode(&key, row)?.inode(&key)?)),
        None => Ok(false),
    }
}
