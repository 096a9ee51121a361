//! Removing segments from the front of a stream (invariants 3, 6): whatever crash comes in between, the journal opens, and
//! what it still holds is what was appended.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use cfs_journal::compare::{Outcome, compare};
use cfs_journal::dump::dump;
use cfs_journal::verify::verify;
use cfs_journal::{Files, Journal, Position, RealFiles, open, read, remove};
use cfs_model::{Epoch, Lsn};
use cfs_shipper_core::batch::{Batch, ChainHash};
use proptest::prelude::*;

use crate::disk::{Disk, Fault};
use crate::history::{DIR, history, open, options, segment_path, stream};

const SEGMENT_BYTES: u64 = 900;

fn batches() -> Vec<Batch> {
    history(stream(1), &[(2, 60), (1, 200), (3, 30), (1, 700), (2, 90), (4, 20), (1, 5), (2, 150), (1, 300), (2, 10)])
}

fn filled(disk: &Disk, batches: &[Batch]) -> Journal {
    let journal = open(&disk.files(), Path::new(DIR), SEGMENT_BYTES);
    let mut writer = journal.writer(stream(1)).unwrap();
    for batch in batches {
        writer.append(std::slice::from_ref(batch)).unwrap();
    }
    journal
}

fn end_of(batches: &[Batch]) -> Position {
    let last = batches.last().unwrap();
    let clock = last.header().first_clock + u64::from(last.header().count) - 1;
    Position { durable: last.header().last_lsn(), chain: last.chain_after(), epoch: last.header().epoch, clock }
}

/// Reads from the first LSN held; everything there must be what was appended.
fn held(journal: &Journal, batches: &[Batch], context: &str) -> Vec<Batch> {
    let first = journal.first(stream(1)).unwrap();
    let mut reader = journal.reader(stream(1), Lsn(first.0 - 1)).unwrap_or_else(|e| panic!("{context}: {e}"));
    let mut out = Vec::new();
    loop {
        let next = reader.next(500).unwrap_or_else(|e| panic!("{context}: {e}"));
        if next.is_empty() {
            break;
        }
        out.extend(next);
    }
    let expected: Vec<_> = batches.iter().filter(|b| b.header().first_lsn >= first).cloned().collect();
    assert_eq!(out, expected, "{context}");
    out
}

fn is_gone<T>(outcome: Result<T, read::Error>) -> bool {
    matches!(outcome, Err(read::Error::Gone { .. }))
}

/// Invariant 3: the chain at the first LSN kept is known, so that a peer that stands there can prove its history; below it
/// nobody is given anything else than a refusal.
#[test]
fn a_stream_that_begins_later_is_read_continued_and_refused_below() {
    let (disk, batches) = (Disk::new(), batches());
    let journal = filled(&disk, &batches);
    let segments = journal.segments(stream(1));
    assert!(segments.len() >= 5 && segments.last().unwrap().is_last);
    assert!(segments.windows(2).all(|w| w[0].last.next() == w[1].first && w[0].newest_clock <= w[1].newest_clock));
    let before = journal.usage();
    assert_eq!(before.bytes, segments.iter().map(|s| s.bytes).sum::<u64>());

    // One LSN short of the end of the second segment: only the first one goes.
    let removed = journal.remove_front(stream(1), Lsn(segments[1].last.0 - 1)).unwrap();
    assert_eq!((removed.segments, removed.bytes), (1, segments[0].bytes));
    assert_eq!(journal.remove_front(stream(1), segments[0].last).unwrap(), remove::Removed::default());
    let removed = journal.remove_front(stream(1), segments[2].last).unwrap();
    assert_eq!(removed.segments, 2);
    let kept = segments[2].last;
    assert_eq!(journal.first(stream(1)), Some(kept.next()));
    let boundary = batches.iter().find(|b| b.header().last_lsn() == kept).unwrap();
    assert_eq!(journal.chain_at(stream(1), kept).unwrap(), Some(boundary.chain_after()));
    assert_eq!(journal.chain_at(stream(1), segments[1].last).unwrap(), None);
    assert!(is_gone(journal.reader(stream(1), Lsn::ZERO)) && is_gone(journal.reader(stream(1), segments[1].last)));
    held(&journal, &batches, "after the removal");
    // Never the last one.
    journal.remove_front(stream(1), Lsn(u64::MAX)).unwrap();
    assert_eq!(journal.segments(stream(1)).len(), 1);
    drop(journal);

    let journal = open(&disk.files(), Path::new(DIR), SEGMENT_BYTES);
    assert_eq!(journal.position(stream(1)), Some(end_of(&batches)));
    held(&journal, &batches, "after a restart");
}

/// A reader in a segment that goes is told; one that is behind nothing removed goes on.
#[test]
fn readers_in_a_removed_segment_are_told_and_others_go_on() {
    let (disk, batches) = (Disk::new(), batches());
    let journal = filled(&disk, &batches);
    let segments = journal.segments(stream(1));
    let mut early = journal.reader(stream(1), Lsn::ZERO).unwrap();
    early.next(1).unwrap();
    let mut late = journal.reader(stream(1), segments[3].last).unwrap();
    let first = late.next(1).unwrap();
    journal.remove_front(stream(1), segments[3].last).unwrap();
    assert!(is_gone(early.next(1)));
    let mut rest = late.next(usize::MAX).unwrap();
    while let Ok(more) = late.next(usize::MAX)
        && !more.is_empty()
    {
        rest.extend(more);
    }
    let all: Vec<_> = first.into_iter().chain(rest).collect();
    let expected: Vec<_> = batches.iter().filter(|b| b.header().first_lsn > segments[3].last).cloned().collect();
    assert_eq!(all, expected);
}

/// Invariant 6: a power cut at any operation of a removal, with any part of what was not synced kept.
#[test]
fn a_crash_at_any_operation_of_a_removal_leaves_a_valid_journal() {
    let batches = batches();
    let clean = Disk::new();
    let journal = filled(&clean, &batches);
    let (ends, through) = (end_of(&batches), journal.segments(stream(1))[3].last);
    let before = clean.operations();
    journal.remove_front(stream(1), through).unwrap();
    let operations = clean.operations() - before;
    let names: BTreeSet<_> = (before + 1..=clean.operations()).map(|n| clean.operation_name(n)).collect();
    assert!(names.contains("rename") && names.contains("remove") && names.contains("sync_dir"), "{names:?}");
    drop(journal);
    for whole in [false, true] {
        for n in 1..=operations {
            for seed in 0..48 {
                let context = format!("everything: {whole}, crash at operation {n}, seed {seed}");
                let disk = Disk::new();
                let journal = filled(&disk, &batches);
                disk.fail(n, Fault::Crash);
                let outcome = match whole {
                    false => journal.remove_front(stream(1), through),
                    true => journal.begin_after(stream(1), ends),
                };
                // With `begin_after` more files go, so the last operations come after the crash.
                assert!(outcome.is_err() || whole, "{context}");
                drop(journal);
                disk.crash(seed);
                // A second one, in the middle of the recovery.
                disk.fail(1 + seed % 6, Fault::Crash);
                drop(Journal::open(disk.files(), Path::new(DIR), options(SEGMENT_BYTES)));
                disk.crash(seed * 7);
                let (journal, cut) = Journal::open(disk.files(), Path::new(DIR), options(SEGMENT_BYTES))
                    .unwrap_or_else(|e| panic!("{context}: {e}"));
                assert!(cut.is_empty(), "{context}");
                assert_eq!(journal.position(stream(1)), Some(ends), "{context}");
                let first = journal.first(stream(1)).unwrap();
                let expected = if whole { ends.durable.next() } else { through.next() };
                assert!(first == Lsn(1) || first == expected, "{context}: begins at {first}");
                held(&journal, &batches, &context);
                // No file of what has gone is left over.
                let files = disk.files().list(&Path::new(DIR).join("1-1")).unwrap();
                let segments = files.iter().filter(|name| name.to_str().unwrap().ends_with(".seg")).count();
                assert_eq!(segments, journal.segments(stream(1)).len(), "{context}");
                // It goes on: appended to, removed from again.
                let mut writer = journal.writer(stream(1)).unwrap();
                let more =
                    crate::history::next_batch(stream(1), batches.last(), 2, 30, cfs_shipper_core::codec::Codec::None);
                writer.append(std::slice::from_ref(&more)).unwrap();
                journal.remove_front(stream(1), more.header().last_lsn()).unwrap();
                let all: Vec<_> = batches.iter().cloned().chain([more]).collect();
                held(&journal, &all, &context);
            }
        }
    }
}

/// A failed operation leaves the stream as it was, or says that only a restart can tell.
#[test]
fn a_failed_operation_of_a_removal_is_told_and_loses_nothing() {
    let batches = batches();
    for n in 1..30 {
        let disk = Disk::new();
        let journal = filled(&disk, &batches);
        let through = journal.segments(stream(1))[3].last;
        disk.fail(n, Fault::Error(std::io::ErrorKind::StorageFull));
        match journal.remove_front(stream(1), through) {
            Ok(_) => assert!(n > 9, "operation {n} was passed over"),
            Err(e @ remove::Error::Refused { .. }) => {
                assert!(e.is_full());
                assert_eq!(journal.first(stream(1)), Some(Lsn(1)), "operation {n}");
                held(&journal, &batches, "refused");
                journal.remove_front(stream(1), through).unwrap();
            }
            Err(remove::Error::Left { .. } | remove::Error::Fatal { .. }) => {}
            Err(e) => panic!("operation {n}: {e}"),
        }
        drop(journal);
        disk.crash(n);
        let journal = open(&disk.files(), Path::new(DIR), SEGMENT_BYTES);
        held(&journal, &batches, &format!("operation {n} failed"));
    }
}

/// Invariant 6: a closed stream may give up all its segments, and its end is remembered.
#[test]
fn a_stream_without_segments_remembers_its_end() {
    let (disk, batches) = (Disk::new(), batches());
    let journal = filled(&disk, &batches);
    let writer = journal.writer(stream(1)).unwrap();
    assert!(matches!(journal.begin_after(stream(1), end_of(&batches)), Err(remove::Error::Written(_))));
    drop(writer);
    let mut other = end_of(&batches);
    other.chain = ChainHash([1; 16]);
    assert!(matches!(journal.begin_after(stream(1), other), Err(remove::Error::Contradicts { .. })));
    let mut earlier = end_of(&batches);
    earlier.durable = Lsn(3);
    assert!(matches!(journal.begin_after(stream(1), earlier), Err(remove::Error::Contradicts { .. })));
    let bytes = journal.usage().bytes;
    let removed = journal.begin_after(stream(1), end_of(&batches)).unwrap();
    assert_eq!((removed.bytes, journal.usage().bytes), (bytes, 0));
    drop(journal);
    let journal = open(&disk.files(), Path::new(DIR), SEGMENT_BYTES);
    assert_eq!(journal.position(stream(1)), Some(end_of(&batches)));
    assert_eq!(journal.chain_at(stream(1), end_of(&batches).durable).unwrap(), Some(end_of(&batches).chain));
    assert!(is_gone(journal.reader(stream(1), Lsn(1))));
}

/// Behind a snapshot a journal goes on at a position that it never held.
#[test]
fn a_stream_can_begin_behind_a_gap() {
    let all = batches();
    let (early, late) = all.split_at(6);
    for held_before in [0, 3] {
        let disk = Disk::new();
        let journal = if held_before > 0 {
            filled(&disk, &early[..held_before])
        } else {
            open(&disk.files(), Path::new(DIR), SEGMENT_BYTES)
        };
        journal.begin_after(stream(1), end_of(early)).unwrap();
        assert_eq!(journal.position(stream(1)), Some(end_of(early)));
        drop(journal);
        let journal = open(&disk.files(), Path::new(DIR), SEGMENT_BYTES);
        let mut writer = journal.writer(stream(1)).unwrap();
        assert!(writer.append(&early[..1]).is_err(), "what is before is refused");
        writer.append(late).unwrap();
        drop((writer, journal));
        let journal = open(&disk.files(), Path::new(DIR), SEGMENT_BYTES);
        assert_eq!(held(&journal, &all, "behind a gap"), late);
    }
}

/// A first segment that somebody else removed is missed, and so is a front that does not fit.
#[test]
fn a_missing_first_segment_is_damage() {
    let (disk, batches) = (Disk::new(), batches());
    let journal = filled(&disk, &batches);
    let segments = journal.segments(stream(1));
    drop(journal);
    let opened = |disk: &Disk| Journal::open(disk.files(), Path::new(DIR), options(SEGMENT_BYTES)).map(|_| ());
    let lost = disk.copy();
    lost.files().remove(&segment_path(Path::new(DIR), stream(1), 1)).unwrap();
    let error = opened(&lost).unwrap_err();
    assert!(
        matches!(&error, open::Error::Damaged(d) if d.lsn == segments[1].first && d.what.contains("missing")),
        "{error}"
    );

    let journal = open(&disk.files(), Path::new(DIR), SEGMENT_BYTES);
    journal.remove_front(stream(1), segments[1].last).unwrap();
    drop(journal);
    let front = Path::new(DIR).join("1-1").join("front");
    let bytes = disk.contents(&front);
    for at in 0..bytes.len() {
        let changed = disk.copy();
        let mut bytes = bytes.clone();
        bytes[at] ^= 4;
        changed.put(&front, &bytes);
        let error = opened(&changed).unwrap_err();
        assert!(matches!(&error, open::Error::Damaged(d) if d.segment == front), "{error}");
    }
    let lost = disk.copy();
    lost.files().remove(&segment_path(Path::new(DIR), stream(1), segments[2].first.0)).unwrap();
    assert!(matches!(opened(&lost), Err(open::Error::Damaged(_))));
}

/// `verify`, `dump` and `compare` know where a stream begins, also while segments go.
#[test]
fn checks_from_outside_know_where_a_stream_begins() {
    let temp = tempfile::tempdir().unwrap();
    let (a, b) = (temp.path().join("a"), temp.path().join("b"));
    let batches = batches();
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let write = |dir: &Path| {
        let journal = open(&files, dir, SEGMENT_BYTES);
        journal.writer(stream(1)).unwrap().append(&batches).unwrap();
        journal
    };
    let (journal, _other) = (write(&a), write(&b));
    let segments = journal.segments(stream(1));
    let mut entries = dump(&a, stream(1), Lsn(1)).unwrap();
    assert_eq!(entries.next().unwrap().unwrap().lsn, Lsn(1));
    journal.remove_front(stream(1), segments[2].last).unwrap();
    // It had the first segment open; the rest it reads from where the stream begins by now.
    let rest: Vec<_> = entries.map(|e| e.unwrap().lsn).collect();
    assert_eq!(rest.last(), Some(&end_of(&batches).durable));
    assert!(rest.iter().all(|lsn| *lsn <= segments[0].last || *lsn > segments[2].last));
    let first = segments[3].first;
    let report = verify(&a).unwrap();
    assert!(report.is_sound(), "{report:?}");
    let s = &report.streams[0];
    assert_eq!((s.begins_after, s.first, s.last), (segments[2].last, first, end_of(&batches).durable));
    let compared = compare(&a, &b).unwrap();
    assert_eq!((compared.streams[0].outcome.clone(), compared.streams[0].from), (Outcome::Same, first));
    journal.begin_after(stream(1), end_of(&batches)).unwrap();
    let report = verify(&a).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.streams[0].begins_after, report.streams[0].first), (end_of(&batches).durable, Lsn::ZERO));
    assert_eq!(report.streams[0].chain, end_of(&batches).chain);
    std::fs::write(a.join("1-1").join("front"), b"no front").unwrap();
    assert!(!verify(&a).unwrap().is_sound());
}

#[derive(Debug, Clone)]
enum Step {
    Append(u32, usize),
    Remove(u64),
    Retire,
    Restart,
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1u32..4, 0usize..400).prop_map(|(count, padding)| Step::Append(count, padding)),
        3 => (0u64..30).prop_map(Step::Remove),
        1 => Just(Step::Retire),
        1 => Just(Step::Restart),
        1 => any::<u64>().prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    /// Invariants 3 and 6: in whatever order appends, removals, restarts and power cuts come, nothing acknowledged and not
    /// removed is lost, nothing else appears, and neither end goes back.
    #[test]
    fn any_order_of_appends_removals_and_crashes(steps in proptest::collection::vec(step(), 1..40)) {
        let disk = Disk::new();
        let mut journal = open(&disk.files(), Path::new(DIR), SEGMENT_BYTES);
        drop(journal.writer(stream(1)).unwrap());
        let mut appended: Vec<Batch> = Vec::new();
        let mut first = Lsn(1);
        for step in steps {
            match step {
                Step::Append(count, padding) => {
                    let codec = cfs_shipper_core::codec::Codec::None;
                    let batch = crate::history::next_batch(stream(1), appended.last(), count, padding, codec);
                    journal.writer(stream(1)).unwrap().append(std::slice::from_ref(&batch)).unwrap();
                    appended.push(batch);
                }
                Step::Remove(back) => {
                    let end = journal.position(stream(1)).unwrap().durable;
                    let through = Lsn(end.0.saturating_sub(back));
                    journal.remove_front(stream(1), through).unwrap();
                    prop_assert!(journal.first(stream(1)).unwrap() <= through.next().max(first));
                }
                Step::Retire => {
                    let end = journal.position(stream(1)).unwrap();
                    journal.begin_after(stream(1), end).unwrap();
                }
                Step::Restart => {
                    drop(journal);
                    journal = open(&disk.files(), Path::new(DIR), SEGMENT_BYTES);
                }
                Step::Crash(seed) => {
                    drop(journal);
                    disk.crash(seed);
                    journal = open(&disk.files(), Path::new(DIR), SEGMENT_BYTES);
                }
            }
            let now = journal.first(stream(1)).unwrap();
            prop_assert!(now >= first, "the front went back");
            first = now;
            let end = appended.last().map_or(Lsn::ZERO, |b| b.header().last_lsn());
            prop_assert_eq!(journal.position(stream(1)).unwrap().durable, end);
            if let Some(last) = appended.last() {
                prop_assert_eq!(journal.position(stream(1)).unwrap().chain, last.chain_after());
                prop_assert!(journal.position(stream(1)).unwrap().epoch >= Epoch(1));
            }
            held(&journal, &appended, "after a step");
        }
    }
}
