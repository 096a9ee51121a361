//! Damage on purpose, and its repair from a store that is sound.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::stream::*;
use crate::backend::{Backend, Read, Scan, Size, Write};
use crate::digest::bucket_of;
use crate::memory::Memory;
use crate::repair::Error;
use crate::table::Table;
use crate::verify::{Content, Place};
use crate::{Engine, MemoryStore, Store};

/// A tree with every kind of register, and two streams that fought over some of them.
fn written(store: &dyn Store, clock: u64, more: bool) -> Stream {
    let mut stream = Stream::new(stream_id(1, 1));
    let mut other = Stream::new(stream_id(2, 1));
    let none = store.position().applied;
    let batch = stream.batch(1, clock, &none, &[make_root(), mkdir(1, "d", 2), create(2, "f", 3, 0o640)]);
    store.apply(&[batch]).unwrap();
    // Its writer had not seen the other's.
    let lost = other.batch(1, clock + 1000, &none, &[create(2, "f", 30, 0o600), set_xattr(3, "user.a", "other")]);
    let ops = [
        link(1, "g", 3),
        link(1, "h", 3),
        symlink(1, "s", 4, "d/f"),
        write(3, 77, "where it is"),
        set_xattr(3, "user.a", "1"),
        set_xattr(3, "user.b", "2"),
        create(1, "gone", 5, 0),
        unlink(1, "gone", 5, true),
    ];
    let batch = stream.batch(1, clock + 100, &store.position().applied, &ops);
    store.apply(&[batch]).unwrap();
    store.apply(&[lost]).unwrap();
    if more {
        let batch = stream.batch(1, clock + 5000, &store.position().applied, &[write(3, 99, "elsewhere")]);
        store.apply(&[batch]).unwrap();
    }
    stream
}

/// Copies the registers of an inode part by part.
fn repair(from: &dyn Store, to: &dyn Store, inode: u64, max_bytes: usize) -> u64 {
    let (mut changed, mut at) = (0, bytes::Bytes::new());
    loop {
        let part = from.read_registers(inode, &at, max_bytes).unwrap();
        changed += to.repair(inode, &at, &part).unwrap().changed;
        match part.next {
            Some(next) => at = next,
            None => return changed,
        }
    }
}

/// Every row that a repair of one inode can mend.
fn rows(store: &Engine<Memory>, inode: u64) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    rows_of(store, inode, &[Table::Inodes, Table::Dentries, Table::Xattrs])
}

fn rows_of(store: &Engine<Memory>, inode: u64, of: &[Table]) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let tables = store.backend().read().unwrap();
    let mut out = Vec::new();
    for table in of.iter().copied() {
        tables
            .scan_prefix(table, &inode.to_be_bytes(), &mut |key, row| {
                out.push((table, key.to_vec(), row.to_vec()));
                Ok(Scan::More)
            })
            .unwrap();
    }
    out
}

fn put(store: &Engine<Memory>, table: Table, key: &[u8], row: &[u8]) {
    let mut tables = store.backend().write(Size { rows: 1, bytes: 0 }).unwrap();
    tables.put(table, key, row).unwrap();
    tables.commit().unwrap();
}

fn is_sound(store: &dyn Store) -> bool {
    store.verify(10).unwrap().is_sound() && !store.structure(10).unwrap().is_damaged()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Invariant 5: whichever byte of whichever value is changed, it is found, it leads to its inode, and a repair makes
    /// the store equal to its sound twin, also when that is ahead.
    #[test]
    fn any_changed_byte_is_found_located_and_repaired(
        which in any::<prop::sample::Index>(),
        byte in any::<prop::sample::Index>(),
        mask in 1u8..,
        part in prop_oneof![Just(1usize), Just(1 << 20)],
        ahead: bool,
    ) {
        let (sound, damaged) = (MemoryStore::new(), MemoryStore::new());
        written(&sound, 100, ahead);
        written(&damaged, 100, false);
        let all: Vec<_> = (0..6).flat_map(|inode| rows(&damaged, inode).into_iter().map(move |row| (inode, row))).collect();
        let (inode, (table, key, row)) = &all[which.index(all.len())];
        let mut wrong = row.clone();
        wrong[byte.index(row.len())] ^= mask;
        put(&damaged, *table, key, &wrong);

        prop_assert!(!is_sound(&damaged), "not found: {table} {key:?} {row:?} is {wrong:?}");
        let verified = damaged.verify(10).unwrap();
        if !verified.wrong.is_empty() {
            prop_assert_eq!(&verified.wrong, &[bucket_of(*inode)]);
            let at = |store: &dyn Store| store.contents(bucket_of(*inode), &[Place::default()]).unwrap().places.remove(0);
            if let (false, Content::Inodes(ours), Content::Inodes(theirs)) = (ahead, at(&damaged), at(&sound)) {
                // One that is gone may be listed by one of the two alone.
                let here = ours.iter().filter(|one| !theirs.contains(one));
                let there = theirs.iter().filter(|one| !ours.contains(one));
                let differing: BTreeSet<u64> = here.chain(there).map(|one| one.0).collect();
                prop_assert_eq!(differing, BTreeSet::from([*inode]));
            }
        }
        prop_assert!(repair(&sound, &damaged, *inode, part) > 0);
        if ahead {
            prop_assert!(!damaged.position().comparable, "it holds what it has not applied yet");
            catch_up(&sound, &damaged);
        }
        damaged.settle_bucket(bucket_of(*inode)).unwrap();
        let told = damaged.digest_history();
        prop_assert!(told.iter().all(|(at, root)| *at != damaged.position().applied || *root == damaged.digest().root));
        prop_assert!(is_sound(&damaged), "{:?} {:?}", damaged.verify(10), damaged.structure(10));
        prop_assert_eq!(damaged.digest(), sound.digest());
        prop_assert_eq!(damaged.position(), sound.position());
        prop_assert_eq!(damaged.lost(None, 100).unwrap(), sound.lost(None, 100).unwrap());
        for inode in 0..6 {
            prop_assert_eq!(damaged.inode(inode).unwrap(), sound.inode(inode).unwrap());
            prop_assert_eq!(damaged.paths(inode, 10).unwrap(), sound.paths(inode, 10).unwrap());
        }
        prop_assert_eq!(repair(&sound, &damaged, *inode, part), 0, "once more changes nothing");
    }
}

/// Applies the last batch of [`written`] to the store that lacks it.
fn catch_up(sound: &dyn Store, damaged: &dyn Store) {
    let again = MemoryStore::new();
    let mut stream = written(&again, 100, false);
    let batch = stream.batch(1, 100 + 5000, &again.position().applied, &[write(3, 99, "elsewhere")]);
    damaged.apply(&[batch]).unwrap();
    assert_eq!(damaged.position().applied, sound.position().applied);
}

/// A single flipped byte leaves the digest kept as it is: it was right.
#[test]
fn the_digest_that_was_right_stays() {
    let (sound, damaged) = (MemoryStore::new(), MemoryStore::new());
    written(&sound, 100, false);
    written(&damaged, 100, false);
    let (table, key, mut row) = rows(&damaged, 3).remove(0);
    row[20] ^= 1;
    put(&damaged, table, &key, &row);
    assert_eq!(damaged.verify(1).unwrap().wrong, [0]);
    assert!(repair(&sound, &damaged, 3, 1 << 20) > 0);
    assert!(is_sound(&damaged), "without settling");
    assert_eq!(damaged.digest(), sound.digest());
    assert!(!damaged.settle_bucket(0).unwrap());
}

#[test]
fn a_part_that_is_older_foreign_or_broken_changes_nothing() {
    let (sound, damaged) = (MemoryStore::new(), MemoryStore::new());
    written(&sound, 100, false);
    written(&damaged, 100, true);
    let before = damaged.digest();
    let part = sound.read_registers(3, &[], 1 << 20).unwrap();
    assert!(matches!(damaged.repair(3, &[], &part), Err(Error::Behind { .. })));
    let part = damaged.read_registers(3, &[], 1 << 20).unwrap();
    assert!(matches!(damaged.repair(4, &[], &part), Err(Error::Damaged(_))));
    for at in 0..part.bytes.len() {
        let mut bytes = part.bytes.to_vec();
        bytes[at] ^= 1;
        let broken = crate::repair::Part { bytes: bytes.into(), ..part.clone() };
        assert!(matches!(damaged.repair(3, &[], &broken), Err(Error::Damaged(_))), "byte {at}");
    }
    assert_eq!(damaged.digest(), before);
    assert!(is_sound(&damaged));
}

/// A wrong value that the digest counts in: each store verifies, and their digests differ until it is repaired.
#[test]
fn damage_that_the_digest_counts_in_goes_with_the_repair() {
    let (sound, damaged) = (MemoryStore::new(), MemoryStore::new());
    written(&sound, 100, false);
    written(&damaged, 100, false);
    let (table, key, mut row) = rows(&damaged, 4).remove(0);
    let at = row.windows(3).position(|window| window == b"d/f").unwrap();
    row[at] = b'e';
    put(&damaged, table, &key, &row);
    assert!(damaged.settle_bucket(0).unwrap());
    assert!(is_sound(&damaged));
    assert_ne!(damaged.digest(), sound.digest());
    assert_eq!(repair(&sound, &damaged, 4, 1 << 20), 1);
    assert!(is_sound(&damaged));
    assert_eq!(damaged.digest(), sound.digest());
    assert!(damaged.position().comparable);
}

/// Both inodes of a row that stands under a number with other bits.
fn moved(key: &[u8], bit: usize) -> (u64, u64, Vec<u8>) {
    let mut wrong = key.to_vec();
    wrong[bit / 8] ^= 1 << (bit % 8);
    let number = |key: &[u8]| u64::from_be_bytes(key[..8].try_into().unwrap());
    (number(key), number(&wrong), wrong)
}

/// A row of each kind under another number: the ghost goes by the word of the sound store, which has nothing there, and the
/// row comes back where it was.
#[test]
fn a_row_under_another_number_goes_and_comes_back() {
    let sound = MemoryStore::new();
    written(&sound, 100, false);
    let all: Vec<_> = (0..6).flat_map(|inode| rows(&sound, inode)).collect();
    for (table, key, row) in &all {
        for bit in 0..64 {
            let (inode, ghost, wrong) = moved(key, bit);
            let damaged = MemoryStore::new();
            written(&damaged, 100, false);
            let mut tables = damaged.backend().write(Size { rows: 2, bytes: 0 }).unwrap();
            tables.delete(*table, key).unwrap();
            tables.put(*table, &wrong, row).unwrap();
            tables.commit().unwrap();
            assert!(!is_sound(&damaged), "{table} {key:?} bit {bit}");
            for number in [inode.min(ghost), inode.max(ghost)] {
                assert!(repair(&sound, &damaged, number, 1 << 20) > 0, "{number} {table} {key:?} bit {bit}");
            }
            assert!(is_sound(&damaged), "{table} {key:?} bit {bit}: {:?}", damaged.structure(10));
            assert_eq!(damaged.digest(), sound.digest());
            for inode in (0..6).chain([ghost]) {
                assert_eq!(damaged.inode(inode).unwrap(), sound.inode(inode).unwrap());
                assert_eq!(damaged.paths(inode, 10).unwrap(), sound.paths(inode, 10).unwrap());
            }
        }
    }
}

/// The same in a store's file. Where the row stands out of order it is taken out first, and no inode but those two is touched.
#[test]
fn a_number_changed_in_the_file_is_repaired() {
    let place = tempfile::tempdir().unwrap();
    let fill = |store: &dyn Store| {
        let mut stream = written(store, 100, false);
        let files: Vec<_> = (0..40).map(|n| create(2, &format!("file-{n}"), 100 + 3 * n, 0o600)).collect();
        let batch = stream.batch(1, 9000, &store.position().applied, &files);
        store.apply(&[batch]).unwrap();
    };
    let sound = MemoryStore::new();
    fill(&sound);
    let options = crate::lmdb::Options::new(place.path());
    let store = crate::HeedStore::open(&options).unwrap();
    fill(&store);
    store.sync().unwrap();
    drop(store);
    let path = place.path().join("data.mdb");
    let whole = std::fs::read(&path).unwrap();
    let (mut repaired, mut taken_out) = (0, 0);
    let all = [1, 2, 3, 103, 160, 217].into_iter().flat_map(|inode| rows(&sound, inode));
    let all = all.chain(rows_of(&sound, 3, &[Table::Links]));
    // Of each kind of row some, and each bit of the number.
    let all: Vec<_> = all.enumerate().filter(|(at, (table, ..))| *table != Table::Dentries || at % 16 == 0).collect();
    for ((_, (table, key, row)), bit) in all.iter().flat_map(|row| (0..64).map(move |bit| (row, bit))) {
        let (inode, ..) = moved(key, bit);
        let node = [&key[..], &row[..]].concat();
        let (_, ghost, wrong) = moved(key, bit);
        let mut bytes = whole.clone();
        let places: Vec<usize> = (0..bytes.len() - node.len()).filter(|at| bytes[*at..].starts_with(&node)).collect();
        assert!(!places.is_empty(), "{table} {key:?}");
        for at in places {
            bytes[at..at + wrong.len()].copy_from_slice(&wrong);
        }
        std::fs::write(&path, &bytes).unwrap();
        let damaged = crate::HeedStore::open(&options).unwrap();
        let verified = damaged.verify(10).unwrap();
        assert!(!is_sound(&damaged), "{inode} bit {bit}");
        let mut numbers = vec![ghost, inode];
        if verified.misplaced > 0 {
            assert!(!verified.astray.is_empty(), "{inode} bit {bit}");
            let taken = damaged.take_out_misplaced(4).unwrap().expect("some");
            assert!(taken.len() == 1 && verified.astray.contains(&taken[0]), "{taken:?} {verified:?}");
            numbers.extend(taken);
            taken_out += 1;
        }
        assert_eq!(damaged.verify(10).unwrap().misplaced, 0, "{inode} bit {bit}");
        let before = differing(&sound, &damaged);
        assert!(before.is_subset(&numbers.iter().copied().collect()), "{before:?} {numbers:?}");
        for number in numbers {
            repair(&sound, &damaged, number, 1 << 20);
        }
        assert!(is_sound(&damaged), "{inode} bit {bit}: {:?} {:?}", damaged.verify(10), damaged.structure(10));
        assert_eq!(damaged.digest(), sound.digest());
        repaired += 1;
    }
    assert!(repaired == 64 * all.len() && taken_out > 0, "{repaired} and {taken_out}");
}

/// Inodes in which two stores differ.
fn differing(one: &dyn Store, other: &dyn Store) -> BTreeSet<u64> {
    let mut out = BTreeSet::new();
    for bucket in 0..crate::digest::BUCKETS as u16 {
        let at = |store: &dyn Store| match store.contents(bucket, &[Place::default()]).unwrap().places.remove(0) {
            Content::Inodes(inodes) => inodes.into_iter().collect::<BTreeSet<_>>(),
            Content::Children(_) => panic!("too many to list"),
        };
        out.extend(at(one).symmetric_difference(&at(other)).map(|(inode, _)| *inode));
    }
    out
}
