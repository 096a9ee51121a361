//! Segments written ahead.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cfs_journal::{Files, Journal, Options, RealFiles};

use crate::history::{history, read_all, segment_path, stream};

fn options() -> Options {
    Options { segment_bytes: 8000, tail_cache_bytes: 0, prepare_ahead: true }
}

fn open(dir: &Path) -> (Journal, usize) {
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let (journal, recovered) = Journal::open(files, dir, options()).unwrap();
    (journal, recovered.len())
}

fn sizes(dir: &Path) -> Vec<(PathBuf, u64)> {
    let dir = segment_path(dir, stream(1), 1).parent().unwrap().to_owned();
    let mut out: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.path(), entry.metadata().unwrap().len()))
        .collect();
    out.sort();
    out
}

/// Invariants 3 and 4: zeros behind the last batch are a segment's normal end, and are cut when it is closed.
#[test]
fn a_prepared_segment_is_used_trimmed_and_recovered() {
    let temp = tempfile::tempdir().unwrap();
    let batches = history(stream(1), &[(1, 500); 24]);
    let (journal, _) = open(temp.path());
    let mut writer = journal.writer(stream(1)).unwrap();
    writer.append(&batches[..8]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while journal.usage().streams[0].prepared_bytes == 0 {
        assert!(Instant::now() < deadline, "half a segment is written, the next must be prepared");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(journal.usage().streams[0].prepared_bytes, 8000);
    for batch in &batches[8..16] {
        writer.append(std::slice::from_ref(batch)).unwrap();
    }
    let found = sizes(temp.path());
    let segments: Vec<_> = found.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "seg")).collect();
    assert_eq!(segments.len(), 2, "{found:?}");
    assert_eq!(segments[1].1, 8000, "written over the zeros: {found:?}");
    assert_eq!(read_all(&journal, stream(1)).0, batches[..16]);
    drop((writer, journal));

    let (journal, recovered) = open(temp.path());
    assert_eq!(recovered, 0, "zeros are no torn tail");
    assert!(sizes(temp.path()).iter().all(|(path, len)| *len < 8000 && path.extension().is_some_and(|e| e == "seg")));
    journal.writer(stream(1)).unwrap().append(&batches[16..]).unwrap();
    assert_eq!(read_all(&journal, stream(1)).0, batches);
}

/// A small stream must not take space that it does not need.
#[test]
fn a_small_stream_prepares_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let (journal, _) = Journal::open(files, temp.path(), Options::default()).unwrap();
    journal.writer(stream(1)).unwrap().append(&history(stream(1), &[(1, 500); 24])).unwrap();
    drop(journal);
    let found = sizes(temp.path());
    assert!(found.len() == 1 && found[0].1 < 64 * 1024, "{found:?}");
}
