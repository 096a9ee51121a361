//! Segments written ahead: overwriting zeros that are on disk already makes a sync about twice as fast as growing a
//! file. One thread makes them; appends never wait for it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::files::{File, Files};
use crate::journal::Options;
use crate::segment::UNFINISHED;
use crate::stream::{Prepared, Stream};

/// The first segment of a stream, if segments are prepared; each further one is twice as large, so that a small
/// stream takes little space.
const FIRST_SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// Zeros written at a time; each piece is synced, so that an append's own sync never waits for much of it.
const STEP_BYTES: usize = 1024 * 1024;
/// Nothing is prepared unless the file system has this many times its size free.
const SPARE: u64 = 4;
/// Requests that may wait (invariant 10); one that finds no room is made again later.
const MAX_REQUESTS: usize = 64;

/// How large the segment may grow that holds `bytes` now.
pub(crate) fn limit_of(options: &Options, bytes: u64) -> u64 {
    if !options.prepare_ahead {
        return options.segment_bytes;
    }
    let mut limit = FIRST_SEGMENT_BYTES;
    while limit < bytes && limit < options.segment_bytes {
        limit = limit.saturating_mul(2);
    }
    limit.min(options.segment_bytes)
}

/// How large the segment may grow that follows one with `limit`.
pub(crate) fn limit_after(options: &Options, limit: u64) -> u64 {
    limit.saturating_mul(2).min(options.segment_bytes)
}

/// Asks for a file of `bytes` zeros for `stream`.
pub(crate) struct Request {
    pub(crate) stream: Arc<Stream>,
    pub(crate) bytes: u64,
}

/// The thread that writes ahead. Ends when dropped, and the drop waits for that.
pub(crate) struct Preparer {
    requests: Option<SyncSender<Request>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    pub(crate) fn start(files: Arc<dyn Files>) -> io::Result<Self> {
        let (requests, incoming) = sync_channel::<Request>(MAX_REQUESTS);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let run = move || {
            for request in incoming {
                let path = request.stream.dir.join(format!("next{UNFINISHED}"));
                // Without it the next segment grows as it is written; the same disk error, if it is one, meets the
                // writer, whose business it is.
                if let Ok(Some(file)) = zeros(&*files, &request.stream.dir, &path, request.bytes, &stopped) {
                    request.stream.state().prepared = Some(Prepared { path, file, bytes: request.bytes });
                }
            }
        };
        let thread = std::thread::Builder::new().name("journal-prepare".to_owned()).spawn(run)?;
        Ok(Self { requests: Some(requests), stop, thread: Some(thread) })
    }

    /// Whether the request was taken; never waits.
    pub(crate) fn ask(&self, request: Request) -> bool {
        self.requests.as_ref().is_some_and(|requests| requests.try_send(request).is_ok())
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and has left nothing but an unfinished file.
            let _panicked = thread.join();
        }
    }
}

/// Makes a durable file of zeros; `None` if space is short or the journal is being closed.
fn zeros(
    files: &dyn Files,
    dir: &Path,
    path: &Path,
    bytes: u64,
    stop: &AtomicBool,
) -> io::Result<Option<Arc<dyn File>>> {
    if files.free_bytes(dir)? < bytes.saturating_mul(SPARE) {
        return Ok(None);
    }
    let file = files.create(path)?;
    let filled = fill(files, dir, &*file, bytes, stop);
    match filled {
        Ok(true) => Ok(Some(file)),
        other => {
            files.remove(path)?;
            other.map(|_| None)
        }
    }
}

fn fill(files: &dyn Files, dir: &Path, file: &dyn File, bytes: u64, stop: &AtomicBool) -> io::Result<bool> {
    let zeros = vec![0; STEP_BYTES];
    let mut done = 0;
    while done < bytes {
        let step = (bytes - done).min(STEP_BYTES as u64);
        if stop.load(Ordering::Relaxed) || files.free_bytes(dir)? < bytes - done {
            return Ok(false);
        }
        file.write_all_at(&zeros[..step as usize], done)?;
        file.sync_data()?;
        done += step;
    }
    Ok(true)
}
