//! Tables on disk, in LMDB.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{CommitOrAbort, DatabaseStat, Env, EnvFlags, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithoutTls};

use crate::backend::{Backend, Read, Row, Scan, Size, Visit, Write};
use crate::table::{Error, Table, Usage};

type Rows = heed::Database<'static, Bytes, Bytes>;

/// The format that this version writes, and the only one it reads.
pub const FORMAT: u32 = 1;
const FORMAT_KEY: &[u8] = b"format";
/// More threads than ever read at once.
const MAX_READERS: u32 = 512;
/// LMDB's table of readers: a line of 64 bytes for each, and a head.
const LOCK_FILE_BYTES: u64 = 40 * 1024;
/// Room that a transaction finds beyond what is in use, at most.
const MAX_MARGIN_BYTES: u64 = 256 * 1024 * 1024;
/// Changed pages are copied. An entry at a place of its own changes a page of inodes, one of entries, and some above;
/// and the copies of the transaction before are not free yet.
const MARGIN_BYTES_PER_ROW: u64 = 2 * 4 * 4096;
/// A file system with less than this has no space left for a transaction.
const MIN_FREE_BYTES: u64 = 1024 * 1024;

/// Where and how large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Directory of the store; made with mode 0700 when it does not exist. Never on a network file system.
    pub path: PathBuf,
    /// What the store may grow to, rounded to pages. It is address space, not disk: sized once and generously.
    pub map_bytes: u64,
}

impl Options {
    /// 1 TiB.
    pub const DEFAULT_MAP_BYTES: u64 = 1 << 40;

    /// A store at `path` with the default map.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), map_bytes: Self::DEFAULT_MAP_BYTES }
    }
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made or read.
    #[error("the metadata store's directory {path} is not usable: {source}")]
    Directory {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// This process has it open already.
    #[error("the metadata store in {0} is open already in this process")]
    Open(PathBuf),
    /// It was written by another version, or by something else.
    #[error(
        "the metadata store in {path} has format {found}, this version reads {FORMAT}: run the version that wrote it, \
         or move the directory away and rebuild this site's store from a peer"
    )]
    Format {
        /// Which directory.
        path: PathBuf,
        /// The number it holds; 0 when it holds none.
        found: u32,
    },
    /// Its content cannot be read.
    #[error(transparent)]
    Tables(#[from] Error),
}

impl From<heed::Error> for Error {
    fn from(error: heed::Error) -> Self {
        match error {
            heed::Error::Io(e) if e.kind() == ErrorKind::StorageFull => Self::NoSpace,
            heed::Error::Io(e) => Self::Io(e),
            heed::Error::Mdb(MdbError::MapFull) => Self::MapFull { used: 0, map: 0 },
            other => Self::Database(other.to_string()),
        }
    }
}

/// An LMDB environment with one database for each table.
#[derive(Debug)]
pub struct Lmdb {
    env: Env<WithoutTls>,
    tables: [Rows; Table::ALL.len()],
    map_bytes: u64,
}

/// Opens the environment: here the compiler's guarantees end.
///
/// A map is memory that others could change under our feet, so this is sound only while nobody else writes the files.
/// The directory has mode 0700 and belongs to the shipper; LMDB's own lock file keeps its processes apart, and `heed`
/// refuses a second open within one. The flags are not the ones that give up integrity: `NO_META_SYNC` still writes
/// pages before the meta page that names them, so a power cut takes the last transactions and never corrupts (and the
/// journal has them); `NO_READ_AHEAD` changes performance only. `WRITE_MAP`, `NO_SYNC` and `NO_LOCK` are not used.
#[allow(unsafe_code)]
fn open_env(path: &Path, map_bytes: usize) -> Result<Env<WithoutTls>, heed::Error> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_bytes).max_dbs(Table::ALL.len() as u32).max_readers(MAX_READERS);
    // SAFETY: see above.
    unsafe {
        options.flags(EnvFlags::NO_META_SYNC | EnvFlags::NO_READ_AHEAD);
        options.open(path)
    }
}

/// Makes LMDB's lock file in full. LMDB would make it sparse and write it through a map: on a full disk the first reader
/// on a new page of it would be killed. Never touches the file of a store that is open, whose locks that would drop.
fn reserve_lock_file(path: &Path) -> std::io::Result<()> {
    let path = path.join("lock.mdb");
    if fs::metadata(&path).is_ok_and(|meta| meta.len() >= LOCK_FILE_BYTES) {
        return Ok(());
    }
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Ok(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, LOCK_FILE_BYTES)?)
}

impl Lmdb {
    pub(crate) fn open(options: &Options) -> Result<Self, OpenError> {
        let path = &options.path;
        let directory = |source| OpenError::Directory { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(directory)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(directory)?;
        reserve_lock_file(path).map_err(directory)?;
        let page = 64 * 1024;
        let map_bytes = options.map_bytes.max(page).next_multiple_of(page);
        let env = open_env(path, usize::try_from(map_bytes).unwrap_or(usize::MAX & !0xffff)).map_err(|e| match e {
            heed::Error::EnvAlreadyOpened => OpenError::Open(path.clone()),
            heed::Error::Mdb(MdbError::Invalid | MdbError::VersionMismatch) => {
                OpenError::Format { path: path.clone(), found: 0 }
            }
            e => OpenError::Tables(e.into()),
        })?;
        check_format(&env, path)?;
        let txn = env.write_txn().map_err(Error::from)?;
        let tables = env
            .create_databases_and_commit(txn, |opener, txn| {
                let mut out = Vec::with_capacity(Table::ALL.len());
                for table in Table::ALL {
                    out.push(opener.create_database::<Bytes, Bytes>(txn, Some(table.name()))?);
                }
                let meta = &out[Table::Meta as usize];
                if meta.get(txn, FORMAT_KEY)?.is_none() {
                    meta.put(txn, FORMAT_KEY, &FORMAT.to_le_bytes())?;
                }
                let out: Result<[_; Table::ALL.len()], _> = out.try_into();
                Ok::<_, heed::Error>(out.map_or(CommitOrAbort::Abort(()), CommitOrAbort::Commit))
            })
            .map_err(Error::from)?
            .commit()
            .ok_or_else(|| Error::Database("its tables could not be created".to_owned()))?;
        Ok(Self { env, tables, map_bytes })
    }

    /// Bytes of pages in use: what the tables hold, not what is free between them.
    fn used_bytes(&self, txn: &RoTxn<'_>) -> Result<u64, Error> {
        let bytes =
            |s: DatabaseStat| (s.branch_pages + s.leaf_pages + s.overflow_pages) as u64 * u64::from(s.page_size);
        let mut used = bytes(self.env.unnamed_database_stat());
        for table in &self.tables {
            used += bytes(table.stat(txn)?);
        }
        Ok(used)
    }

    /// Refuses a transaction that might not fit, before it begins.
    fn check_room(&self, txn: &RoTxn<'_>, size: Size) -> Result<(), Error> {
        let need = size.rows as u64 * MARGIN_BYTES_PER_ROW + 2 * size.bytes as u64;
        let margin = need.max(self.map_bytes / 64).min(MAX_MARGIN_BYTES).min(self.map_bytes / 2);
        let page = u64::from(self.env.unnamed_database_stat().page_size);
        let reached = (self.env.info().last_page_number as u64 + 1) * page;
        if reached + margin <= self.map_bytes {
            return Ok(());
        }
        let used = self.used_bytes(txn)?;
        if used + margin <= self.map_bytes { Ok(()) } else { Err(Error::MapFull { used, map: self.map_bytes }) }
    }

    /// LMDB calls a write that was cut short an I/O error, also when it was for want of space.
    fn explain_io(&self, error: Error) -> Error {
        let is_full = || {
            let stat = rustix::fs::statvfs(self.env.path());
            stat.is_ok_and(|s| s.f_bavail.saturating_mul(s.f_frsize) < MIN_FREE_BYTES)
        };
        match error {
            Error::Io(_) if is_full() => Error::NoSpace,
            other => other,
        }
    }
}

fn check_format(env: &Env<WithoutTls>, path: &Path) -> Result<(), OpenError> {
    let found = read_format(env).map_err(Error::from)?;
    match found {
        Some(FORMAT) | None => Ok(()),
        Some(found) => Err(OpenError::Format { path: path.to_path_buf(), found }),
    }
}

/// The format number; `None` in a new environment, 0 in one that something else made.
fn read_format(env: &Env<WithoutTls>) -> Result<Option<u32>, heed::Error> {
    let is_new = env.unnamed_database_stat().entries == 0;
    let txn = env.read_txn()?;
    let opened = env.open_databases_and_commit(txn, |opener, txn| {
        let meta = opener.open_database::<Bytes, Bytes>(txn, Some(Table::Meta.name()))?;
        Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(meta))
    })?;
    let Some(Some(meta)) = opened.commit() else {
        return Ok(if is_new { None } else { Some(0) });
    };
    let txn = env.read_txn()?;
    let number = meta.get(&txn, FORMAT_KEY)?.and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    Ok(Some(number.unwrap_or(0)))
}

/// A read transaction.
pub struct Reader<'a> {
    txn: RoTxn<'a, WithoutTls>,
    tables: &'a [Rows],
}

/// A write transaction.
pub struct Writer<'a> {
    txn: RwTxn<'a>,
    tables: &'a [Rows],
    store: &'a Lmdb,
}

impl Backend for Lmdb {
    type Reader<'a> = Reader<'a>;
    type Writer<'a> = Writer<'a>;

    fn read(&self) -> Result<Reader<'_>, Error> {
        Ok(Reader { txn: self.env.read_txn()?, tables: &self.tables })
    }

    fn write(&self, size: Size) -> Result<Writer<'_>, Error> {
        let txn = self.env.write_txn()?;
        self.check_room(&txn, size)?;
        Ok(Writer { txn, tables: &self.tables, store: self })
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(self.env.force_sync()?)
    }

    fn usage(&self) -> Result<Usage, Error> {
        let reader = self.read()?;
        Ok(Usage {
            map_bytes: self.map_bytes,
            used_bytes: self.used_bytes(&reader.txn)?,
            file_bytes: self.env.real_disk_size()?,
            inodes: reader.len(Table::Inodes)?,
            dentries: reader.len(Table::Dentries)?,
            lost: reader.len(Table::Lost)?,
        })
    }
}

macro_rules! read_tables {
    ($type:ident) => {
        impl Read for $type<'_> {
            fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, Error> {
                Ok(self.tables[table as usize].get(&self.txn, key)?)
            }
            fn at_or_below(&self, table: Table, key: &[u8]) -> Result<Option<Row<'_>>, Error> {
                Ok(self.tables[table as usize].get_lower_than_or_equal_to(&self.txn, key)?)
            }
            fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
                // LMDB knows no empty key.
                let start = if from.is_empty() { Bound::Unbounded } else { Bound::Included(from) };
                let range = (start, Bound::Unbounded);
                for row in self.tables[table as usize].range(&self.txn, &range)? {
                    let (key, value) = row?;
                    if visit(key, value)? == Scan::Stop {
                        break;
                    }
                }
                Ok(())
            }
            fn len(&self, table: Table) -> Result<u64, Error> {
                Ok(self.tables[table as usize].len(&self.txn)?)
            }
        }
    };
}

read_tables!(Reader);
read_tables!(Writer);

impl Writer<'_> {
    /// Says how full the map is when it is.
    fn explain(&self, error: heed::Error) -> Error {
        let map = self.store.map_bytes;
        match Error::from(error) {
            Error::MapFull { .. } => Error::MapFull { used: map, map },
            other => self.store.explain_io(other),
        }
    }
}

impl Write for Writer<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.tables[table as usize].put(&mut self.txn, key, value).map_err(|e| self.explain(e))
    }

    fn insert(&mut self, table: Table, key: &[u8], value: &[u8], existing: &mut Vec<u8>) -> Result<bool, Error> {
        match self.tables[table as usize].get_or_put(&mut self.txn, key, value) {
            Ok(None) => Ok(true),
            Ok(Some(held)) => {
                existing.clear();
                existing.extend_from_slice(held);
                Ok(false)
            }
            Err(e) => Err(self.explain(e)),
        }
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), Error> {
        self.tables[table as usize].delete(&mut self.txn, key).map(drop).map_err(|e| self.explain(e))
    }

    /// LMDB's cursor deletes where it stands, and compares no keys; the compiler cannot know that nothing points to the row.
    #[allow(unsafe_code)]
    fn delete_nth(&mut self, table: Table, position: u64) -> Result<(), Error> {
        let mut rows = self.tables[table as usize].iter_mut(&mut self.txn)?;
        for _ in 0..=position {
            if rows.next().transpose()?.is_none() {
                return Ok(());
            }
        }
        // SAFETY: no key and no value that was read is kept.
        unsafe { rows.del_current() }?;
        Ok(())
    }

    fn clear(&mut self, table: Table) -> Result<(), Error> {
        self.tables[table as usize].clear(&mut self.txn).map_err(|e| self.explain(e))
    }

    fn commit(self) -> Result<(), Error> {
        let Self { txn, store, .. } = self;
        txn.commit().map_err(|e| store.explain_io(e.into()))
    }
}
