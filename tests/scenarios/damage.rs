//! What a crash or a bad disk leaves in a journal.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cfs_shipper_core::batch::{Batch, MAGIC};

use crate::harness::Cluster;
use crate::tree::{at_site, expect_same, on_disk};

/// Every batch on a site's disk: its file and its bytes' place there, in the order of LSNs.
fn batches(cluster: &Cluster, site: &str) -> Vec<(PathBuf, Range<usize>)> {
    let mut found = Vec::new();
    for file in walkdir::WalkDir::new(cluster.path(site, "state/journal")).into_iter().map(Result::unwrap) {
        if !file.file_type().is_file() {
            continue;
        }
        let bytes = Bytes::from(fs::read(file.path()).unwrap());
        let mut at = 0;
        while let Some(start) = bytes[at..].windows(MAGIC.len()).position(|window| window == MAGIC).map(|n| n + at) {
            match Batch::decode(&bytes.slice(start..)) {
                Ok(batch) => {
                    at = start + batch.bytes().len();
                    found.push((batch.header().first_lsn, file.path().to_owned(), start..at));
                }
                Err(_) => at = start + 1,
            }
        }
    }
    found.sort_by_key(|(lsn, _, _)| *lsn);
    found.into_iter().map(|(_, file, range)| (file, range)).collect()
}

/// A tree that makes a handful of batches, imported in two parts so that there is more than one for certain.
fn cluster_with_batches(tree: &Path) -> Cluster {
    let cluster = Cluster::up();
    for part in 0..4 {
        let directory = tree.join(part.to_string());
        fs::create_dir_all(&directory).unwrap();
        (0..50).for_each(|file| fs::write(directory.join(file.to_string()), b"x").unwrap());
        cluster.import(tree).ok();
    }
    cluster.settle();
    cluster
}

/// Invariants 3 and 4: a torn tail is cut, reported and fetched back from the other site, at a replica and at the primary.
#[test]
fn a_torn_tail_is_cut_reported_and_healed() {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    let cluster = cluster_with_batches(&tree);
    for site in ["site-b", "site-a"] {
        cluster.stop(site);
        let (file, range) = batches(&cluster, site).pop().expect("there are batches");
        // As after a crash: the end of the last write never reached the disk.
        let torn = fs::OpenOptions::new().write(true).open(&file).unwrap();
        torn.set_len((range.end - range.len() / 2) as u64).unwrap();
        drop(torn);
        cluster.start(site);
        let log = cluster.log(site);
        assert!(log.lines().any(|line| line.contains("torn tail")), "{site} says nothing of the tail it cut:\n{log}");
        cluster.expect_identical();
    }
    expect_same(&on_disk(&tree), &at_site(&cluster, "site-b"));
    // Site A continues where it was, and nothing of it is lost or doubled.
    fs::write(tree.join("after"), b"x").unwrap();
    cluster.import(&tree).ok();
    cluster.expect_identical();
    expect_same(&on_disk(&tree), &at_site(&cluster, "site-a"));
    cluster.expect_same_journals();
}

/// Invariant 6: a journal that is damaged in the middle is never taken for a shorter one.
#[test]
fn damage_in_the_middle_is_refused_with_its_place() {
    let place = tempfile::tempdir().unwrap();
    let cluster = cluster_with_batches(&place.path().join("tree"));
    cluster.stop("site-b");
    let (file, range) = batches(&cluster, "site-b").into_iter().next().expect("there are batches");
    let sound = fs::read(&file).unwrap();
    let mut damaged = sound.clone();
    damaged[range.end - 1] ^= 0x10;
    fs::write(&file, &damaged).unwrap();

    let said = cluster.dev(&["start", "site-b"]).failed();
    let segment = file.file_name().unwrap().to_str().unwrap();
    for needed in [segment, &range.start.to_string()] {
        assert!(said.contains(needed), "the refusal does not name {needed}:\n{said}");
    }
    let verified =
        crate::harness::cfs(["journal", "verify", cluster.path("site-b", "state/journal").to_str().unwrap()]);
    assert!(verified.failed().contains(segment), "verify does not name the segment");
    assert_eq!(fs::read(&file).unwrap(), damaged, "the refused journal was changed");

    fs::write(&file, &sound).unwrap();
    cluster.start("site-b");
    cluster.expect_identical();
    cluster.expect_same_journals();
}
