//! What a backend does with the tables.

use crate::table::{Error, Table, Usage};

/// What to do after a row of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    More,
    Stop,
}

/// A key and its value.
pub(crate) type Row<'a> = (&'a [u8], &'a [u8]);

/// Called with each row of a scan.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<Scan, Error> + 'a;

/// A consistent view of all tables.
pub trait Read {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, Error>;
    /// The row with the greatest key at or below `key`.
    fn at_or_below(&self, table: Table, key: &[u8]) -> Result<Option<Row<'_>>, Error>;
    /// Visits rows in order from the first key at or above `from`.
    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error>;
    /// Number of rows.
    fn len(&self, table: Table) -> Result<u64, Error>;

    /// Visits rows whose key starts with `prefix`.
    fn scan_prefix(&self, table: Table, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        self.scan(table, prefix, &mut |key, value| {
            if key.starts_with(prefix) { visit(key, value) } else { Ok(Scan::Stop) }
        })
    }
}

/// A transaction: its own changes are seen by its reads; dropped without [`Write::commit`], it leaves no trace.
pub trait Write: Read {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Error>;
    /// Inserts a row and answers true, or copies the value that the key already has to `existing` and answers false.
    fn insert(&mut self, table: Table, key: &[u8], value: &[u8], existing: &mut Vec<u8>) -> Result<bool, Error>;
    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), Error>;
    /// Deletes the row before which there are `position` others, wherever its key belongs.
    fn delete_nth(&mut self, table: Table, position: u64) -> Result<(), Error>;
    /// Removes every row.
    fn clear(&mut self, table: Table) -> Result<(), Error>;
    fn commit(self) -> Result<(), Error>;
}

/// What a transaction may change, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Entries, or rows.
    pub rows: usize,
    /// Bytes of these.
    pub bytes: usize,
}

/// Where tables are kept.
pub trait Backend: Send + Sync + 'static {
    type Reader<'a>: Read
    where
        Self: 'a;
    type Writer<'a>: Write
    where
        Self: 'a;

    fn read(&self) -> Result<Self::Reader<'_>, Error>;
    /// Begins a transaction of about this size; waits for the one before to end.
    fn write(&self, size: Size) -> Result<Self::Writer<'_>, Error>;
    /// Returns when everything committed survives a power cut.
    fn sync(&self) -> Result<(), Error>;
    fn usage(&self) -> Result<Usage, Error>;
}
