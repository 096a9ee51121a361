//! Reading what shows.

use std::collections::BTreeSet;

use cfs_model::Vector;
use cfs_model::op::InodeKind;
use cfs_shipper_core::merge::{Dentry, Field, Inode, Life, ROOT_NAME, Value};

use super::head;
use crate::backend::{Read, Scan};
use crate::digest::{Recomputed, Sums, bucket_of, hash, next_in_bucket};
use crate::lost::{self, LostEvent, LostKey};
use crate::row::{InodeRow, Links, NamedRow, inode_key, named_key, split_key};
use crate::table::{Error, Table};
use crate::view::{DentryView, FieldVersion, InodeView, State, Time, XattrView};

/// Directories that a search for the root passes at most; a path of 4096 bytes has no more.
const MAX_DEPTH: usize = 4096;
/// Steps that a search for paths takes at most, beyond one for each level and path asked for.
const MAX_STEPS: usize = 64 * 1024;

fn state(inode: &Inode<'_>) -> State {
    match inode.life() {
        None => State::Absent,
        Some((_, Life::Removed)) => State::Removed,
        Some((_, Life::Live { kind, device, target })) => State::Live { kind, device, target: target.to_vec() },
    }
}

pub(super) fn inode(tables: &impl Read, number: u64) -> Result<Option<InodeView>, Error> {
    let key = inode_key(number);
    let row = match tables.get(Table::Inodes, &key)? {
        Some(row) => InodeRow::decode(&key, row)?,
        None => InodeRow::default(),
    };
    let inode = row.inode(&key)?;
    if inode.is_empty() && row.links.count == 0 {
        return Ok(None);
    }
    let value = |field| inode.visible(field).map(|slot| slot.value);
    let number_of = |field| match value(field) {
        Some(Value::Number(n)) => Some(n),
        _ => None,
    };
    let small = |field| number_of(field).and_then(|n| u32::try_from(n).ok());
    let time = |field| match value(field) {
        Some(Value::Time { seconds, nanos }) => Some(Time { seconds, nanos }),
        _ => None,
    };
    let extents = match value(Field::Extents) {
        Some(Value::Bytes(bytes)) => Some(bytes.to_vec()),
        _ => None,
    };
    let shown = |(field, slot): (Field, &cfs_shipper_core::merge::Slot<'_>)| FieldVersion {
        field,
        version: slot.version,
        visible: if field == Field::Life { inode.live_since().is_some() } else { inode.shows(&slot.version) },
    };
    Ok(Some(InodeView {
        inode: number,
        state: state(&inode),
        mode: small(Field::Mode),
        uid: small(Field::Uid),
        gid: small(Field::Gid),
        size: number_of(Field::Size),
        mtime: time(Field::Mtime),
        ctime: time(Field::Ctime),
        extents,
        nlink: nlink(tables, number, &inode, &row.links)?,
        xattrs: xattrs(tables, number, &inode)?,
        versions: inode.iter().map(shown).collect(),
    }))
}

fn nlink(tables: &impl Read, number: u64, inode: &Inode<'_>, links: &Links<'_>) -> Result<u64, Error> {
    if !is_directory(inode) {
        return Ok(u64::from(links.count));
    }
    let mut nlink = 2;
    for_entries(tables, number, None, &mut |_, _, (_, kind)| {
        nlink += u64::from(kind == InodeKind::Directory as u8);
        Ok(Scan::More)
    })?;
    Ok(nlink)
}

pub(super) fn is_directory(inode: &Inode<'_>) -> bool {
    matches!(inode.life(), Some((_, Life::Live { kind, .. })) if kind == InodeKind::Directory as u8)
}

fn xattrs(tables: &impl Read, number: u64, inode: &Inode<'_>) -> Result<Vec<XattrView>, Error> {
    let mut out = Vec::new();
    tables.scan_prefix(Table::Xattrs, &inode_key(number), &mut |key, row| {
        let held = NamedRow::decode(Table::Xattrs, key, row)?.xattr(key)?;
        if let Some((x, value)) = held.and_then(|x| Some((x, x.value?)))
            && inode.shows(&x.version)
        {
            let (_, name) = split_key(Table::Xattrs, key)?;
            out.push(XattrView { name: name.to_vec(), value: value.to_vec(), version: x.version });
        }
        Ok(Scan::More)
    })?;
    Ok(out)
}

/// Called with the name of a live entry, the entry, and the inode and kind that it points to.
type VisitEntry<'a> = dyn FnMut(&[u8], &Dentry, (u64, u8)) -> Result<Scan, Error> + 'a;

/// Visits the live entries of a directory after a name.
fn for_entries(tables: &impl Read, parent: u64, after: Option<&[u8]>, visit: &mut VisitEntry<'_>) -> Result<(), Error> {
    let mut from = Vec::new();
    named_key(parent, after.unwrap_or_default(), &mut from);
    if after.is_some() {
        from.push(0);
    }
    tables.scan(Table::Dentries, &from, &mut |key, row| {
        let (of, name) = split_key(Table::Dentries, key)?;
        if of != parent {
            return Ok(Scan::Stop);
        }
        match NamedRow::decode(Table::Dentries, key, row)?.dentry(key)? {
            Some(dentry) => dentry.target.map_or(Ok(Scan::More), |target| visit(name, &dentry, target)),
            None => Ok(Scan::More),
        }
    })
}

pub(super) fn read_dir(
    tables: &impl Read,
    parent: u64,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<DentryView>, Error> {
    let mut out = Vec::new();
    if limit == 0 {
        return Ok(out);
    }
    for_entries(tables, parent, after, &mut |name, dentry, (inode, kind)| {
        out.push(DentryView { name: name.to_vec(), inode, kind, version: dentry.version });
        Ok(if out.len() == limit { Scan::Stop } else { Scan::More })
    })?;
    Ok(out)
}

pub(super) fn entry(tables: &impl Read, parent: u64, name: &[u8]) -> Result<Option<DentryView>, Error> {
    let mut key = Vec::new();
    named_key(parent, name, &mut key);
    let Some(row) = tables.get(Table::Dentries, &key)? else { return Ok(None) };
    let dentry = NamedRow::decode(Table::Dentries, &key, row)?.dentry(&key)?;
    Ok(dentry.and_then(|d| {
        let (inode, kind) = d.target?;
        Some(DentryView { name: name.to_vec(), inode, kind, version: d.version })
    }))
}

pub(super) fn root(tables: &impl Read) -> Result<Option<u64>, Error> {
    Ok(entry(tables, 0, ROOT_NAME)?.map(|dentry| dentry.inode))
}

/// The names of an inode, at most `limit`.
pub(super) fn names(tables: &impl Read, inode: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let key = inode_key(inode);
    let mut out = Vec::new();
    if let Some(row) = tables.get(Table::Inodes, &key)? {
        out.extend(InodeRow::decode(&key, row)?.links.first.map(|(parent, name)| (parent, name.to_vec())));
    }
    tables.scan_prefix(Table::Links, &key, &mut |key, _| {
        if out.len() >= limit {
            return Ok(Scan::Stop);
        }
        let (_, rest) = split_key(Table::Links, key)?;
        let (parent, name) = split_key(Table::Links, rest)?;
        out.push((parent, name.to_vec()));
        Ok(Scan::More)
    })?;
    Ok(out)
}

/// Paths that pass no directory twice: where renames have made a cycle, the others have no end.
pub(super) fn paths(tables: &impl Read, inode: u64, limit: usize) -> Result<Vec<Vec<u8>>, Error> {
    let mut out = BTreeSet::new();
    let mut open = vec![(vec![inode], Vec::<Vec<u8>>::new())];
    let mut steps = MAX_STEPS;
    while let Some((passed, below)) = open.pop() {
        steps = steps.saturating_sub(1);
        let Some(at) = passed.last().filter(|_| out.len() < limit && steps > 0) else { break };
        for (parent, name) in names(tables, *at, limit.saturating_add(1))? {
            if parent == 0 {
                let path: Vec<u8> = below.iter().rev().flat_map(|name| [b"/", &name[..]].concat()).collect();
                out.insert(if path.is_empty() { ROOT_NAME.to_vec() } else { path });
            } else if below.len() < MAX_DEPTH && !passed.contains(&parent) {
                let (mut passed, mut below) = (passed.clone(), below.clone());
                passed.push(parent);
                below.push(name);
                open.push((passed, below));
            }
        }
    }
    Ok(out.into_iter().take(limit).collect())
}

/// Whether an inode can be reached from the root.
pub(super) fn reaches_root(tables: &impl Read, inode: u64) -> Result<bool, Error> {
    let mut seen = BTreeSet::from([inode]);
    let mut open = vec![inode];
    while let Some(at) = open.pop() {
        for (parent, _) in names(tables, at, MAX_DEPTH)? {
            if parent == 0 {
                return Ok(true);
            }
            let key = inode_key(parent);
            let is_live_directory = match tables.get(Table::Inodes, &key)? {
                Some(row) => is_directory(&InodeRow::decode(&key, row)?.inode(&key)?),
                None => false,
            };
            if is_live_directory && seen.len() < MAX_DEPTH && seen.insert(parent) {
                open.push(parent);
            }
        }
    }
    Ok(false)
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
            let register = register_part(table, key, row)?;
            if !register.is_empty() {
                sums.add(split_key(table, key)?.0, hash(table, key, register, &mut scratch));
            }
            Ok(Scan::More)
        })?;
    }
    let applied: &Vector = &head.applied;
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

pub(super) fn lost(tables: &impl Read, after: Option<&LostKey>, limit: usize) -> Result<Vec<LostEvent>, Error> {
    let mut out = Vec::new();
    let mut from = Vec::new();
    if let Some(after) = after {
        let mut register = Vec::new();
        after.register.encode(&mut register);
        lost::encode_key(&register, after.stream, after.lsn, &mut from);
        from.push(0);
    }
    if limit > 0 {
        tables.scan(Table::Lost, &from, &mut |key, row| {
            out.push(lost::decode(key, row).map_err(|e| Error::corrupt(Table::Lost, key, e))?);
            Ok(if out.len() == limit { Scan::Stop } else { Scan::More })
        })?;
    }
    Ok(out)
}
