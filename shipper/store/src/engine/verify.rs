//! The digest computed from the registers: as a whole, and place by place.

use std::collections::BTreeMap;

use cfs_shipper_core::merge::{Dentry, Inode, Xattr};

use super::head::{self, Head};
use super::misplaced::{self, Misplaced};
use crate::backend::{Backend, Read, Scan};
use crate::digest::{BUCKETS, Recomputed, Sums, bucket_of, hash, next_in_bucket};
use crate::pace;
use crate::row::{InodeRow, NamedRow, inode_key, split_key};
use crate::table::{Error, Table};
use crate::verify::{Content, Contents, MAX_DEPTH, MAX_LISTED, Place, Verified};

/// Rows that one read transaction of a check covers: a reader that stays would keep pages from being used again.
const ROWS_PER_READ: usize = 8192;

/// Visits the rows of one read transaction of a check, from the first key at or above `from`. Returns where the next one
/// begins; fails where that is not further on.
pub(super) fn page(
    tables: &impl Read,
    table: Table,
    from: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
) -> Result<Option<Vec<u8>>, Error> {
    let (mut rows, mut next) = (0, None);
    tables.scan(table, from, &mut |key, row| {
        if rows == ROWS_PER_READ {
            next = Some(key.to_vec());
            return Ok(Scan::Stop);
        }
        rows += 1;
        visit(key, row)?;
        Ok(Scan::More)
    })?;
    if next.as_deref().is_some_and(|next| next <= from) {
        return Err(Error::Disordered { table });
    }
    Ok(next)
}

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
            pace::breathe();
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
                if inode < start {
                    return Err(Error::Disordered { table });
                }
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

/// A row of registers as it is, damaged or not: what the digest should cover, and whether it decodes.
pub(super) fn raw_part<'a>(table: Table, key: &[u8], row: &'a [u8]) -> (&'a [u8], bool) {
    let Ok(register) = register_part(table, key, row) else { return (row, false) };
    let decodes = register.is_empty()
        || match table {
            Table::Inodes => Inode::decode(register).is_ok(),
            Table::Dentries => Dentry::decode(register).is_ok(),
            _ => Xattr::decode(register).is_ok(),
        };
    (register, decodes)
}

/// The sum of the registers of one inode, as they are.
pub(super) fn inode_sum(tables: &impl Read, inode: u64, scratch: &mut Vec<u8>) -> Result<u128, Error> {
    let mut sum = 0u128;
    for table in REGISTERS {
        tables.scan_prefix(table, &inode_key(inode), &mut |key, row| {
            let (register, _) = raw_part(table, key, row);
            if !register.is_empty() {
                sum = sum.wrapping_add(hash(table, key, register, scratch));
            }
            Ok(Scan::More)
        })?;
    }
    Ok(sum)
}

/// Calls `visit` with each inode of a bucket that has registers, and their sum.
fn each_inode(tables: &impl Read, bucket: u16, visit: &mut dyn FnMut(u64, u128)) -> Result<(), Error> {
    let mut scratch = Vec::new();
    let mut from = Some(0);
    while let Some(start) = from {
        let Some(inode) = next_inode(tables, bucket, start)? else { break };
        let sum = inode_sum(tables, inode, &mut scratch)?;
        if sum != 0 {
            visit(inode, sum);
        }
        from = inode.checked_add(1);
    }
    Ok(())
}

/// The sum of a bucket's registers, as they are.
pub(super) fn bucket_sum(tables: &impl Read, bucket: u16) -> Result<u128, Error> {
    let mut sum = 0u128;
    each_inode(tables, bucket, &mut |_, inode| sum = sum.wrapping_add(inode))?;
    Ok(sum)
}

/// A pass over all rows in many transactions. Buckets that changed meanwhile are looked at again, each in a transaction
/// of its own; what the others add up to is that of one moment.
pub(super) fn verify(backend: &impl Backend, limit: usize) -> Result<Verified, Error> {
    let before = head::load(&backend.read()?)?;
    let mut pass = Pass { limit, ..Pass::default() };
    let (mut misplaced, mut astray) = (0, Vec::new());
    let mut in_order = true;
    let mut note = |found: Misplaced| {
        misplaced += found.count;
        astray.extend(found.inodes);
    };
    for table in Table::ALL {
        let found = misplaced::find(backend, table, |_, key, row| {
            if REGISTERS.contains(&table) {
                pass.row(table, key, row)?;
            }
            Ok(true)
        })?;
        in_order &= found.count == 0;
        note(found);
    }
    let after = head::load(&backend.read()?)?;
    let (mut wrong, mut excess) = (Vec::new(), Vec::new());
    let mut judge = |bucket: usize, registers: u128, kept: u128| {
        if registers != kept {
            wrong.push(bucket as u16);
            excess.push(registers.wrapping_sub(kept));
        }
    };
    for bucket in 0..BUCKETS {
        let sum = |head: &Head| head.sums.buckets[bucket];
        if sum(&before) == sum(&after) {
            judge(bucket, pass.sums.buckets[bucket], sum(&before));
            continue;
        }
        let tables = backend.read()?;
        let kept = sum(&head::load(&tables)?);
        match bucket_sum(&tables, bucket as u16) {
            Err(Error::Disordered { .. }) => note(Misplaced { count: 1, ..Misplaced::default() }),
            registers => judge(bucket, registers?, kept),
        }
    }
    // A row under a wrong key shows in the sums, and may be where nobody finds it though the order is kept.
    if in_order && !(wrong.is_empty() && pass.unreadable_count == 0) {
        for table in Table::ALL {
            note(misplaced::find(backend, table, |tables, key, row| Ok(tables.get(table, key)? == Some(row)))?);
        }
    }
    astray.sort_unstable();
    astray.dedup();
    Ok(Verified {
        applied: after.applied,
        buckets: after.sums.buckets.to_vec(),
        rows: pass.rows,
        wrong,
        excess,
        misplaced,
        astray,
        unreadable: pass.unreadable,
        unreadable_count: pass.unreadable_count,
    })
}

#[derive(Default)]
struct Pass {
    limit: usize,
    sums: Sums,
    rows: u64,
    unreadable: Vec<u64>,
    unreadable_count: u64,
    scratch: Vec<u8>,
}

impl Pass {
    fn row(&mut self, table: Table, key: &[u8], row: &[u8]) -> Result<(), Error> {
        let (inode, _) = split_key(table, key)?;
        let (register, decodes) = raw_part(table, key, row);
        self.rows += 1;
        if !register.is_empty() {
            self.sums.add(inode, hash(table, key, register, &mut self.scratch));
        }
        if !decodes {
            self.unreadable_count += 1;
            if self.unreadable.len() < self.limit && self.unreadable.last() != Some(&inode) {
                self.unreadable.push(inode);
            }
        }
        Ok(())
    }
}

/// What is in places of a bucket. Memory grows with the places, not with the bucket.
pub(super) fn contents(tables: &impl Read, bucket: u16, places: &[Place]) -> Result<Contents, Error> {
    let head = head::load(tables)?;
    let mut found = vec![(Vec::new(), BTreeMap::<u8, u128>::new(), 0usize); places.len()];
    each_inode(tables, bucket, &mut |inode, sum| {
        for (place, (inodes, children, count)) in places.iter().zip(&mut found) {
            if place.holds(inode) {
                *count += 1;
                if inodes.len() < MAX_LISTED {
                    inodes.push((inode, sum));
                }
                let child = children.entry(place.child_with(inode)).or_default();
                *child = child.wrapping_add(sum);
            }
        }
    })?;
    let listed = |place: &Place, count| count <= MAX_LISTED || place.levels().len() == MAX_DEPTH;
    let contents = places.iter().zip(found).map(|(place, (inodes, children, count))| {
        if listed(place, count) { Content::Inodes(inodes) } else { Content::Children(children.into_iter().collect()) }
    });
    Ok(Contents { applied: head.applied.clone(), comparable: head.is_comparable(), places: contents.collect() })
}
