//! The segment that is being written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cfs_model::Lsn;
use cfs_shipper_core::batch::Batch;

use crate::files::{File, Files};
use crate::segment::{HEADER_BYTES, MARK_BYTES, Mark, SegmentHeader, UNFINISHED};
use crate::stream::Prepared;
use crate::write::Error;

/// Bytes gathered in memory before they are handed to the file.
const GATHER_BYTES: usize = 1024 * 1024;

/// The segment that is being written.
pub(crate) struct Current {
    path: PathBuf,
    file: Arc<dyn File>,
    pub(crate) header: SegmentHeader,
    /// Where the next record goes.
    pub(crate) end: u64,
    /// Length of the file: more than `end` if zeros were written ahead.
    len: u64,
    /// It is closed before it grows past this.
    pub(crate) limit: u64,
    gathered: Vec<u8>,
}

fn fatal<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Fatal { doing, path: path.to_owned(), source }
}

impl Current {
    /// Goes on with a segment whose records end at `end`.
    pub(crate) fn resume(
        path: PathBuf,
        file: Arc<dyn File>,
        header: SegmentHeader,
        end: u64,
        len: u64,
        limit: u64,
    ) -> Self {
        Self { path, file, header, end, len, limit, gathered: Vec::new() }
    }

    /// Begins a segment in a file that has no segment's name yet. Its header is written with its first group.
    pub(crate) fn begin(
        files: &dyn Files,
        dir: &Path,
        prepared: Option<Prepared>,
        header: SegmentHeader,
        limit: u64,
    ) -> Result<Self, Error> {
        let (path, file, len) = match prepared {
            Some(prepared) => (prepared.path, prepared.file, prepared.bytes),
            None => {
                let path = dir.join(format!("new{UNFINISHED}"));
                let file = files.create(&path).map_err(fatal("make", &path))?;
                (path, file, 0)
            }
        };
        let mut gathered = Vec::new();
        header.encode(&mut gathered);
        Ok(Self { path, file, header, end: HEADER_BYTES as u64, len, limit, gathered })
    }

    /// How many of `batches` fit as one group.
    pub(crate) fn fitting(&self, batches: &[Batch]) -> usize {
        fitting(batches, self.end, self.limit)
    }

    /// Writes a mark, which says what is `durable`, and `group`.
    pub(crate) fn write_group(&mut self, group: &[Batch], durable: Lsn) -> Result<(), Error> {
        let mark = Mark { batches: group.len() as u32, durable };
        mark.encode(&self.header, self.end, &mut self.gathered);
        self.end += MARK_BYTES as u64;
        for batch in group {
            self.gathered.extend_from_slice(batch.bytes());
            self.end += batch.bytes().len() as u64;
            if self.gathered.len() >= GATHER_BYTES {
                self.flush()?;
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Error> {
        let at = self.end - self.gathered.len() as u64;
        self.file.write_all_at(&self.gathered, at).map_err(fatal("write", &self.path))?;
        self.gathered.clear();
        self.len = self.len.max(self.end);
        Ok(())
    }

    /// Length of the file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.len.max(self.end)
    }

    /// Makes durable what was written.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(fatal("sync", &self.path))
    }

    /// Gives the segment its name, durably.
    pub(crate) fn give_name(&mut self, files: &dyn Files, path: PathBuf) -> Result<(), Error> {
        files.rename(&self.path, &path).map_err(fatal("rename", &self.path))?;
        let dir = path.parent().unwrap_or(&path);
        files.sync_dir(dir).map_err(fatal("sync", dir))?;
        self.path = path;
        Ok(())
    }

    /// Cuts the zeros that were not needed. A crash before this is durable leaves them, and does no harm.
    pub(crate) fn close(&mut self) -> Result<(), Error> {
        if self.len > self.end {
            self.file.set_len(self.end).map_err(fatal("cut", &self.path))?;
            self.len = self.end;
        }
        Ok(())
    }

    /// Lets go of it for good; what was read of it recently is not kept in memory.
    pub(crate) fn rest(self) {
        self.file.will_rest();
    }
}

/// How many of `batches` fit, together with a mark, between `from` and `limit`.
pub(crate) fn fitting(batches: &[Batch], from: u64, limit: u64) -> usize {
    let mut end = from + MARK_BYTES as u64;
    let fits = |batch: &&Batch| {
        end += batch.bytes().len() as u64;
        end <= limit
    };
    batches.iter().take_while(fits).count()
}
