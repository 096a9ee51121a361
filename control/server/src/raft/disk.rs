//! Log and state on disk: LMDB, written by one thread in the order of the calls.
//!
//! Every value is JSON behind a byte for its format and a checksum, because LMDB has none. A write has been synced to
//! disk when its call returns; writes that queue up while one is synced share the next sync. Once a write has failed, all
//! later ones fail too: what the disk holds then is unknown until the process starts anew.

use std::fs::{self, File};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, RoTxn, RwTxn, WithoutTls};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use super::files::{Error as FilesError, at};
use super::value::{VALUE_FORMAT, check, decode, encode};

/// Address space, not memory: log and state take some megabytes.
const MAP_BYTES: usize = 256 * 1024 * 1024;
/// Threads that read at the same time, at most.
const MAX_READERS: u32 = 64;
/// Writes that wait; more wait in their callers.
const QUEUE: usize = 64;
/// The file with everything in it.
pub(super) const DATA: &str = "data.mdb";
/// Says that the environment was made in full.
const MADE: &str = "made";

type Table = Database<'static, Bytes, Bytes>;

/// What went wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Failure(Arc<str>);

impl Failure {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into().into())
    }
}

impl From<heed::Error> for Failure {
    fn from(error: heed::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// The two tables.
#[derive(Debug, Clone)]
struct Tables {
    env: Env<WithoutTls>,
    log: Table,
    values: Table,
}

/// A handle; the files are closed with the last one.
#[derive(Debug, Clone)]
pub struct Disk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tables: Tables,
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    writer: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Without senders the thread ends after what is queued, and the files may be opened again after that.
        drop(self.jobs.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Disk {
    /// Makes an empty one in the directory. Blocks.
    pub(super) fn create(dir: &Path) -> Result<Self, FilesError> {
        let disk = Self::start(dir, open_env(dir).map_err(|e| damaged(dir, e))?)?;
        let tables = &disk.inner.tables;
        let mut txn = tables.env.write_txn().map_err(|e| damaged(dir, e))?;
        tables.values.put(&mut txn, MADE.as_bytes(), &encode(&VALUE_FORMAT)?).map_err(|e| damaged(dir, e))?;
        txn.commit().map_err(|e| damaged(dir, e))?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(at("write", dir))?;
        Ok(disk)
    }

    /// Opens what the directory holds, and reads all of it to see that it is sound. Blocks.
    pub(super) fn open(dir: &Path) -> Result<Self, FilesError> {
        let data = dir.join(DATA);
        let length = fs::metadata(&data).map(|meta| meta.len()).unwrap_or(0);
        if length == 0 {
            let reason = format!("{DATA} is missing or empty");
            return Err(FilesError::Damaged { path: dir.to_owned(), reason });
        }
        let env = open_env(dir).map_err(|e| damaged(dir, e))?;
        // Reading a mapped page behind the end of the file would kill the process.
        let page = u64::from(env.unnamed_database_stat().page_size);
        let end = (env.info().last_page_number as u64 + 1) * page;
        let resize = |bytes| {
            fs::OpenOptions::new()
                .write(true)
                .open(&data)
                .and_then(|file| file.set_len(bytes))
                .map_err(at("write", &data))
        };
        if end > MAP_BYTES as u64 {
            return Err(FilesError::Damaged {
                path: dir.to_owned(),
                reason: format!("{DATA} names pages beyond its end"),
            });
        }
        if end > length {
            resize(end)?;
        }
        let opened = Self::start(dir, env).and_then(|disk| disk.verify(dir).map(|()| disk));
        if opened.is_err() && end > length {
            resize(length)?;
        }
        opened
    }

    fn start(dir: &Path, env: Env<WithoutTls>) -> Result<Self, FilesError> {
        let txn = env.write_txn().map_err(|e| damaged(dir, e))?;
        let created = env.create_databases_and_commit(txn, |opener, txn| {
            let log = opener.create_database::<Bytes, Bytes>(txn, Some("log"))?;
            let values = opener.create_database::<Bytes, Bytes>(txn, Some("values"))?;
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit((log, values)))
        });
        let committed = created.map_err(|e| damaged(dir, e))?.commit();
        let Some((log, values)) = committed else {
            return Err(FilesError::Damaged { path: dir.to_owned(), reason: "it has no tables".to_owned() });
        };
        let tables = Tables { env, log, values };
        let (jobs, queue) = mpsc::channel(QUEUE);
        let of_writer = tables.clone();
        let writer =
            std::thread::Builder::new().name("raft-disk".to_owned()).spawn(move || write_all(&of_writer, queue));
        let writer = writer.map_err(at("start the thread that writes to", dir))?;
        Ok(Self { inner: Arc::new(Inner { tables, jobs: Some(jobs), writer: Some(writer) }) })
    }

    fn verify(&self, dir: &Path) -> Result<(), FilesError> {
        let broken = |error: Failure| FilesError::Damaged { path: dir.to_owned(), reason: error.to_string() };
        let tables = &self.inner.tables;
        let txn = tables.env.read_txn().map_err(|e| damaged(dir, e))?;
        let reader = Reader { txn: &txn, tables };
        match reader.value::<u8>(MADE).map_err(broken)? {
            Some(VALUE_FORMAT) => {}
            Some(found) => return Err(FilesError::Newer { path: dir.join(DATA), found: found.into() }),
            None => return Err(broken(Failure::new("it was not made in full, or its content is lost"))),
        }
        for row in tables.values.iter(&txn).map_err(|e| damaged(dir, e))? {
            let (name, bytes) = row.map_err(|e| damaged(dir, e))?;
            check(bytes).map_err(|e| broken(Failure::new(format!("{}: {e}", String::from_utf8_lossy(name)))))?;
        }
        let mut before = None;
        for row in tables.log.iter(&txn).map_err(|e| damaged(dir, e))? {
            let (key, bytes) = row.map_err(|e| damaged(dir, e))?;
            let index = index_of(key).map_err(broken)?;
            check(bytes).map_err(|e| broken(Failure::new(format!("entry {index}: {e}"))))?;
            if before.is_some_and(|before: u64| before + 1 != index) {
                return Err(broken(Failure::new(format!("entries before {index} are missing"))));
            }
            before = Some(index);
        }
        Ok(())
    }

    /// Reads. Blocks.
    pub(super) fn read_now<T>(&self, read: impl FnOnce(&Reader<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let tables = &self.inner.tables;
        let txn = tables.env.read_txn()?;
        read(&Reader { txn: &txn, tables })
    }

    /// Reads, on a thread that may block.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let disk = self.clone();
        let reading = tokio::task::spawn_blocking(move || disk.read_now(read));
        reading.await.map_err(|error| Failure::new(error.to_string()))?
    }

    /// Writes in one transaction; it is on disk on return. Calls take effect in the order in which they were made, also
    /// when a caller does not wait for the end.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Writer<'_, '_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let closed = || Failure::new("the files are closed");
        let (reply, done) = oneshot::channel();
        let task = Task { write: Some(write), result: None, reply };
        let jobs = self.inner.jobs.as_ref().ok_or_else(closed)?;
        jobs.send(Box::new(task)).await.map_err(|_| closed())?;
        done.await.map_err(|_| closed())?
    }
}

/// One write.
trait Job: Send {
    fn run(&mut self, writer: &mut Writer<'_, '_>) -> Result<(), Failure>;
    /// Tells the caller, after the commit.
    fn finish(self: Box<Self>, committed: Result<(), Failure>);
}

struct Task<T, F> {
    write: Option<F>,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, Failure>>,
}

impl<T: Send, F: FnOnce(&mut Writer<'_, '_>) -> Result<T, Failure> + Send> Job for Task<T, F> {
    fn run(&mut self, writer: &mut Writer<'_, '_>) -> Result<(), Failure> {
        if let Some(write) = self.write.take() {
            self.result = Some(write(writer)?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, committed: Result<(), Failure>) {
        let Self { result, reply, .. } = *self;
        let _ = reply.send(committed.and_then(|()| result.ok_or_else(|| Failure::new("it was not written"))));
    }
}

fn write_all(tables: &Tables, mut queue: mpsc::Receiver<Box<dyn Job>>) {
    let mut failed: Option<Failure> = None;
    let mut batch = Vec::new();
    while queue.blocking_recv_many(&mut batch, QUEUE) > 0 {
        let written = failed.clone().map_or_else(|| commit(tables, &mut batch), Err);
        if let (Err(error), None) = (&written, &failed) {
            tracing::error!(path = %tables.env.path().display(), %error, "cannot write the group's log or state");
            failed = Some(error.clone());
        }
        for job in batch.drain(..) {
            job.finish(written.clone());
        }
    }
}

fn commit(tables: &Tables, batch: &mut [Box<dyn Job>]) -> Result<(), Failure> {
    let mut txn = tables.env.write_txn()?;
    for job in batch {
        job.run(&mut Writer { txn: &mut txn, tables })?;
    }
    Ok(txn.commit()?)
}

/// A view of what is committed.
pub(super) struct Reader<'a> {
    txn: &'a RoTxn<'a, WithoutTls>,
    tables: &'a Tables,
}

impl Reader<'_> {
    /// A value by name.
    pub(super) fn value<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        let bytes = self.tables.values.get(self.txn, name.as_bytes())?;
        bytes.map(|bytes| decode(bytes).map_err(|e| Failure::new(format!("{name}: {e}")))).transpose()
    }

    /// Entries from `start` on and before `end`, in order, as many as fit into `most_bytes`, but one at least.
    pub(super) fn entries<T: DeserializeOwned>(
        &self,
        start: u64,
        end: u64,
        most_bytes: usize,
    ) -> Result<Vec<T>, Failure> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        if start >= end {
            return Ok(entries);
        }
        for row in self.tables.log.range(self.txn, &bounds(&start.to_be_bytes(), &end.to_be_bytes()))? {
            let (key, value) = row?;
            bytes += value.len();
            if bytes > most_bytes && !entries.is_empty() {
                break;
            }
            let entry =
                decode(value).map_err(|e| Failure::new(format!("entry {}: {e}", index_of(key).unwrap_or(0))))?;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The last entry.
    pub(super) fn last<T: DeserializeOwned>(&self) -> Result<Option<T>, Failure> {
        self.tables.log.last(self.txn)?.map(|(_, value)| decode(value)).transpose()
    }
}

/// A transaction that is under way.
pub(super) struct Writer<'a, 't> {
    txn: &'a mut RwTxn<'t>,
    tables: &'a Tables,
}

impl Writer<'_, '_> {
    /// A value by name, as this transaction has it.
    pub(super) fn value<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        self.tables.values.get(self.txn, name.as_bytes())?.map(decode).transpose()
    }

    /// Sets a value.
    pub(super) fn set<T: Serialize>(&mut self, name: &str, value: &T) -> Result<(), Failure> {
        Ok(self.tables.values.put(self.txn, name.as_bytes(), &encode(value)?)?)
    }

    /// Puts an entry at its place.
    pub(super) fn put<T: Serialize>(&mut self, index: u64, entry: &T) -> Result<(), Failure> {
        Ok(self.tables.log.put(self.txn, &index.to_be_bytes(), &encode(entry)?)?)
    }

    /// Removes entries from `start` on and before `end`.
    pub(super) fn remove(&mut self, start: u64, end: u64) -> Result<(), Failure> {
        if start < end {
            let range = (start.to_be_bytes(), end.to_be_bytes());
            self.tables.log.delete_range(self.txn, &bounds(&range.0, &range.1))?;
        }
        Ok(())
    }
}

fn bounds<'a>(start: &'a [u8], end: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (Bound::Included(start), Bound::Excluded(end))
}

fn index_of(key: &[u8]) -> Result<u64, Failure> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| Failure::new("an entry has no index"))
}

fn damaged(dir: &Path, error: heed::Error) -> FilesError {
    match error {
        heed::Error::Io(source) => FilesError::File { action: "open the log in", path: dir.to_owned(), source },
        other => FilesError::Damaged { path: PathBuf::from(dir), reason: other.to_string() },
    }
}

/// Opens the environment: the one place where the compiler's guarantees end.
///
/// A map is memory that others could change under our feet, so this is sound only while nobody else writes the files. The
/// directory has mode 0700 and is locked by [`super::files`]; `heed` refuses a second open within one process. Every
/// commit is synced: of the flags only `NO_READ_AHEAD` is used, which changes performance alone.
#[allow(unsafe_code)]
fn open_env(dir: &Path) -> Result<Env<WithoutTls>, heed::Error> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(MAP_BYTES).max_dbs(2).max_readers(MAX_READERS);
    // SAFETY: see above.
    unsafe {
        options.flags(EnvFlags::NO_READ_AHEAD);
        options.open(dir)
    }
}

impl From<Failure> for FilesError {
    fn from(error: Failure) -> Self {
        Self::Damaged { path: PathBuf::from(DATA), reason: error.to_string() }
    }
}
