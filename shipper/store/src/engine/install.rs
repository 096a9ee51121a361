//! Installing a snapshot into an empty store.

use std::sync::PoisonError;

use bytes::Bytes;
use cfs_model::Vector;
use cfs_shipper_core::merge::{Dentry, Field, Inode, Malformed, Register, Xattr};

use super::Engine;
use super::head::{Head, Phase, decode_producer, seen_at};
use super::txn::Txn;
use crate::backend::{Backend, Read, Size, Write};
use crate::lost;
use crate::pace;
use crate::row::{InodeRow, NamedRow, encode_inode, inode_key, named_key, split_key};
use crate::snapshot::{Error, Item, Progress, Resume, Snapshot, TAG_END, TAG_HEAD, TAG_NEXT, TAG_READ_AT, items};
use crate::store::Position;
use crate::table::{self, Table};

/// How far an installation is: its first item has been seen, or its last.
const PROGRESS_KEY: &[u8] = b"snapshot";
/// Where the next part begins.
const NEXT_KEY: &[u8] = b"snapshot-next";
const HEAD: &[u8] = &[1];
const END: &[u8] = &[2];

/// A transaction that changes the head alone.
const SMALL: Size = Size { rows: 1, bytes: 0 };

const DAMAGED: Error = Error::Damaged("a row does not decode");

impl From<Malformed> for Error {
    fn from(_: Malformed) -> Self {
        DAMAGED
    }
}

impl<B: Backend> Engine<B> {
    pub(super) fn begin_install(&self) -> Result<(), Error> {
        let mut scratch = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut txn = self.begin(SMALL, &mut scratch)?;
        for table in Table::ALL.into_iter().filter(|t| *t != Table::Meta) {
            if txn.tables.len(table)? != 0 {
                return Err(Error::NotEmpty);
            }
        }
        txn.head.phase = Phase::Installing;
        self.commit(txn)?;
        Ok(())
    }

    /// Empties the store, whatever it holds, and begins.
    pub(super) fn install_again(&self) -> Result<(), Error> {
        let mut scratch = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut txn = self.begin(SMALL, &mut scratch)?;
        for table in Table::ALL.into_iter().filter(|t| *t != Table::Meta) {
            txn.tables.clear(table)?;
        }
        for key in [PROGRESS_KEY, NEXT_KEY] {
            txn.tables.delete(Table::Meta, key)?;
        }
        txn.head = Head { phase: Phase::Installing, ..Head::default() };
        self.commit(txn)?;
        let mut live = self.live_mut();
        live.producers.clear();
        live.history.clear();
        Ok(())
    }

    pub(super) fn read_progress(&self) -> Result<Option<Progress>, Error> {
        let reader = self.backend.read()?;
        let head = super::head::load(&reader)?;
        if head.phase != Phase::Installing {
            return Ok(None);
        }
        let Head { applied, chains, clock, forgotten, end, .. } = head;
        let progress = reader.get(Table::Meta, PROGRESS_KEY)?;
        let next = match (progress, reader.get(Table::Meta, NEXT_KEY)?) {
            (Some(END), _) => None,
            (_, None) => Some(Resume::START),
            (_, Some(next)) => Some(Resume::decode(next)?),
        };
        let snapshot = progress.map(|_| Snapshot { applied, chains, clock, forgotten });
        Ok(Some(Progress { snapshot, next, end }))
    }

    pub(super) fn install_part(&self, bytes: &[u8]) -> Result<(), Error> {
        let items = items(bytes)?;
        let size = Size { rows: items.len(), bytes: bytes.len() };
        let mut scratch = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut txn = self.begin(size, &mut scratch)?;
        if txn.head.phase != Phase::Installing {
            return Err(Error::NotInstalling);
        }
        for item in items {
            txn.install_item(&item)?;
            pace::breathe();
        }
        self.commit(txn)?;
        Ok(())
    }

    pub(super) fn finish_install(&self) -> Result<Position, Error> {
        let mut scratch = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut txn = self.begin(SMALL, &mut scratch)?;
        if txn.head.phase != Phase::Installing {
            return Err(Error::NotInstalling);
        }
        match txn.tables.get(Table::Meta, PROGRESS_KEY)? {
            Some(END) => {}
            Some(_) => return Err(Error::Unfinished("its end")),
            None => return Err(Error::Unfinished("its beginning")),
        }
        for key in [PROGRESS_KEY, NEXT_KEY] {
            txn.tables.delete(Table::Meta, key)?;
        }
        for (stream, lsn) in txn.head.applied.clone().iter() {
            if let Some(seen) = seen_at(&txn.tables, stream, lsn)? {
                txn.head.seen.insert(stream, seen);
            }
        }
        txn.head.phase = Phase::Ready;
        self.commit(txn)?;
        Ok(self.live().head.position())
    }
}

impl<W: Write> Txn<'_, W> {
    fn install_item(&mut self, item: &Item<'_>) -> Result<(), Error> {
        let Item { tag, key, value } = item;
        let begun = self.tables.get(Table::Meta, PROGRESS_KEY)?.is_some();
        if begun == (*tag == TAG_HEAD) {
            return Err(Error::Damaged("its parts are not in order"));
        }
        let is = |table: Table| *tag == table as u8;
        if is(Table::Inodes) {
            self.install_inode(key, value)
        } else if is(Table::Dentries) {
            self.install_dentry(key, value)
        } else if is(Table::Xattrs) {
            self.install_xattr(key, value)
        } else if is(Table::Lost) {
            self.install_lost(key, value)
        } else if is(Table::Producers) {
            let name = key.get(1..).ok_or(DAMAGED)?;
            self.told.producers.insert(Bytes::copy_from_slice(name), decode_producer(key, value)?);
            Ok(())
        } else if is(Table::Vectors) {
            Vector::decode(value).map_err(|_| DAMAGED)?;
            Ok(self.tables.put(Table::Vectors, key, value)?)
        } else if *tag == TAG_HEAD {
            self.install_head(&Snapshot::decode(value)?);
            Ok(self.tables.put(Table::Meta, PROGRESS_KEY, HEAD)?)
        } else if *tag == TAG_END {
            self.head.end = self.head.end.max(&Vector::decode(value).map_err(|_| DAMAGED)?);
            Ok(self.tables.put(Table::Meta, PROGRESS_KEY, END)?)
        } else if *tag == TAG_READ_AT {
            // Of every part, since a later one may come from a source that has applied less again.
            self.head.end = self.head.end.max(&Vector::decode(value).map_err(|_| DAMAGED)?);
            Ok(())
        } else if *tag == TAG_NEXT {
            Resume::decode(value)?;
            Ok(self.tables.put(Table::Meta, NEXT_KEY, value)?)
        } else {
            Err(Error::Damaged("it holds what this version does not know"))
        }
    }

    fn install_head(&mut self, head: &Snapshot) {
        self.head.applied = head.applied.clone();
        self.head.chains.clone_from(&head.chains);
        self.head.clock = head.clock;
        self.head.forgotten = head.forgotten.clone();
        self.moved.extend(head.applied.iter().map(|(stream, _)| stream));
    }

    /// Inodes come before the entries that name them, and not twice.
    fn install_inode(&mut self, key: &[u8], record: &[u8]) -> Result<(), Error> {
        let (number, rest) = split_key(Table::Inodes, key)?;
        let inode = Inode::decode(record)?;
        if !rest.is_empty() {
            return Err(DAMAGED);
        }
        let (mut value, mut existing) = (Vec::new(), Vec::new());
        encode_inode(0, &inode, &Default::default(), &mut value);
        if !self.tables.insert(Table::Inodes, key, &value, &mut existing)? {
            return Err(Error::Damaged("an inode comes twice"));
        }
        self.digest_add(number, Table::Inodes, key, record);
        if inode.has_forgettable() {
            self.index_tomb(&Register::Field(number, Field::Life), true)?;
        }
        Ok(())
    }

    fn install_named(&mut self, table: Table, key: &[u8], register: &[u8]) -> Result<(), Error> {
        let mut existing = Vec::new();
        if !self.tables.insert(table, key, &[&[0], register].concat(), &mut existing)? {
            return Err(Error::Damaged("a register comes twice"));
        }
        self.digest_add(split_key(table, key)?.0, table, key, register);
        Ok(())
    }

    fn install_dentry(&mut self, key: &[u8], register: &[u8]) -> Result<(), Error> {
        let (parent, name) = split_key(Table::Dentries, key)?;
        let dentry = Dentry::decode(register)?;
        self.install_named(Table::Dentries, key, register)?;
        match dentry.target {
            Some((inode, _)) => self.install_link(inode, parent, name)?,
            None => self.index_tomb(&Register::Dentry(parent, name.to_vec()), true)?,
        }
        Ok(())
    }

    /// Whether an attribute is hidden is decided by its inode, which has been installed before.
    fn install_xattr(&mut self, key: &[u8], register: &[u8]) -> Result<(), Error> {
        let (inode, name) = split_key(Table::Xattrs, key)?;
        let xattr = Xattr::decode(register)?;
        self.install_named(Table::Xattrs, key, register)?;
        let row_key = inode_key(inode);
        let shows = match self.tables.get(Table::Inodes, &row_key)? {
            Some(row) => InodeRow::decode(&row_key, row)?.inode(&row_key)?.shows(&xattr.version),
            None => false,
        };
        if xattr.value.is_none() || !shows {
            self.index_tomb(&Register::Xattr(inode, name.to_vec()), true)?;
        }
        Ok(())
    }

    /// A lost write that waits is noted in its register's row, which may be one without a register.
    fn install_lost(&mut self, key: &[u8], row: &[u8]) -> Result<(), Error> {
        let (register, ..) = lost::register_of(key)?;
        lost::version_of(row)?;
        let mut existing = Vec::new();
        if !self.tables.insert(Table::Lost, key, row, &mut existing)? || lost::is_superseded(row) {
            return Ok(());
        }
        match register {
            Register::Field(inode, field) => Ok(self.flag_field(inode, field.bit())?),
            Register::Dentry(inode, name) => Ok(self.flag_named(Table::Dentries, inode, &name)?),
            Register::Xattr(inode, name) => Ok(self.flag_named(Table::Xattrs, inode, &name)?),
        }
    }

    fn flag_field(&mut self, inode: u64, bit: u8) -> Result<(), table::Error> {
        let key = inode_key(inode);
        let row = self.tables.get(Table::Inodes, &key)?.map(<[u8]>::to_vec);
        let mut row = row.unwrap_or_else(|| {
            let mut empty = Vec::new();
            encode_inode(0, &Inode::default(), &Default::default(), &mut empty);
            empty
        });
        row[0] |= bit;
        self.tables.put(Table::Inodes, &key, &row)
    }

    fn flag_named(&mut self, table: Table, inode: u64, name: &[u8]) -> Result<(), table::Error> {
        let mut key = Vec::new();
        named_key(inode, name, &mut key);
        let mut row = self.tables.get(table, &key)?.map_or_else(|| vec![0], <[u8]>::to_vec);
        NamedRow::decode(table, &key, &row)?;
        row[0] = 1;
        self.tables.put(table, &key, &row)
    }
}
