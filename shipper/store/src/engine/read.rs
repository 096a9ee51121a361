//! Reading what shows.

use cfs_model::op::InodeKind;
use cfs_shipper_core::merge::{Dentry, Field, Inode, Life, ROOT_NAME, Value};

use crate::backend::{Read, Scan};
use crate::lost::{self, LostEvent, LostKey};
use crate::row::{InodeRow, Links, NamedRow, inode_key, named_key, split_key};
use crate::table::{Error, Table};
use crate::view::{DentryView, FieldVersion, InodeView, State, Time, XattrView};

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
