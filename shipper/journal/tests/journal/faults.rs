//! Disks that fail: the error is told, nothing acknowledged is lost, and nothing is tried again (invariants 4, 6).

use std::io::ErrorKind;
use std::path::Path;

use cfs_journal::{Journal, open, write, writer};
use cfs_shipper_core::batch::Batch;

use crate::disk::{Disk, Fault};
use crate::history::{DIR, history, open, options, read_all, stream};

fn batches() -> Vec<Batch> {
    history(stream(1), &[(1, 200); 8])
}

#[test]
fn any_failed_operation_ends_the_writer_for_good() {
    let batches = batches();
    let clean = Disk::new();
    {
        let journal = open(&clean.files(), Path::new(DIR), 900);
        let mut writer = journal.writer(stream(1)).unwrap();
        for batch in &batches {
            writer.append(std::slice::from_ref(batch)).unwrap();
        }
    }
    for kind in [ErrorKind::StorageFull, ErrorKind::Other] {
        for n in 1..=clean.operations() {
            let disk = Disk::new();
            disk.fail(n, Fault::Error(kind));
            fail_at(&disk, &batches, kind, &format!("{kind} at operation {n}, {}", clean.operation_name(n)));
        }
    }
}

fn fail_at(disk: &Disk, batches: &[Batch], kind: ErrorKind, context: &str) {
    let journal = match Journal::open(disk.files(), Path::new(DIR), options(900)) {
        Ok((journal, _)) => journal,
        Err(e) => return assert!(matches!(e, open::Error::Io { .. }), "{context}: {e}"),
    };
    let mut writer = match journal.writer(stream(1)) {
        Ok(writer) => writer,
        Err(e) => return assert!(matches!(e, writer::Error::Io { .. }), "{context}: {e}"),
    };
    let mut acknowledged = 0;
    let error = loop {
        match writer.append(&batches[acknowledged..=acknowledged]) {
            Ok(position) => assert_eq!(journal.position(stream(1)), Some(position), "{context}"),
            Err(e) => break e,
        }
        acknowledged += 1;
    };
    assert!(matches!(error, write::Error::Fatal { .. }), "{context}: {error}");
    assert_eq!(error.is_full(), kind == ErrorKind::StorageFull, "{context}");
    let (read, failed) = read_all(&journal, stream(1));
    assert!(failed.is_none() && read == batches[..acknowledged], "{context}: readers still see what is durable");
    let again = writer.append(&batches[acknowledged..=acknowledged]);
    assert!(matches!(again, Err(write::Error::Failed(_))), "{context}: never again");
    drop(writer);
    assert!(matches!(journal.writer(stream(1)), Err(writer::Error::Failed(_))), "{context}");
    drop(journal);
    let journal = open(&disk.files(), Path::new(DIR), 900);
    let (read, failed) = read_all(&journal, stream(1));
    assert!(failed.is_none() && read.len() >= acknowledged && read == batches[..read.len()], "{context}");
    journal.writer(stream(1)).unwrap().append(&batches[read.len()..]).unwrap();
}

/// Invariant 3: what does not continue the stream never reaches the disk.
#[test]
fn what_does_not_fit_is_refused_and_nothing_is_written() {
    use write::Misfit;
    let batches = batches();
    let disk = Disk::new();
    let journal = open(&disk.files(), Path::new(DIR), 900);
    let mut writer = journal.writer(stream(1)).unwrap();
    writer.append(&batches[..2]).unwrap();
    let operations = disk.operations();
    let other_history = history(stream(1), &[(1, 201), (1, 200), (1, 200)]);
    let other_stream = history(stream(2), &[(1, 1)]);
    let mut refused = |batches: &[Batch], index| match writer.append(batches) {
        Err(write::Error::Refused { index: at, why, .. }) => {
            assert_eq!(at, index);
            why
        }
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(&batches[3..], 0), Misfit::Lsn(_)), "a gap");
    assert!(matches!(refused(&batches[1..], 0), Misfit::Lsn(_)), "an overlap");
    assert!(matches!(refused(&other_history[2..], 0), Misfit::Chain { .. }), "another history");
    assert!(matches!(refused(&other_stream, 0), Misfit::Stream(_)), "another stream");
    let gap = [batches[2].clone(), batches[4].clone()];
    assert!(matches!(refused(&gap, 1), Misfit::Lsn(_)), "a gap within");
    assert_eq!(disk.operations(), operations, "nothing was written");
    writer.append(&batches[2..]).unwrap();
    assert_eq!(read_all(&journal, stream(1)).0, batches);
}

#[test]
fn an_epoch_never_goes_back() {
    let disk = Disk::new();
    let journal = open(&disk.files(), Path::new(DIR), 1 << 20);
    let mut writer = journal.writer(stream(1)).unwrap();
    let batches = history(stream(1), &[(25, 0), (1, 0)]);
    writer.append(&batches[..1]).unwrap();
    let mut header = batches[1].header().clone();
    header.epoch = cfs_model::Epoch(0);
    let older = Batch::build(header, b"", &mut Vec::new()).unwrap();
    let refused = writer.append(&[older]);
    assert!(matches!(refused, Err(write::Error::Refused { why: write::Misfit::Epoch { .. }, .. })), "{refused:?}");
}

#[test]
fn one_process_and_one_writer_at_a_time() {
    let disk = Disk::new();
    let journal = open(&disk.files(), Path::new(DIR), 900);
    let second = Journal::open(disk.files(), Path::new(DIR), options(900));
    assert!(matches!(second, Err(open::Error::Locked(_))));
    let writer = journal.writer(stream(1)).unwrap();
    assert!(matches!(journal.writer(stream(1)), Err(writer::Error::Taken(_))));
    drop(writer);
    let writer = journal.writer(stream(1)).unwrap();
    drop(journal);
    assert!(Journal::open(disk.files(), Path::new(DIR), options(900)).is_err(), "the writer keeps the lock");
    drop(writer);
    assert!(Journal::open(disk.files(), Path::new(DIR), options(900)).is_ok());
}
