//! The digest computed from the registers, as a whole and inode by inode.

use super::head;
use crate::backend::{Read, Scan};
use crate::digest::{Recomputed, Sums, bucket_of, hash, next_in_bucket};
use crate::row::{InodeRow, NamedRow, inode_key, split_key};
use crate::table::{Error, Table};

/// The part of a row that the digest covers; nothing when it holds no register.
pub(super) fn register_part<'a>(table: Table, key: &[u8], row: &'a [u8]) -> Result<&'a [u8], Error> {
    if table == Table::Inodes {
        InodeRow::decode(key, row).map(|row| row.record)
    } else {
        NamedRow::decode(table, key, row).map(|row| row.register)
    }
}

/// The tables whose rows are registers.
pub(super) const REGISTERS: [Table; 3] = [Table::Inodes, Table::Dentries, Table::Xattrs];

pub(super) fn recompute(tables: &impl Read) -> Result<Recomputed, Error> {
    let head = head::load(tables)?;
    let mut sums = Sums::default();
    let mut scratch = Vec::new();
    for table in REGISTERS {
        tables.scan(table, &[], &mut |key, row| {
            let register = register_part(table, key, row)?;
            if !register.is_empty() {
                sums.add(split_key(table, key)?.0, hash(table, key, register, &mut scratch));
            }
            Ok(Scan::More)
        })?;
    }
    let applied = &head.applied;
    Ok(Recomputed { running: head.sums.digest(applied), registers: sums.digest(applied) })
}

/// The next inode at or above `from` that any register in the bucket belongs to.
fn next_inode(tables: &impl Read, bucket: u16, from: u64) -> Result<Option<u64>, Error> {
    let mut at = from;
    loop {
        let Some(start) = next_in_bucket(bucket, at) else { return Ok(None) };
        let mut nearest = None;
        for table in REGISTERS {
            tables.scan(table, &inode_key(start), &mut |key, _| {
                let (inode, _) = split_key(table, key)?;
                nearest = Some(nearest.map_or(inode, |n: u64| n.min(inode)));
                Ok(Scan::Stop)
            })?;
        }
        match nearest {
            None => return Ok(None),
            Some(inode) if bucket_of(inode) == bucket => return Ok(Some(inode)),
            Some(inode) => at = inode,
        }
    }
}

pub(super) fn bucket_inodes(
    tables: &impl Read,
    bucket: u16,
    after: Option<u64>,
    limit: usize,
) -> Result<Vec<(u64, u128)>, Error> {
    let mut out = Vec::new();
    let mut scratch = Vec::new();
    let mut from = after.map_or(Some(0), |after| after.checked_add(1));
    while let Some(start) = from.filter(|_| out.len() < limit) {
        let Some(inode) = next_inode(tables, bucket, start)? else { break };
        let mut sum = 0u128;
        for table in REGISTERS {
            tables.scan_prefix(table, &inode_key(inode), &mut |key, row| {
                let register = register_part(table, key, row)?;
                if !register.is_empty() {
                    sum = sum.wrapping_add(hash(table, key, register, &mut scratch));
                }
                Ok(Scan::More)
            })?;
        }
        if sum != 0 {
            out.push((inode, sum));
        }
        from = inode.checked_add(1);
    }
    Ok(out)
}
