//! Readers that follow a writer, across segments, in and out of the cache.

use std::path::Path;
use std::sync::Arc;

use cfs_journal::{Files, Journal, Options, RealFiles, read};
use cfs_model::Lsn;
use cfs_shipper_core::batch::{Batch, ChainHash};
use proptest::prelude::*;

use crate::disk::Disk;
use crate::history::{DIR, history, open, read_all, segment_path, stream};

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Invariant 3: whatever the sizes of segments, groups, cache and reads, every reader gets the same batches.
    #[test]
    fn readers_get_what_was_appended(
        sizes in proptest::collection::vec((1u32..5, 0usize..300), 1..30),
        group in 1usize..6,
        segment_bytes in 200u64..4000,
        tail_cache_bytes in prop_oneof![Just(0usize), 0usize..3000],
        max_bytes in 1usize..3000,
        lag in 0usize..12,
        restart in any::<bool>(),
    ) {
        let disk = Disk::new();
        let batches = history(stream(1), &sizes);
        let options = Options { segment_bytes, tail_cache_bytes, prepare_ahead: false };
        let open = || Journal::open(disk.files(), Path::new(DIR), options.clone()).unwrap().0;
        let mut journal = open();
        let mut writer = journal.writer(stream(1)).unwrap();
        let mut reader = journal.reader(stream(1), Lsn::ZERO).unwrap();
        prop_assert!(reader.next(max_bytes).unwrap().is_empty());
        let mut read: Vec<Batch> = Vec::new();
        for (i, group) in batches.chunks(group).enumerate() {
            let position = writer.append(group).unwrap();
            prop_assert_eq!(position.chain, group.last().unwrap().chain_after());
            if i % (lag + 1) == lag {
                let got = reader.next(max_bytes).unwrap();
                let bytes: usize = got.iter().map(|b| b.bytes().len()).sum();
                prop_assert!(!got.is_empty() && (got.len() == 1 || bytes <= max_bytes));
                read.extend(got);
            }
            if restart && i == 2 {
                drop((writer, reader, journal));
                journal = open();
                writer = journal.writer(stream(1)).unwrap();
                let after = read.last().map(|b| b.header().last_lsn()).unwrap_or_default();
                reader = journal.reader(stream(1), after).unwrap();
            }
        }
        loop {
            let got = reader.next(max_bytes).unwrap();
            if got.is_empty() {
                break;
            }
            read.extend(got);
        }
        prop_assert!(read == batches);
        boundaries(&journal, &batches);
        drop((writer, reader, journal));
        prop_assert!(read_all(&open(), stream(1)).0 == batches);
    }
}

/// Every end of a batch is a boundary with its chain, and nothing else is.
fn boundaries(journal: &Journal, batches: &[Batch]) {
    let mut chain = ChainHash::start(stream(1));
    assert_eq!(journal.chain_at(stream(1), Lsn::ZERO).unwrap(), Some(chain));
    for batch in batches {
        let header = batch.header();
        assert_eq!(header.chain, chain);
        for lsn in header.first_lsn.0..header.last_lsn().0 {
            assert_eq!(journal.chain_at(stream(1), Lsn(lsn)).unwrap(), None);
            assert!(matches!(journal.reader(stream(1), Lsn(lsn)), Err(read::Error::NotBoundary { .. })));
        }
        chain = batch.chain_after();
        assert_eq!(journal.chain_at(stream(1), header.last_lsn()).unwrap(), Some(chain));
        let next = journal.reader(stream(1), header.last_lsn()).unwrap().next(1).unwrap();
        assert_eq!(
            next.first().map(|b| b.header().first_lsn).unwrap_or(header.last_lsn().next()),
            header.last_lsn().next()
        );
    }
    let end = journal.position(stream(1)).unwrap().durable;
    assert_eq!(journal.chain_at(stream(1), end.next()).unwrap(), None);
    assert!(matches!(journal.reader(stream(1), end.next()), Err(read::Error::Beyond { .. })));
    assert!(matches!(journal.reader(stream(7), Lsn::ZERO), Err(read::Error::UnknownStream(_))));
}

/// A reader sees batches only once they are durable, on real files, with the writer on another thread.
#[test]
fn a_reader_on_another_thread_follows_over_many_segments() {
    let temp = tempfile::tempdir().unwrap();
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let options = Options { segment_bytes: 4000, tail_cache_bytes: 1000, prepare_ahead: true };
    let (journal, recovered) = Journal::open(files, &temp.path().join("a/b"), options).unwrap();
    assert!(recovered.is_empty());
    let batches = history(stream(1), &[(2, 150); 120]);
    let mut writer = journal.writer(stream(1)).unwrap();
    let mut reader = journal.reader(stream(1), Lsn::ZERO).unwrap();
    let (count, watch) = (batches.len(), journal.clone());
    let following = std::thread::spawn(move || {
        let mut read = Vec::new();
        while read.len() < count {
            let got = reader.next(2000).unwrap();
            if let Some(last) = got.last() {
                assert!(last.header().last_lsn() <= watch.position(stream(1)).unwrap().durable);
            }
            read.extend(got);
            std::thread::yield_now();
        }
        read
    });
    for group in batches.chunks(2) {
        writer.append(group).unwrap();
    }
    assert!(following.join().unwrap() == batches);
    let usage = journal.usage();
    assert!(usage.segments > 5 && usage.streams[0].durable == Lsn(240), "{usage:?}");
}

#[test]
fn a_segment_that_was_truncated_under_a_running_journal_is_damage() {
    let disk = Disk::new();
    let batches = history(stream(1), &[(1, 100); 3]);
    let journal = open(&disk.files(), Path::new(DIR), 1 << 20);
    journal.writer(stream(1)).unwrap().append(&batches).unwrap();
    let path = segment_path(Path::new(DIR), stream(1), 1);
    let bytes = disk.contents(&path);
    disk.put(&path, &bytes[..bytes.len() - 1]);
    let (read, error) = read_all(&journal, stream(1));
    assert_eq!(read, batches[..2]);
    assert!(matches!(error, Some(read::Error::Damaged(_))), "{error:?}");
}

/// Only durable bytes are handed out, and files are the owner's alone.
#[test]
fn directories_and_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("journal");
    let journal = open(&(Arc::new(RealFiles) as Arc<dyn Files>), &dir, 1 << 20);
    journal.writer(stream(1)).unwrap().append(&history(stream(1), &[(1, 1)])).unwrap();
    let path = segment_path(&dir, stream(1), 1);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(path.parent().unwrap()), mode(&path)), (0o700, 0o700, 0o600));
}
