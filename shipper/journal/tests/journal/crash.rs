//! Power cuts between any two file operations (invariants 3, 4, 6).

use std::path::Path;

use cfs_journal::{Journal, Options};
use cfs_shipper_core::batch::Batch;

use crate::disk::{Disk, Fault};
use crate::history::{DIR, groups, history, options, read_all, stream};

const SEGMENT_BYTES: u64 = 900;
const GROUPS: [usize; 7] = [1, 3, 1, 1, 4, 1, 2];

fn batches() -> Vec<Batch> {
    let sizes = [
        (1, 10),
        (2, 60),
        (3, 5),
        (1, 0),
        (1, 200),
        (4, 20),
        (1, 9),
        (2, 2),
        (1, 1900),
        (3, 30),
        (1, 1),
        (2, 40),
        (1, 3),
    ];
    history(stream(1), &sizes)
}

/// Appends what is not there yet, group by group, until something fails; returns how many batches were acknowledged.
fn append_rest(disk: &Disk, batches: &[Batch], options: Options) -> usize {
    let Ok((journal, _)) = Journal::open(disk.files(), Path::new(DIR), options) else {
        return 0;
    };
    let Ok(mut writer) = journal.writer(stream(1)) else {
        return 0;
    };
    let durable = writer.position().durable;
    let mut done = batches.iter().take_while(|b| b.header().last_lsn() <= durable).count();
    let mut start = 0;
    for group in groups(batches, &GROUPS) {
        let end = start + group.len();
        if end > done {
            if writer.append(&group[done.saturating_sub(start)..]).is_err() {
                break;
            }
            done = end;
        }
        start = end;
    }
    done
}

/// After a crash: everything acknowledged is there, and nothing else than what was appended.
fn check(disk: &Disk, batches: &[Batch], acknowledged: usize, options: Options, context: &str) {
    let (journal, _) = Journal::open(disk.files(), Path::new(DIR), options)
        .unwrap_or_else(|e| panic!("{context}: a crash must not look like damage: {e}"));
    let (read, error) =
        if journal.position(stream(1)).is_some() { read_all(&journal, stream(1)) } else { (Vec::new(), None) };
    assert!(error.is_none(), "{context}: {error:?}");
    assert!(read.len() >= acknowledged, "{context}: {} of {acknowledged} acknowledged batches", read.len());
    assert_eq!(read, batches[..read.len()], "{context}");
    let durable = journal.position(stream(1)).map(|p| p.durable).unwrap_or_default();
    assert_eq!(durable, read.last().map(|b| b.header().last_lsn()).unwrap_or_default(), "{context}");
}

#[test]
fn a_crash_at_any_operation_loses_nothing_acknowledged() {
    let batches = batches();
    let clean = Disk::new();
    assert_eq!(append_rest(&clean, &batches, options(SEGMENT_BYTES)), batches.len());
    let renames = (1..=clean.operations()).filter(|n| clean.operation_name(*n) == "rename").count();
    assert!(renames >= 4, "the history must cross segments");
    for n in 1..=clean.operations() {
        for seed in 0..32 {
            let disk = Disk::new();
            disk.fail(n, Fault::Crash);
            let acknowledged = append_rest(&disk, &batches, options(SEGMENT_BYTES));
            disk.crash(seed);
            let context = format!("crash at operation {n} ({}), seed {seed}", clean.operation_name(n));
            check(&disk, &batches, acknowledged, options(SEGMENT_BYTES), &context);
            // Then it goes on as if nothing had been, and survives another crash.
            assert_eq!(append_rest(&disk, &batches, options(SEGMENT_BYTES)), batches.len(), "{context}");
            disk.crash(seed + 1);
            check(&disk, &batches, batches.len(), options(SEGMENT_BYTES), &context);
        }
    }
}

#[test]
fn a_crash_during_recovery_changes_nothing_either() {
    let batches = batches();
    for n in 1..60 {
        for again in 1..8 {
            let disk = Disk::new();
            disk.fail(n, Fault::Crash);
            let acknowledged = append_rest(&disk, &batches, options(SEGMENT_BYTES));
            disk.crash(n * 31 + again);
            disk.fail(again, Fault::Crash);
            let second = append_rest(&disk, &batches, options(SEGMENT_BYTES));
            disk.crash(n * 17 + again);
            let context = format!("crash at operation {n}, then at {again} of the restart");
            check(&disk, &batches, acknowledged.max(second), options(SEGMENT_BYTES), &context);
        }
    }
}

/// Invariant 6: what a killed process left in memory alone is made durable before it is reported.
#[test]
fn a_power_cut_after_a_restart_takes_back_nothing_reported() {
    let batches = batches();
    for n in 1..60 {
        let disk = Disk::new();
        disk.fail(n, Fault::Crash);
        append_rest(&disk, &batches, options(SEGMENT_BYTES));
        disk.kill();
        let reported = {
            let (journal, _) = Journal::open(disk.files(), Path::new(DIR), options(SEGMENT_BYTES)).unwrap();
            journal.position(stream(1)).map(|p| p.durable).unwrap_or_default()
        };
        let held = batches.iter().take_while(|b| b.header().last_lsn() <= reported).count();
        for seed in 0..3 {
            let disk = disk.copy();
            disk.crash(4 * seed);
            check(&disk, &batches, held, options(SEGMENT_BYTES), &format!("killed at operation {n}, then seed {seed}"));
        }
    }
}

/// The preparing thread mixes its operations in; where is up to chance.
#[test]
fn a_crash_with_segments_written_ahead_loses_nothing_acknowledged() {
    let batches = batches();
    let options = Options { prepare_ahead: true, ..options(SEGMENT_BYTES) };
    for n in 1..70 {
        for seed in 0..4 {
            let disk = Disk::new();
            disk.fail(n, Fault::Crash);
            let acknowledged = append_rest(&disk, &batches, options.clone());
            disk.crash(seed);
            check(&disk, &batches, acknowledged, options.clone(), &format!("crash at operation {n}, seed {seed}"));
        }
    }
}
