//! Rows that do not stand where their keys belong: a key was changed in the file. What is looked up by its key goes astray
//! near them, so they are found and taken out by their position.

use std::sync::PoisonError;

use super::Engine;
use super::verify::{REGISTERS, page};
use crate::backend::{Backend, Read, Scan, Size, Write};
use crate::row::split_key;
use crate::table::{Error, Table};

/// Rows of a table that are not in place.
#[derive(Debug, Default)]
pub(super) struct Misplaced {
    pub(super) count: u64,
    /// Inodes that rows out of order, and those before them, stand under; some of them.
    pub(super) inodes: Vec<u64>,
}

/// Whether a repair of inodes brings rows of a table back.
fn may_go(table: Table) -> bool {
    REGISTERS.contains(&table) || table == Table::Links
}

/// Inodes that are named for one table.
const MAX_NAMED: usize = 16;

/// Visits all rows of a table in many transactions, and finds those that are not above the one before, or that `visit` says
/// are not in place.
pub(super) fn find<B: Backend>(
    backend: &B,
    table: Table,
    mut visit: impl FnMut(&B::Reader<'_>, &[u8], &[u8]) -> Result<bool, Error>,
) -> Result<Misplaced, Error> {
    let (mut found, mut before) = (Misplaced::default(), None::<Vec<u8>>);
    let mut from = Some(Vec::new());
    while let Some(start) = from {
        let tables = backend.read()?;
        let next = page(&tables, table, &start, |key, row| {
            let in_place = visit(&tables, key, row)?;
            let in_order = before.as_deref().is_none_or(|before| before < key);
            if !in_place || !in_order {
                found.count += 1;
                for key in before.as_deref().into_iter().filter(|_| !in_order).chain([key]) {
                    if may_go(table) && found.inodes.len() < MAX_NAMED {
                        found.inodes.extend(split_key(table, key).map(|(inode, _)| inode));
                    }
                }
            }
            let held = before.get_or_insert_default();
            held.clear();
            held.extend_from_slice(key);
            Ok(())
        });
        from = match next {
            Err(Error::Disordered { .. }) => {
                found.count += 1;
                None
            }
            next => next?,
        };
    }
    Ok(found)
}

/// The position of the first row that is not in place, and its key: of two that are in the wrong order the one without
/// which the order is right, as far as the row before them tells. While the order is right, one that is not found by its key.
fn first(tables: &impl Read, table: Table) -> Result<Option<(u64, Vec<u8>)>, Error> {
    let mut position = 0;
    let (mut last, mut last_but_one) = (None::<Vec<u8>>, None::<Vec<u8>>);
    let (mut unordered, mut unfound) = (None, None);
    tables.scan(table, &[], &mut |key, row| {
        if last.as_deref().is_some_and(|last| last >= key) {
            let fits = last_but_one.as_deref().is_none_or(|before| before < key);
            unordered =
                if fits { last.take().map(|last| (position - 1, last)) } else { Some((position, key.to_vec())) };
            return Ok(Scan::Stop);
        }
        if unfound.is_none() && tables.get(table, key)? != Some(row) {
            unfound = Some((position, key.to_vec()));
        }
        position += 1;
        last_but_one = last.replace(key.to_vec());
        Ok(Scan::More)
    })?;
    Ok(unordered.or(unfound))
}

impl<B: Backend> Engine<B> {
    pub(super) fn take_out(&self, limit: usize) -> Result<Option<Vec<u64>>, Error> {
        let mut scratch = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut txn = self.begin(Size { rows: limit, bytes: 0 }, &mut scratch)?;
        let mut out = Vec::new();
        for table in Table::ALL {
            while let Some((position, key)) = first(&txn.tables, table)? {
                if !may_go(table) || out.len() == limit {
                    return Ok(None);
                }
                txn.tables.delete_nth(table, position)?;
                out.push(split_key(table, &key)?.0);
            }
        }
        if !out.is_empty() {
            self.commit(txn)?;
        }
        Ok(Some(out))
    }
}
