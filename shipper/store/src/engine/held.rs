//! Everything that is held of one inode.

use cfs_shipper_core::merge::{Field, Inode, Register};

use super::paths::names;
use super::verify::inode_sum;
use crate::backend::{Read, Scan};
use crate::lost::{self, LostValue};
use crate::row::{InodeRow, NamedRow, inode_key, named_key, split_key};
use crate::table::{Error, Table};
use crate::view::{Held, HeldRegister};

/// Collects registers up to a number and a size; beyond it they are counted.
struct List {
    held: Held,
    limit: usize,
    bytes: usize,
}

impl List {
    fn add(&mut self, register: HeldRegister) {
        self.held.register_count += 1;
        let size = match &register.value {
            LostValue::Bytes(value) => value.len(),
            LostValue::Live { target, .. } => target.len(),
            _ => 0,
        };
        if self.held.registers.len() < self.limit && size <= self.bytes {
            self.bytes -= size;
            self.held.registers.push(register);
        }
    }
}

pub(super) fn held(tables: &impl Read, number: u64, limit: usize, max_bytes: usize) -> Result<Held, Error> {
    let held = Held { digest: inode_sum(tables, number, &mut Vec::new())?, ..Held::default() };
    let mut list = List { held, limit, bytes: max_bytes };
    let key = inode_key(number);
    if let Some(row) = tables.get(Table::Inodes, &key)? {
        let row = InodeRow::decode(&key, row)?;
        fields(number, &row.inode(&key)?, &mut list);
    }
    tables.scan_prefix(Table::Xattrs, &key, &mut |key, row| {
        let (_, name) = split_key(Table::Xattrs, key)?;
        if let Some(xattr) = NamedRow::decode(Table::Xattrs, key, row)?.xattr(key)? {
            let value = xattr.value.map_or(LostValue::Tombstone, |value| LostValue::Bytes(value.to_vec()));
            let register = Register::Xattr(number, name.to_vec());
            list.add(HeldRegister { register, version: xattr.version, value });
        }
        Ok(Scan::More)
    })?;
    tables.scan_prefix(Table::Dentries, &key, &mut |key, row| {
        let (_, name) = split_key(Table::Dentries, key)?;
        if let Some(dentry) = NamedRow::decode(Table::Dentries, key, row)?.dentry(key)? {
            let value = dentry.target.map_or(LostValue::Tombstone, |(inode, kind)| LostValue::Entry(inode, kind));
            let register = Register::Dentry(number, name.to_vec());
            list.add(HeldRegister { register, version: dentry.version, value });
        }
        Ok(Scan::More)
    })?;
    let mut held = list.held;
    held.parents = parents(tables, number, limit)?;
    waiting(tables, number, limit, &mut held)?;
    Ok(held)
}

fn fields(number: u64, inode: &Inode<'_>, list: &mut List) {
    for (field, slot) in inode.iter() {
        let register = Register::Field(number, field);
        list.add(HeldRegister { register, version: slot.version, value: slot.value.into() });
    }
}

/// The entries that name the inode, by directory and name: in an order that every site has.
fn parents(tables: &impl Read, number: u64, limit: usize) -> Result<Vec<HeldRegister>, Error> {
    let mut named = names(tables, number, limit)?;
    named.sort_unstable();
    let mut out = Vec::new();
    let mut key = Vec::new();
    for (parent, name) in named {
        named_key(parent, &name, &mut key);
        let Some(row) = tables.get(Table::Dentries, &key)? else { continue };
        let Some(dentry) = NamedRow::decode(Table::Dentries, &key, row)?.dentry(&key)? else { continue };
        let value = dentry.target.map_or(LostValue::Tombstone, |(inode, kind)| LostValue::Entry(inode, kind));
        out.push(HeldRegister { register: Register::Dentry(parent, name), version: dentry.version, value });
    }
    Ok(out)
}

/// Lost writes of the inode's registers that nothing has superseded: those are the same on every site.
fn waiting(tables: &impl Read, number: u64, limit: usize, held: &mut Held) -> Result<(), Error> {
    let registers = [
        Register::Field(number, Field::Life),
        Register::Xattr(number, Vec::new()),
        Register::Dentry(number, Vec::new()),
    ];
    for register in registers {
        let mut prefix = Vec::new();
        register.encode(&mut prefix);
        // The number of the table and the inode: what all registers of a kind begin with.
        prefix.truncate(1 + 8);
        tables.scan_prefix(Table::Lost, &prefix, &mut |key, row| {
            if !lost::is_superseded(row) {
                held.conflict_count += 1;
                if held.conflicts.len() < limit {
                    held.conflicts.push(lost::decode(key, row).map_err(|e| Error::corrupt(Table::Lost, key, e))?);
                }
            }
            Ok(Scan::More)
        })?;
    }
    Ok(())
}
