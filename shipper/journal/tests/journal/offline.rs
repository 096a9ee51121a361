//! Checks and dumps from outside.

use std::path::Path;
use std::sync::Arc;

use cfs_journal::compare::{Outcome, compare};
use cfs_journal::dump::{self, dump};
use cfs_journal::verify::verify;
use cfs_journal::{Files, Journal, RealFiles};
use cfs_model::{Epoch, Lsn};
use cfs_shipper_core::batch::Batch;
use cfs_shipper_core::codec::Codec;

use crate::history::{history, next_batch, open, operation, segment_path, stream};

fn write(dir: &Path, batches: &[Batch], segment_bytes: u64, group: usize) -> Journal {
    let journal = open(&(Arc::new(RealFiles) as Arc<dyn Files>), dir, segment_bytes);
    let mut writer = journal.writer(batches[0].header().stream).unwrap();
    for group in batches.chunks(group) {
        writer.append(group).unwrap();
    }
    journal
}

#[test]
fn verify_reports_what_is_there_also_of_a_journal_in_use() {
    let temp = tempfile::tempdir().unwrap();
    let batches = history(stream(1), &[(3, 50); 10]);
    let journal = write(temp.path(), &batches, 1000, 2);
    let report = verify(temp.path()).unwrap();
    assert!(report.in_use && report.is_sound());
    let s = &report.streams[0];
    assert_eq!((s.batches, s.entries, s.first, s.last), (10, 30, Lsn(1), Lsn(30)));
    assert_eq!(s.chain, batches[9].chain_after());
    assert_eq!(s.segments, journal.usage().segments);
    let epochs: Vec<_> = s.epochs.iter().map(|e| (e.epoch, e.first, e.last)).collect();
    assert_eq!(epochs, [(Epoch(1), Lsn(1), Lsn(21)), (Epoch(2), Lsn(22), Lsn(30))]);
    drop(journal);
    assert!(!verify(temp.path()).unwrap().in_use);
}

/// Invariant 3: damage is listed in every segment that has it, a torn tail is noted, and nothing is changed.
#[test]
fn verify_lists_damage_and_goes_on_behind_it() {
    let temp = tempfile::tempdir().unwrap();
    drop(write(temp.path(), &history(stream(1), &[(1, 100); 12]), 700, 1));
    let dir = segment_path(temp.path(), stream(1), 1).parent().unwrap().to_owned();
    let mut segments: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    segments.sort();
    assert!(segments.len() >= 4);
    let change = |path: &Path, at: usize| {
        let mut bytes = std::fs::read(path).unwrap();
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    change(&segments[0], 200);
    change(&segments[2], 20);
    let last = segments.last().unwrap();
    let mut bytes = std::fs::read(last).unwrap();
    bytes.extend_from_slice(b"torn");
    std::fs::write(last, &bytes).unwrap();
    let report = verify(temp.path()).unwrap();
    assert!(!report.is_sound());
    let s = &report.streams[0];
    let damaged: Vec<_> = s.damage.iter().map(|d| d.segment.clone()).collect();
    assert!(damaged.contains(&segments[0]) && damaged.contains(&segments[2]), "{:?}", s.damage);
    assert!(!damaged.contains(last) && s.last == Lsn(12));
    assert_eq!(s.torn.as_ref().map(|t| (t.cut_bytes, t.durable)), Some((4, Lsn(12))));
    assert_eq!(std::fs::read(last).unwrap(), bytes);
}

#[test]
fn compare_tells_the_same_the_longer_and_the_different() {
    let temp = tempfile::tempdir().unwrap();
    let (a, b, c) = (temp.path().join("a"), temp.path().join("b"), temp.path().join("c"));
    let batches = history(stream(1), &[(2, 40); 10]);
    // Segments and groups need not be the same, batches must be.
    drop(write(&a, &batches, 900, 1));
    drop(write(&b, &batches[..7], 2000, 3));
    drop(write(&b, &history(stream(2), &[(1, 1)]), 2000, 1));
    let mut other = batches[..3].to_vec();
    other.push(next_batch(stream(1), other.last(), 2, 41, Codec::None));
    drop(write(&c, &other, 2000, 2));

    let same = compare(&a, &b).unwrap();
    assert!(same.is_same());
    let s = &same.streams[0];
    assert_eq!((s.from, s.to, s.batches, s.left_last, s.right_last), (Lsn(1), Lsn(14), 7, Lsn(20), Lsn(14)));
    assert_eq!((same.only_left, same.only_right), (vec![], vec![stream(2)]));

    let differ = compare(&a, &c).unwrap();
    assert!(!differ.is_same());
    assert!(
        matches!(differ.streams[0].outcome, Outcome::Differ { lsn: Lsn(7), batch: 3, .. }),
        "{:?}",
        differ.streams[0].outcome
    );
}

#[test]
fn compare_does_not_take_a_damaged_copy_for_a_shorter_one() {
    let temp = tempfile::tempdir().unwrap();
    let (a, b) = (temp.path().join("a"), temp.path().join("b"));
    let batches = history(stream(1), &[(2, 40); 10]);
    drop(write(&a, &batches, 900, 1));
    drop(write(&b, &batches, 900, 1));
    let path = segment_path(&b, stream(1), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[300] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let comparison = compare(&a, &b).unwrap();
    assert!(!comparison.is_same());
    assert!(matches!(comparison.streams[0].outcome, Outcome::Damaged(_)));
}

#[test]
fn dump_yields_every_entry_from_any_lsn() {
    let temp = tempfile::tempdir().unwrap();
    let batches = history(stream(1), &[(3, 50); 10]);
    let _in_use = write(temp.path(), &batches[..5], 1000, 2);
    for from in 0..=16 {
        let entries: Vec<_> = dump(temp.path(), stream(1), Lsn(from)).unwrap().map(Result::unwrap).collect();
        let lsns: Vec<_> = entries.iter().map(|e| e.lsn.0).collect();
        assert_eq!(lsns, (from.max(1)..=15).collect::<Vec<_>>());
        for e in &entries {
            assert_eq!((e.op.clone(), e.seq, &e.producer[..]), (operation(e.lsn.0, 50), e.lsn.0, &b"producer"[..]));
            assert_eq!(e.stamp, e.batch.header.stamp((e.lsn.0 - e.batch.header.first_lsn.0) as u32));
        }
    }
}

/// What is written while a dump stands still, in the same segment and in later ones, is neither missed nor damage.
#[test]
fn dump_follows_a_running_journal() {
    let temp = tempfile::tempdir().unwrap();
    let batches = history(stream(1), &[(3, 50); 10]);
    let journal = write(temp.path(), &batches[..1], 1000, 1);
    let mut entries = dump(temp.path(), stream(1), Lsn(1)).unwrap();
    assert_eq!(entries.next().unwrap().unwrap().lsn, Lsn(1));
    let mut writer = journal.writer(stream(1)).unwrap();
    for batch in &batches[1..] {
        writer.append(std::slice::from_ref(batch)).unwrap();
    }
    assert!(journal.usage().segments > 2);
    let lsns: Vec<_> = entries.by_ref().map(|e| e.unwrap().lsn.0).collect();
    assert_eq!(lsns, (2..=30).collect::<Vec<_>>());
    assert!(entries.torn().is_none());
}

#[test]
fn dump_stops_at_damage_with_an_error() {
    let temp = tempfile::tempdir().unwrap();
    drop(write(temp.path(), &history(stream(1), &[(1, 100); 4]), 1 << 20, 1));
    let path = segment_path(temp.path(), stream(1), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[600] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let items: Vec<_> = dump(temp.path(), stream(1), Lsn(1)).unwrap().collect();
    assert!(matches!(items.last(), Some(Err(dump::Error::Damaged(_)))), "{:?}", items.last());
    assert!(items[..items.len() - 1].iter().all(Result::is_ok) && items.len() <= 3);
}
