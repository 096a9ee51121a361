//! The format must not change unnoticed: a committed segment is reproduced byte for byte, and read back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cfs_journal::{Files, RealFiles};

use crate::history::{history, open, read_all, segment_path, stream};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/segment-v1.seg")
}

/// If this fails, the format has changed: give it a new number, document it, and add a golden file of that number.
/// `UPDATE_GOLDEN=1` writes the file anew.
#[test]
fn the_format_is_that_of_the_golden_file() {
    let temp = tempfile::tempdir().unwrap();
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let batches = history(stream(1), &[(1, 5), (3, 2), (1, 0), (2, 1)]);
    {
        let journal = open(&files, temp.path(), 1 << 20);
        let mut writer = journal.writer(stream(1)).unwrap();
        writer.append(&batches[..1]).unwrap();
        writer.append(&batches[1..]).unwrap();
    }
    let path = segment_path(temp.path(), stream(1), 1);
    let written = std::fs::read(&path).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden(), &written).unwrap();
    }
    let committed = std::fs::read(golden()).unwrap();
    assert!(written == committed, "the bytes written are not those of {}", golden().display());

    std::fs::write(&path, committed).unwrap();
    let journal = open(&files, temp.path(), 1 << 20);
    assert_eq!(read_all(&journal, stream(1)).0, batches);
}
