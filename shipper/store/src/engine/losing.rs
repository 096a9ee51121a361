//! Writes that would lose here, told before they arrive.

use cfs_model::Version;
use cfs_shipper_core::merge::Register;

use super::lost::author_saw;
use crate::backend::{Read, Scan};
use crate::lost;
use crate::row::{InodeRow, NamedRow, inode_key, named_key};
use crate::table::{Error, Table};

/// For each write of a register whether it loses.
pub(super) fn losing(tables: &impl Read, writes: &[(Register, Version)]) -> Result<Vec<bool>, Error> {
    writes.iter().map(|(register, version)| loses(tables, register, version)).collect()
}

fn loses(tables: &impl Read, register: &Register, version: &Version) -> Result<bool, Error> {
    let Some(held) = held(tables, register)? else { return Ok(false) };
    if held <= *version || author_saw(tables, &held, version)? {
        return Ok(false);
    }
    // A write that lost itself may have been made by somebody who had seen this one.
    let mut key = Vec::new();
    register.encode(&mut key);
    let mut waiting = Vec::new();
    tables.scan_prefix(Table::Lost, &key, &mut |key, row| {
        if !lost::is_superseded(row) {
            waiting.push(lost::version_of(row).map_err(|e| Error::corrupt(Table::Lost, key, e))?);
        }
        Ok(Scan::More)
    })?;
    for lost in waiting {
        if lost != *version && author_saw(tables, &lost, version)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The version that a register holds, visible or not.
fn held(tables: &impl Read, register: &Register) -> Result<Option<Version>, Error> {
    let mut key = Vec::new();
    let named = |key: &[u8], table| -> Result<Option<NamedRow<'_>>, Error> {
        tables.get(table, key)?.map(|row| NamedRow::decode(table, key, row)).transpose()
    };
    Ok(match register {
        Register::Field(inode, field) => {
            let key = inode_key(*inode);
            let Some(row) = tables.get(Table::Inodes, &key)? else { return Ok(None) };
            InodeRow::decode(&key, row)?.inode(&key)?.get(*field).map(|slot| slot.version)
        }
        Register::Dentry(parent, name) => {
            named_key(*parent, name, &mut key);
            let Some(row) = named(&key, Table::Dentries)? else { return Ok(None) };
            row.dentry(&key)?.map(|dentry| dentry.version)
        }
        Register::Xattr(inode, name) => {
            named_key(*inode, name, &mut key);
            let Some(row) = named(&key, Table::Xattrs)? else { return Ok(None) };
            row.xattr(&key)?.map(|xattr| xattr.version)
        }
    })
}
