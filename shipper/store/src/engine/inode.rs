//! Writing the fields of inodes, and the names derived from entries.

use cfs_shipper_core::merge::{Effects, Field, Incoming, Inode, Register};

use super::lost::Contest;
use super::txn::{Scratch, Txn};
use crate::backend::{Scan, Write};
use crate::row::{InodeRow, Links, encode_inode, inode_key, link_key};
use crate::table::{Error, Table};

const TABLE: Table = Table::Inodes;

/// Everything that one operation does to one inode's row.
#[derive(Debug, Clone, Copy, Default)]
struct Touch<'a> {
    inode: u64,
    fields: Option<&'a Inode<'a>>,
    unlink: Option<(u64, &'a [u8])>,
    link: Option<(u64, &'a [u8])>,
}

/// At most: one loses a name, one loses the name that another gains, and one is written.
#[derive(Default)]
struct Touches<'a> {
    items: [Touch<'a>; 4],
    len: usize,
}

impl<'a> Touches<'a> {
    /// The touch of `inode` for which `free` holds, or a new one.
    fn of(&mut self, inode: u64, free: impl Fn(&Touch<'a>) -> bool) -> &mut Touch<'a> {
        let found = self.items[..self.len].iter().position(|t| t.inode == inode && free(t));
        let at = found.unwrap_or_else(|| {
            self.items[self.len].inode = inode;
            self.len += 1;
            self.len - 1
        });
        &mut self.items[at]
    }
}

impl<W: Write> Txn<'_, W> {
    /// Writes all registers of one operation but `forget`.
    pub(super) fn write_effects(&mut self, effects: &Effects<'_>, incoming: &Incoming<'_>) -> Result<(), Error> {
        let mut touches = Touches::default();
        if let Some((inode, fields)) = &effects.inode {
            touches.of(*inode, |_| true).fields = Some(fields);
        }
        if let Some((parent, name)) = effects.cleared {
            let relink = self.write_dentry(parent, name, None, incoming)?;
            if let Some(inode) = relink.gone {
                touches.of(inode, |t| t.unlink.is_none()).unlink = Some((parent, name));
            }
        }
        if let Some((parent, name, target)) = effects.named {
            let relink = self.write_dentry(parent, name, Some(target), incoming)?;
            if let Some(inode) = relink.gone {
                touches.of(inode, |t| t.unlink.is_none()).unlink = Some((parent, name));
            }
            if let Some(inode) = relink.added {
                touches.of(inode, |t| t.link.is_none()).link = Some((parent, name));
            }
        }
        let mut buffers = std::mem::take(self.scratch);
        let mut out = Ok(());
        for touch in &touches.items[..touches.len] {
            out = out.and_then(|()| self.touch_inode(touch, incoming, &mut buffers));
        }
        *self.scratch = buffers;
        if let (Ok(()), Some((inode, name, value))) = (&out, effects.xattr) {
            out = self.write_xattr(inode, name, value, incoming);
        }
        out
    }

    fn touch_inode(
        &mut self,
        touch: &Touch<'_>,
        incoming: &Incoming<'_>,
        Scratch { value, existing, .. }: &mut Scratch,
    ) -> Result<(), Error> {
        let key = inode_key(touch.inode);
        let fresh = touch.fields.copied().unwrap_or_default();
        let links = Links { count: touch.link.is_some().into(), first: touch.link };
        let record = encode_inode(0, &fresh, &links, value);
        if self.tables.insert(TABLE, &key, value, existing)? {
            if !record.is_empty() {
                self.digest_add(touch.inode, TABLE, &key, &value[record]);
            }
            if fresh.has_forgettable() {
                self.index_tomb(&Register::Field(touch.inode, Field::Life), true)?;
            }
            return Ok(());
        }
        let row = InodeRow::decode(&key, existing)?;
        let before = row.inode(&key)?;
        let (mut after, mut lost) = (before, row.lost);
        if let Some(fields) = touch.fields {
            self.merge_fields(touch.inode, fields, incoming, &mut after, &mut lost)?;
        }
        if after.life() != before.life() {
            after.forget(&self.head.forgotten);
            if before.life().is_some() {
                self.hide_xattrs(touch.inode, &after)?;
            }
        }
        let mut promoted = Vec::new();
        let links = self.relink(touch, row.links, &mut promoted)?;
        self.replace_inode(touch.inode, &row, &before, (lost, &after, &links), value)
    }

    fn merge_fields<'a>(
        &mut self,
        inode: u64,
        fields: &Inode<'a>,
        incoming: &Incoming<'_>,
        into: &mut Inode<'a>,
        lost: &mut u8,
    ) -> Result<(), Error> {
        for (field, slot) in fields.iter() {
            let held = into.get(field).copied();
            let verdict = self.contest(&Contest {
                incoming,
                held: held.map(|s| s.version),
                has_lost: *lost & field.bit() != 0,
                register: &|| Register::Field(inode, field),
                incoming_value: &|out| slot.value.encode(out),
                held_value: &|out| held.iter().for_each(|s| s.value.encode(out)),
            })?;
            if verdict.has_lost {
                *lost |= field.bit();
            } else {
                *lost &= !field.bit();
            }
            if verdict.takes {
                into.set(field, slot.version, slot.value);
            }
        }
        Ok(())
    }

    /// Takes a name away and adds one. When the name that the row itself holds goes, another moves in from the table
    /// of further names; `promoted` lends it memory.
    fn relink<'a>(
        &mut self,
        touch: &Touch<'a>,
        mut links: Links<'a>,
        promoted: &'a mut Vec<u8>,
    ) -> Result<Links<'a>, Error> {
        let mut key = Vec::new();
        if let Some((parent, name)) = touch.unlink {
            links.count = links.count.saturating_sub(1);
            if links.first == Some((parent, name)) {
                links.first = None;
                self.tables.scan_prefix(Table::Links, &inode_key(touch.inode), &mut |key, _| {
                    promoted.extend_from_slice(key);
                    Ok(Scan::Stop)
                })?;
                if let Some((_, rest)) = promoted.split_first_chunk::<8>() {
                    self.tables.delete(Table::Links, promoted)?;
                    links.first = rest.split_first_chunk::<8>().map(|(p, name)| (u64::from_be_bytes(*p), name));
                }
            } else {
                link_key(touch.inode, parent, name, &mut key);
                self.tables.delete(Table::Links, &key)?;
            }
        }
        if let Some((parent, name)) = touch.link {
            links.count += 1;
            if links.first.is_none() {
                links.first = Some((parent, name));
            } else {
                link_key(touch.inode, parent, name, &mut key);
                self.tables.put(Table::Links, &key, &[])?;
            }
        }
        Ok(links)
    }

    /// Adds a name that a snapshot or a repair brings.
    pub(super) fn install_link(&mut self, inode: u64, parent: u64, name: &[u8]) -> Result<(), Error> {
        let key = inode_key(inode);
        let mut value = Vec::new();
        let bytes = match self.tables.get(TABLE, &key)? {
            Some(row) => row.to_vec(),
            None => {
                encode_inode(0, &Inode::default(), &Links::default(), &mut value);
                value.clone()
            }
        };
        let row = InodeRow::decode(&key, &bytes)?;
        let fields = row.inode(&key)?;
        let touch = Touch { inode, link: Some((parent, name)), ..Touch::default() };
        let mut promoted = Vec::new();
        let links = self.relink(&touch, row.links, &mut promoted)?;
        self.replace_inode(inode, &row, &fields, (row.lost, &fields, &links), &mut value)
    }

    /// Takes a name away that no entry gives the inode. The row must decode.
    pub(super) fn drop_link(&mut self, inode: u64, parent: u64, name: &[u8]) -> Result<(), Error> {
        let key = inode_key(inode);
        let Some(bytes) = self.tables.get(TABLE, &key)?.map(<[u8]>::to_vec) else { return Ok(()) };
        let row = InodeRow::decode(&key, &bytes)?;
        let fields = row.inode(&key)?;
        let touch = Touch { inode, unlink: Some((parent, name)), ..Touch::default() };
        let (mut promoted, mut value) = (Vec::new(), Vec::new());
        let links = self.relink(&touch, row.links, &mut promoted)?;
        self.replace_inode(inode, &row, &fields, (row.lost, &fields, &links), &mut value)
    }

    /// Puts a row in the place of `row`, which held `before`; no row when there is nothing left to say.
    pub(super) fn replace_inode(
        &mut self,
        inode: u64,
        row: &InodeRow<'_>,
        before: &Inode<'_>,
        (lost, after, links): (u8, &Inode<'_>, &Links<'_>),
        value: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let key = inode_key(inode);
        let record = encode_inode(lost, after, links, value);
        if after.is_empty() && lost == 0 && links.count == 0 {
            self.tables.delete(TABLE, &key)?;
        } else {
            self.tables.put(TABLE, &key, value)?;
        }
        let record = &value[record];
        if record != row.record {
            if !row.record.is_empty() {
                self.digest_sub(inode, TABLE, &key, row.record);
            }
            if !record.is_empty() {
                self.digest_add(inode, TABLE, &key, record);
            }
        }
        let forgettable = after.has_forgettable();
        if before.has_forgettable() != forgettable {
            self.index_tomb(&Register::Field(inode, Field::Life), forgettable)?;
        }
        Ok(())
    }
}
