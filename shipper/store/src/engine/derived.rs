//! Whether what is derived - names, marks of lost writes, the index of tombstones - follows from the registers. The index
//! may hold more than that: what came back to life stays in it until a `Forget` looks.

use cfs_shipper_core::merge::{Dentry, Field, Inode, Register};

use crate::backend::{Read, Scan};
use crate::lost;
use crate::row::{InodeRow, Links, NamedRow, inode_key, link_key, named_key, split_key};
use crate::table::{Error, Table};

/// Whether the entry `(parent, name)` points to `inode`.
pub(super) fn is_name(tables: &impl Read, inode: u64, parent: u64, name: &[u8]) -> Result<bool, Error> {
    let mut key = Vec::new();
    named_key(parent, name, &mut key);
    let Some(row) = tables.get(Table::Dentries, &key)? else { return Ok(false) };
    // An entry that does not decode is a finding of its own.
    let Ok(named) = NamedRow::decode(Table::Dentries, &key, row) else { return Ok(true) };
    let Ok(dentry) = named.dentry(&key) else { return Ok(true) };
    Ok(matches!(dentry, Some(Dentry { target: Some((to, _)), .. }) if to == inode))
}

/// Whether an inode knows of one of its names. Says yes of an inode that does not decode.
pub(super) fn has_link(tables: &impl Read, inode: u64, parent: u64, name: &[u8]) -> Result<bool, Error> {
    let key = inode_key(inode);
    let Some(row) = tables.get(Table::Inodes, &key)? else { return Ok(false) };
    let Ok(row) = InodeRow::decode(&key, row) else { return Ok(true) };
    if row.links.first == Some((parent, name)) {
        return Ok(true);
    }
    let mut key = Vec::new();
    link_key(inode, parent, name, &mut key);
    Ok(tables.get(Table::Links, &key)?.is_some())
}

/// Names in the table of further names, at most one more than `limit`.
fn further_names(tables: &impl Read, inode: u64, limit: usize) -> Result<usize, Error> {
    let mut found = 0;
    tables.scan_prefix(Table::Links, &inode_key(inode), &mut |_, _| {
        found += 1;
        Ok(if found > limit { Scan::Stop } else { Scan::More })
    })?;
    Ok(found)
}

fn has_tomb(tables: &impl Read, register: &Register) -> Result<bool, Error> {
    let mut key = Vec::new();
    register.encode(&mut key);
    Ok(tables.get(Table::Tombs, &key)?.is_some())
}

/// Whether lost writes of a register wait.
pub(super) fn has_waiting(tables: &impl Read, register: &Register) -> Result<bool, Error> {
    let (mut prefix, mut waits) = (Vec::new(), false);
    register.encode(&mut prefix);
    tables.scan_prefix(Table::Lost, &prefix, &mut |_, row| {
        waits = !lost::is_superseded(row);
        Ok(if waits { Scan::Stop } else { Scan::More })
    })?;
    Ok(waits)
}

/// Whether a row of inodes has the names, marks and place in the index that follow from the registers.
pub(super) fn inode_holds(
    tables: &impl Read,
    number: u64,
    row: &InodeRow<'_>,
    inode: &Inode<'_>,
) -> Result<bool, Error> {
    let Links { count, first } = row.links;
    let names = match first {
        None => count == 0 && further_names(tables, number, 0)? == 0,
        Some((parent, name)) => {
            let further = count.checked_sub(1).map(|n| n as usize);
            // Names in the table beside a single one in the row are found from the table's side.
            let counted = match further {
                None => false,
                Some(0) => true,
                Some(n) => further_names(tables, number, n)? == n,
            };
            counted && is_name(tables, number, parent, name)?
        }
    };
    if !names {
        return Ok(false);
    }
    for field in Field::ALL.into_iter().filter(|field| row.lost & field.bit() != 0) {
        if !has_waiting(tables, &Register::Field(number, field))? {
            return Ok(false);
        }
    }
    // The index may hold more than it must: a `Forget` finds that out.
    Ok(!inode.has_forgettable() || has_tomb(tables, &Register::Field(number, Field::Life))?)
}

/// The same for a row of entries or attributes.
pub(super) fn named_holds(
    tables: &impl Read,
    register: &Register,
    row: &NamedRow<'_>,
    forgettable: bool,
) -> Result<bool, Error> {
    if row.has_lost && !has_waiting(tables, register)? {
        return Ok(false);
    }
    Ok(!forgettable || has_tomb(tables, register)?)
}

/// The same for an attribute, which may be forgotten when it is gone or does not show.
pub(super) fn xattr_holds(tables: &impl Read, key: &[u8], row: &[u8]) -> Result<bool, Error> {
    let (inode, name) = split_key(Table::Xattrs, key)?;
    let named = NamedRow::decode(Table::Xattrs, key, row)?;
    let forgettable = match named.xattr(key)? {
        None => false,
        Some(xattr) => xattr.value.is_none() || !shows(tables, inode, &xattr.version)?,
    };
    named_holds(tables, &Register::Xattr(inode, name.to_vec()), &named, forgettable)
}

/// Whether a register of an inode with this version shows. Of an inode that does not decode, yes.
pub(super) fn shows(tables: &impl Read, inode: u64, version: &cfs_model::Version) -> Result<bool, Error> {
    let key = inode_key(inode);
    let Some(row) = tables.get(Table::Inodes, &key)? else { return Ok(false) };
    let Ok(row) = InodeRow::decode(&key, row) else { return Ok(true) };
    Ok(row.inode(&key).map_or(true, |inode| inode.shows(version)))
}

/// Whether the row of a register says that lost writes of it wait.
pub(super) fn is_flagged(tables: &impl Read, register: &Register) -> Result<bool, Error> {
    match register {
        Register::Field(inode, field) => {
            let key = inode_key(*inode);
            let Some(row) = tables.get(Table::Inodes, &key)? else { return Ok(false) };
            Ok(InodeRow::decode(&key, row).map_or(true, |row| row.lost & field.bit() != 0))
        }
        Register::Dentry(parent, name) => named(tables, Table::Dentries, *parent, name, &mut |_, row| Ok(row.has_lost)),
        Register::Xattr(inode, name) => named(tables, Table::Xattrs, *inode, name, &mut |_, row| Ok(row.has_lost)),
    }
}

type Holds<'a> = dyn FnMut(&[u8], &NamedRow<'_>) -> Result<bool, Error> + 'a;

/// Whether something holds of the row of a name; not if there is none. Of one that does not decode, yes.
fn named(tables: &impl Read, table: Table, inode: u64, name: &[u8], holds: &mut Holds<'_>) -> Result<bool, Error> {
    let mut key = Vec::new();
    named_key(inode, name, &mut key);
    let Some(row) = tables.get(table, &key)? else { return Ok(false) };
    let Ok(row) = NamedRow::decode(table, &key, row) else { return Ok(true) };
    match holds(&key, &row) {
        Err(Error::Corrupt { .. }) => Ok(true),
        answer => answer,
    }
}
