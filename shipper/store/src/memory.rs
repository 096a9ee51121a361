//! Tables in memory: for tests, simulation, and comparison with the ones on disk.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::backend::{Backend, Read, Row, Scan, Size, Visit, Write};
use crate::table::{Error, Table, Usage};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
type Tables = [Rows; Table::ALL.len()];

/// Tables that vanish with the process. Readers and the writer exclude each other.
#[derive(Debug, Default)]
pub struct Memory {
    tables: RwLock<Tables>,
}

pub struct Reader<'a>(RwLockReadGuard<'a, Tables>);

pub struct Writer<'a> {
    tables: RwLockWriteGuard<'a, Tables>,
    undo: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
}

impl Backend for Memory {
    type Reader<'a> = Reader<'a>;
    type Writer<'a> = Writer<'a>;

    fn read(&self) -> Result<Reader<'_>, Error> {
        Ok(Reader(self.tables.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn write(&self, _: Size) -> Result<Writer<'_>, Error> {
        Ok(Writer { tables: self.tables.write().unwrap_or_else(PoisonError::into_inner), undo: Vec::new() })
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn usage(&self) -> Result<Usage, Error> {
        let tables = self.read()?.0;
        let used_bytes = tables.iter().flatten().map(|(k, v)| (k.len() + v.len()) as u64).sum();
        let rows = |table: Table| tables[table as usize].len() as u64;
        Ok(Usage {
            map_bytes: 0,
            used_bytes,
            file_bytes: 0,
            inodes: rows(Table::Inodes),
            dentries: rows(Table::Dentries),
            lost: rows(Table::Lost),
        })
    }
}

fn get<'a>(tables: &'a Tables, table: Table, key: &[u8]) -> Option<&'a [u8]> {
    tables[table as usize].get(key).map(Vec::as_slice)
}

fn at_or_below<'a>(tables: &'a Tables, table: Table, key: &[u8]) -> Option<Row<'a>> {
    let upto = (Bound::Unbounded, Bound::Included(key));
    tables[table as usize].range::<[u8], _>(upto).next_back().map(|(k, v)| (k.as_slice(), v.as_slice()))
}

fn scan(tables: &Tables, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
    for (key, value) in tables[table as usize].range::<[u8], _>((Bound::Included(from), Bound::Unbounded)) {
        if visit(key, value)? == Scan::Stop {
            break;
        }
    }
    Ok(())
}

macro_rules! read_tables {
    ($type:ident, $field:tt) => {
        impl Read for $type<'_> {
            fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, Error> {
                Ok(get(&self.$field, table, key))
            }
            fn at_or_below(&self, table: Table, key: &[u8]) -> Result<Option<Row<'_>>, Error> {
                Ok(at_or_below(&self.$field, table, key))
            }
            fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
                scan(&self.$field, table, from, visit)
            }
            fn len(&self, table: Table) -> Result<u64, Error> {
                Ok(self.$field[table as usize].len() as u64)
            }
        }
    };
}

read_tables!(Reader, 0);
read_tables!(Writer, tables);

impl Writer<'_> {
    fn set(&mut self, table: Table, key: &[u8], value: Option<Vec<u8>>) {
        let rows = &mut self.tables[table as usize];
        let old = match value {
            Some(value) => rows.insert(key.to_vec(), value),
            None => rows.remove(key),
        };
        self.undo.push((table, key.to_vec(), old));
    }
}

impl Write for Writer<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.set(table, key, Some(value.to_vec()));
        Ok(())
    }

    fn insert(&mut self, table: Table, key: &[u8], value: &[u8], existing: &mut Vec<u8>) -> Result<bool, Error> {
        if let Some(held) = get(&self.tables, table, key) {
            existing.clear();
            existing.extend_from_slice(held);
            return Ok(false);
        }
        self.put(table, key, value)?;
        Ok(true)
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), Error> {
        self.set(table, key, None);
        Ok(())
    }

    fn delete_nth(&mut self, table: Table, position: u64) -> Result<(), Error> {
        let position = usize::try_from(position).unwrap_or(usize::MAX);
        if let Some(key) = self.tables[table as usize].keys().nth(position).cloned() {
            self.set(table, &key, None);
        }
        Ok(())
    }

    fn clear(&mut self, table: Table) -> Result<(), Error> {
        let keys: Vec<Vec<u8>> = self.tables[table as usize].keys().cloned().collect();
        for key in keys {
            self.set(table, &key, None);
        }
        Ok(())
    }

    fn commit(mut self) -> Result<(), Error> {
        self.undo.clear();
        Ok(())
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        for (table, key, old) in self.undo.drain(..).rev() {
            let rows = &mut self.tables[table as usize];
            match old {
                Some(old) => rows.insert(key, old),
                None => rows.remove(&key),
            };
        }
    }
}
