//! Puts the rows of a part in place of what is there, whatever that is, and derives anew what follows from them.

use std::collections::{BTreeMap, BTreeSet};

use cfs_shipper_core::merge::{Dentry, Field, Inode, Register, Xattr};

use super::{DAMAGED, Sent, Start};
use crate::backend::{Read, Scan, Write};
use crate::engine::derived::{has_link, has_waiting, is_name, shows};
use crate::engine::txn::Txn;
use crate::engine::verify::raw_part;
use crate::lost::{self, LostEvent};
use crate::repair::Error;
use crate::row::{InodeRow, Links, NamedRow, encode_inode, inode_key, link_key, split_key};
use crate::table::{self, Table};

/// A repair while it goes on.
pub(super) struct Put<'a> {
    inode: u64,
    sent: &'a Sent<'a>,
    pub(super) changed: u64,
    pub(super) conflicts: Vec<LostEvent>,
    /// Sums of the registers that were replaced, and of those in their place.
    pub(super) before: u128,
    pub(super) after: u128,
}

impl<'a> Put<'a> {
    pub(super) const fn new(inode: u64, sent: &'a Sent<'a>) -> Self {
        Self { inode, sent, changed: 0, conflicts: Vec::new(), before: 0, after: 0 }
    }

    /// The lost writes of these registers, before the rows that tell whether some wait.
    pub(super) fn lost<W: Write>(&mut self, txn: &mut Txn<'_, W>) -> Result<(), Error> {
        for (key, row) in &self.sent.lost {
            let held = txn.tables.get(Table::Lost, key)?;
            if held == Some(*row) {
                continue;
            }
            if held.is_none() && !lost::is_superseded(row) {
                self.conflicts.push(lost::decode(key, row).map_err(|_| DAMAGED)?);
            }
            txn.tables.put(Table::Lost, key, row)?;
            self.changed += 1;
        }
        Ok(())
    }

    /// The rows of one table between the beginning of the part and of the next.
    pub(super) fn table<W: Write>(
        &mut self,
        txn: &mut Txn<'_, W>,
        table: Table,
        start: &Start,
        end: Option<&Start>,
    ) -> Result<(), Error> {
        if table < start.table || end.is_some_and(|end| table > end.table) {
            return Ok(());
        }
        let prefix = inode_key(self.inode);
        let from = if table == start.table { &start.key[..] } else { &prefix[..] };
        let until = end.filter(|end| end.table == table).map(|end| &end.key[..]);
        let mut rows: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        txn.tables.scan(table, from, &mut |key, row| {
            if !key.starts_with(&prefix) || until.is_some_and(|until| key >= until) {
                return Ok(Scan::Stop);
            }
            rows.insert(key.to_vec(), Some(row.to_vec()));
            Ok(Scan::More)
        })?;
        for (_, key) in self.sent.rows.keys().filter(|(of, _)| *of == table) {
            rows.entry(key.to_vec()).or_default();
        }
        // An inode without fields may have a row all the same, for its names.
        if table == Table::Inodes && from == prefix {
            rows.entry(prefix.to_vec()).or_default();
        }
        for (key, held) in rows {
            let register = self.sent.rows.get(&(table, &key[..])).copied().unwrap_or_default();
            match table {
                Table::Inodes => self.inode(txn, &key, held.as_deref(), register)?,
                _ => self.named(txn, table, &key, held.as_deref(), register)?,
            }
        }
        Ok(())
    }

    /// Writes a row if it is not so already, and takes note of what that means for the digest.
    fn replace<W: Write>(
        &mut self,
        txn: &mut Txn<'_, W>,
        (table, key): (Table, &[u8]),
        held: Option<&[u8]>,
        row: Option<&[u8]>,
    ) -> Result<(), table::Error> {
        if held == row {
            return Ok(());
        }
        self.changed += 1;
        let mut scratch = Vec::new();
        let mut sum = |row: &[u8]| match raw_part(table, key, row).0 {
            [] => 0,
            register => crate::digest::hash(table, key, register, &mut scratch),
        };
        self.before = self.before.wrapping_add(held.map_or(0, &mut sum));
        self.after = self.after.wrapping_add(row.map_or(0, &mut sum));
        match row {
            Some(row) => txn.tables.put(table, key, row),
            None => txn.tables.delete(table, key),
        }
    }

    fn inode<W: Write>(
        &mut self,
        txn: &mut Txn<'_, W>,
        key: &[u8],
        held: Option<&[u8]>,
        register: &[u8],
    ) -> Result<(), Error> {
        let inode = Inode::decode(register).map_err(|_| DAMAGED)?;
        let mut lost = 0;
        for field in Field::ALL {
            if has_waiting(&txn.tables, &Register::Field(self.inode, field))? {
                lost |= field.bit();
            }
        }
        let (names, first) = self.names(txn, held)?;
        let links =
            Links { count: names.len() as u32, first: first.as_ref().map(|(parent, name)| (*parent, name.as_slice())) };
        let mut row = Vec::new();
        encode_inode(lost, &inode, &links, &mut row);
        let is_empty = inode.is_empty() && lost == 0 && links.count == 0;
        self.further_names(txn, &names, &first)?;
        self.replace(txn, (Table::Inodes, key), held, (!is_empty).then_some(&row[..]))?;
        Ok(self.index(txn, &Register::Field(self.inode, Field::Life), inode.has_forgettable())?)
    }

    /// The names that entries of this store give the inode, as far as either store knows them, and the one that stays
    /// in the row.
    #[allow(clippy::type_complexity, reason = "a set of names and one of them")]
    fn names<W: Write>(
        &self,
        txn: &Txn<'_, W>,
        held: Option<&[u8]>,
    ) -> Result<(BTreeSet<(u64, Vec<u8>)>, Option<(u64, Vec<u8>)>), Error> {
        let mut known: BTreeSet<(u64, Vec<u8>)> =
            self.sent.names.iter().map(|(parent, name)| (*parent, name.to_vec())).collect();
        let row = held.and_then(|row| InodeRow::decode(&inode_key(self.inode), row).ok());
        let first = row.and_then(|row| row.links.first).map(|(parent, name)| (parent, name.to_vec()));
        known.extend(first.clone());
        txn.tables.scan_prefix(Table::Links, &inode_key(self.inode), &mut |key, _| {
            let (_, rest) = split_key(Table::Links, key)?;
            let (parent, name) = split_key(Table::Links, rest)?;
            known.insert((parent, name.to_vec()));
            Ok(Scan::More)
        })?;
        let mut names = BTreeSet::new();
        for (parent, name) in known {
            if is_name(&txn.tables, self.inode, parent, &name)? {
                names.insert((parent, name));
            }
        }
        let first = first.filter(|first| names.contains(first)).or_else(|| names.first().cloned());
        Ok((names, first))
    }

    /// Makes the table of further names hold all but the first.
    fn further_names<W: Write>(
        &mut self,
        txn: &mut Txn<'_, W>,
        names: &BTreeSet<(u64, Vec<u8>)>,
        first: &Option<(u64, Vec<u8>)>,
    ) -> Result<(), Error> {
        let mut wanted = BTreeSet::new();
        let mut key = Vec::new();
        for name in names.iter().filter(|name| first.as_ref() != Some(name)) {
            link_key(self.inode, name.0, &name.1, &mut key);
            wanted.insert(key.clone());
        }
        let mut held = BTreeSet::new();
        txn.tables.scan_prefix(Table::Links, &inode_key(self.inode), &mut |key, _| {
            held.insert(key.to_vec());
            Ok(Scan::More)
        })?;
        for key in held.difference(&wanted) {
            txn.tables.delete(Table::Links, key)?;
            self.changed += 1;
        }
        for key in wanted.difference(&held) {
            txn.tables.put(Table::Links, key, &[])?;
            self.changed += 1;
        }
        Ok(())
    }

    /// A row of entries or extended attributes.
    fn named<W: Write>(
        &mut self,
        txn: &mut Txn<'_, W>,
        table: Table,
        key: &[u8],
        held: Option<&[u8]>,
        register: &[u8],
    ) -> Result<(), Error> {
        let (_, name) = split_key(table, key)?;
        let of = match table {
            Table::Dentries => Register::Dentry(self.inode, name.to_vec()),
            _ => Register::Xattr(self.inode, name.to_vec()),
        };
        let waits = has_waiting(&txn.tables, &of)?;
        let row = [&[u8::from(waits)], register].concat();
        let is_empty = register.is_empty() && !waits;
        self.replace(txn, (table, key), held, (!is_empty).then_some(&row[..]))?;
        let forgettable = if register.is_empty() {
            false
        } else if table == Table::Dentries {
            let target = Dentry::decode(register).map_err(|_| DAMAGED)?.target;
            self.relink(txn, key, held, target.map(|(inode, _)| inode))?;
            target.is_none()
        } else {
            let xattr = Xattr::decode(register).map_err(|_| DAMAGED)?;
            xattr.value.is_none() || !shows(&txn.tables, self.inode, &xattr.version)?
        };
        if register.is_empty() && table == Table::Dentries {
            self.relink(txn, key, held, None)?;
        }
        Ok(self.index(txn, &of, forgettable)?)
    }

    /// The inode that the entry points to knows this name, and the one that it seemed to point to does not.
    fn relink<W: Write>(
        &mut self,
        txn: &mut Txn<'_, W>,
        key: &[u8],
        held: Option<&[u8]>,
        target: Option<u64>,
    ) -> Result<(), Error> {
        let (parent, name) = split_key(Table::Dentries, key)?;
        let seemed = held
            .and_then(|row| NamedRow::decode(Table::Dentries, key, row).ok()?.dentry(key).ok()?)
            .and_then(|dentry| dentry.target)
            .map(|(inode, _)| inode);
        if let Some(wrong) = seemed.filter(|seemed| Some(*seemed) != target)
            && readable(&txn.tables, wrong)?
            && has_link(&txn.tables, wrong, parent, name)?
        {
            txn.drop_link(wrong, parent, name)?;
            self.changed += 1;
        }
        if let Some(right) = target
            && !has_link(&txn.tables, right, parent, name)?
        {
            txn.install_link(right, parent, name)?;
            self.changed += 1;
        }
        Ok(())
    }

    /// What a `Forget` may remove is in the index. More than that may be in it too.
    fn index<W: Write>(
        &mut self,
        txn: &mut Txn<'_, W>,
        register: &Register,
        present: bool,
    ) -> Result<(), table::Error> {
        let mut key = Vec::new();
        register.encode(&mut key);
        if !present || txn.tables.get(Table::Tombs, &key)?.is_some() {
            return Ok(());
        }
        self.changed += 1;
        txn.index_tomb(register, true)
    }
}

/// Whether an inode's row decodes, or there is none.
fn readable(tables: &impl Read, inode: u64) -> Result<bool, table::Error> {
    let key = inode_key(inode);
    Ok(tables.get(Table::Inodes, &key)?.is_none_or(|row| raw_part(Table::Inodes, &key, row).1))
}
