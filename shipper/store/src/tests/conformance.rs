//! One suite, run on every implementation of [`Store`].

use bytes::Bytes;
use cfs_model::op::{InodeKind, Op};
use cfs_model::{Lsn, Vector, Version};
use cfs_shipper_core::batch::ChainHash;
use cfs_shipper_core::caps::MAX_PRODUCERS;
use cfs_shipper_core::merge::{Field, Register, effects};
use cfs_shipper_core::payload::{Builder, Entries};
use prost::Message;

use super::pair::{open, scratch_dir};
use super::stream::*;
use crate::apply::{Decoded, Error};
use crate::digest::bucket_of;
use crate::lost::{LostKey, LostValue};
use crate::snapshot::{self, Resume, Snapshot};
use crate::verify::{Content, FAN_OUT, MAX_LISTED, Place};
use crate::view::State;
use crate::{MemoryStore, Store};

/// A store with one stream that writes to it.
struct Fixture<'a> {
    store: &'a dyn Store,
    stream: Stream,
    clock: u64,
}

impl<'a> Fixture<'a> {
    fn new(store: &'a dyn Store) -> Self {
        let mut out = Self { store, stream: Stream::new(stream_id(1, 1)), clock: 100 };
        out.apply(&[make_root()]);
        out
    }

    fn batch(&mut self, ops: &[Op]) -> Decoded {
        self.clock += 100;
        self.stream.batch(1, self.clock, &self.store.position().applied, ops)
    }

    fn apply(&mut self, ops: &[Op]) -> crate::apply::Applied {
        let batch = self.batch(ops);
        self.store.apply(&[batch]).unwrap()
    }
}

fn inode(store: &dyn Store, number: u64) -> crate::view::InodeView {
    store.inode(number).unwrap().unwrap()
}

fn is_live(store: &dyn Store, number: u64) -> bool {
    matches!(store.inode(number).unwrap().map(|view| view.state), Some(State::Live { .. }))
}

fn shows_what_was_written(store: &dyn Store) {
    let mut f = Fixture::new(store);
    f.apply(&[
        mkdir(1, "d", 2),
        create(2, "f", 3, 0o640),
        link(1, "g", 3),
        symlink(1, "s", 4, "d/f"),
        write(3, 77, "where it is"),
        set_xattr(3, "user.b", "2"),
        set_xattr(3, "user.a", "1"),
    ]);
    let view = inode(store, 3);
    assert_eq!((view.mode, view.size, view.nlink), (Some(0o640), Some(77), 2));
    assert_eq!(view.mtime.map(|t| (t.seconds, t.nanos)), Some((-1, 999_999_999)));
    assert_eq!(view.extents.as_deref(), Some(&b"where it is"[..]));
    let xattrs: Vec<_> = view.xattrs.iter().map(|x| (&x.name[..], &x.value[..])).collect();
    assert_eq!(xattrs, [(&b"user.a"[..], &b"1"[..]), (&b"user.b"[..], &b"2"[..])]);
    assert_eq!(view.versions.len(), 5, "life, mode, size, mtime, extents");
    assert!(matches!(inode(store, 4).state, State::Live { target, .. } if target == b"d/f"));
    assert_eq!((inode(store, 1).nlink, inode(store, 2).nlink), (3, 2));
    assert_eq!(store.root().unwrap(), Some(1));
    assert_eq!(store.paths(3, 10).unwrap(), [&b"/d/f"[..], b"/g"]);
    assert_eq!(store.paths(3, 1).unwrap().len(), 1);
    assert_eq!(store.paths(1, 10).unwrap(), [b"/"]);
    let entry = store.entry(1, b"g").unwrap().unwrap();
    assert_eq!((entry.inode, entry.kind), (3, InodeKind::File as u8));
    assert_eq!(store.entry(1, b"h").unwrap(), None);
    assert_eq!(store.inode(99).unwrap(), None);
    assert!(store.structure(10).unwrap().is_sound());
}

fn removes_and_renames(store: &dyn Store) {
    let mut f = Fixture::new(store);
    f.apply(&[mkdir(1, "d", 2), create(1, "a", 3, 0), create(1, "b", 4, 0), mkdir(2, "sub", 5)]);
    f.apply(&[rename((1, "a"), (1, "b"), 3, InodeKind::File, 4)]);
    assert!(!is_live(store, 4) && is_live(store, 3));
    assert_eq!(store.paths(3, 10).unwrap(), [b"/b"]);
    f.apply(&[rename((1, "b"), (1, "b"), 3, InodeKind::File, 0)]);
    assert_eq!((store.paths(3, 10).unwrap(), inode(store, 3).nlink), (vec![b"/b".to_vec()], 1));
    f.apply(&[rename((2, "sub"), (1, "sub"), 5, InodeKind::Directory, 0)]);
    assert_eq!((inode(store, 2).nlink, inode(store, 1).nlink), (2, 4));
    f.apply(&[rmdir(1, "d", 2), unlink(1, "b", 3, true)]);
    assert_eq!((inode(store, 3).state, inode(store, 3).nlink), (State::Removed, 0));
    assert!(!is_live(store, 2));
    let names: Vec<_> = store.read_dir(1, None, 10).unwrap().into_iter().map(|d| d.name).collect();
    assert_eq!(names, [b"sub"]);
    assert!(store.structure(10).unwrap().is_sound());
}

fn a_number_used_again_brings_nothing_back(store: &dyn Store) {
    let mut f = Fixture::new(store);
    f.apply(&[create(1, "a", 2, 0o600), write(2, 9, "old"), set_xattr(2, "user.x", "old")]);
    f.apply(&[unlink(1, "a", 2, true)]);
    f.apply(&[create(1, "b", 2, 0o644)]);
    let view = inode(store, 2);
    assert_eq!((view.mode, view.size, view.extents), (Some(0o644), None, None));
    assert!(view.xattrs.is_empty());
    assert!(view.versions.iter().any(|v| v.field == Field::Size && !v.visible));
}

/// Invariant 8.
fn repeats_change_nothing(store: &dyn Store) {
    let mut f = Fixture::new(store);
    let batches = [f.batch(&[create(1, "a", 2, 0)]), f.batch(&[unlink(1, "a", 2, true)])];
    store.apply(&batches).unwrap();
    let before = (store.position(), store.digest(), store.producers(), store.tombstones().unwrap());
    for again in [&batches[..], &batches[1..], &batches[..1]] {
        assert_eq!(store.apply(again).unwrap(), Default::default());
    }
    assert_eq!((store.position(), store.digest(), store.producers(), store.tombstones().unwrap()), before);
}

fn refuses_what_does_not_follow(store: &dyn Store) {
    let mut f = Fixture::new(store);
    let (one, two) = (f.batch(&[chmod(1, 0o700), chmod(1, 0o711)]), f.batch(&[chmod(1, 0o755)]));
    let before = (store.position(), store.digest());
    let refused = |batches: &[Decoded]| {
        let error = store.apply(batches).unwrap_err();
        assert_eq!((store.position(), store.digest()), before, "a refusal changes nothing: {error}");
        error
    };
    assert!(matches!(refused(std::slice::from_ref(&two)), Error::Gap { applied: Lsn(1), first: Lsn(4), .. }));
    assert!(matches!(refused(&[one.clone(), two.clone(), one.clone(), two.clone()][1..]), Error::Gap { .. }));
    let mut other = one.clone();
    other.header.chain = ChainHash([7; 16]);
    assert!(matches!(refused(&[other]), Error::Chain { first: Lsn(2), .. }));
    let mut broken = two.clone();
    broken.header.chain = ChainHash([7; 16]);
    assert!(matches!(refused(&[one.clone(), broken]), Error::Chain { first: Lsn(4), .. }), "also a later batch");
    let mut needs = one.clone();
    needs.header.vector = Some([(stream_id(2, 1), Lsn(1))].into_iter().collect());
    assert!(matches!(refused(&[needs]), Error::NotCovered { .. }));
    let mut short = one.clone();
    short.payload = short.payload.slice(..short.payload.len() - 1);
    assert!(matches!(refused(&[short]), Error::Payload { .. }));
    let mut few = one.clone();
    few.header.count = 1;
    assert!(matches!(refused(&[few]), Error::Count { .. }));
    let mut many = one.clone();
    many.header.count = 3;
    assert!(matches!(refused(&[many]), Error::Count { .. }));
    store.apply(std::slice::from_ref(&one)).unwrap();
    let mut longer = one;
    longer.header.count = 3;
    assert!(matches!(store.apply(&[longer]).unwrap_err(), Error::Overlap { applied: Lsn(3), last: Lsn(4), .. }));
    store.apply(&[two]).unwrap();
}

fn entries_that_make_no_sense_are_ignored(store: &dyn Store) {
    let mut f = Fixture::new(store);
    let mut payload = Builder::default();
    let producer = Bytes::from_static(b"p");
    let long = "x".repeat(1000);
    let bad = [create(1, &long, 2, 0), create(1, "a/b", 2, 0), chmod(0, 0), chmod(2, 0o70000), mkdir(0, "root", 2)];
    for (seq, op) in bad.iter().enumerate() {
        payload.push(&producer, seq as u64, &op.encode_to_vec());
    }
    payload.push(&producer, 5, b"\xff\xff no operation");
    payload.push(&producer, 6, b"");
    payload.push(&producer, 7, &create(1, "ok", 9, 0).encode_to_vec());
    let batch = f.stream.raw_batch(1, 1000, &store.position().applied, 8, &payload.finish());
    let digest = store.digest();
    let applied = store.apply(&[batch]).unwrap();
    assert_eq!((applied.ignored, applied.entries), (7, 8));
    assert!(is_live(store, 9) && store.inode(2).unwrap().is_none());
    assert_ne!(store.digest().root, digest.root);
    assert!(store.recompute_digest().unwrap().agrees());
}

/// Invariant 7, and DESIGN's definition of a lost write.
fn conflicts_are_told_and_superseded(store: &dyn Store) {
    let mut f = Fixture::new(store);
    f.apply(&[create(1, "a", 2, 0o600), create(1, "b", 3, 0)]);
    let base = store.position().applied;
    let mut late = Stream::new(stream_id(2, 1));
    let concurrent = late.batch(1, 5000, &base, &[chmod(2, 0o622), unlink(1, "b", 3, true)]);
    f.apply(&[chmod(2, 0o611)]);
    let lsn = f.stream.last;
    let applied = store.apply(&[concurrent]).unwrap();
    let key = LostKey { register: Register::Field(2, Field::Mode), stream: f.stream.id, lsn };
    assert_eq!(applied.conflicts.len(), 1, "what nobody else wrote is not lost");
    assert_eq!((&applied.conflicts[0].key, &applied.conflicts[0].value), (&key, &LostValue::Number(0o611)));
    assert_eq!(inode(store, 2).mode, Some(0o622));
    assert_eq!(store.lost(None, 10).unwrap(), applied.conflicts);
    assert_eq!(store.lost(Some(&key), 10).unwrap(), []);
    // The next write's author has seen both: the matter is settled.
    f.clock = 9000;
    let settled = f.apply(&[chmod(2, 0o633)]);
    assert_eq!(settled.superseded.iter().map(|e| &e.key).collect::<Vec<_>>(), [&key]);
    assert!(settled.conflicts.is_empty() && store.lost(None, 10).unwrap()[0].superseded);
}

/// What a producer has sent again to the next primary is audited when it comes late, and is no loss.
fn what_was_sent_again_is_no_loss(store: &dyn Store) {
    Fixture::new(store);
    let base = store.position().applied;
    let writes = [create(1, "a", 2, 0o600), chmod(2, 0o611), chmod(2, 0o622)];
    let mut old = Stream::new(stream_id(2, 1));
    let late = old.batch(1, 500, &base, &writes);
    let mut new = Stream::new(stream_id(3, 1));
    store.apply(&[new.batch(2, 900, &base, &writes)]).unwrap();
    let applied = store.apply(&[late]).unwrap();
    assert!(!applied.conflicts.is_empty() && !applied.repeated.is_empty());
    assert_eq!(applied.losses(), 0, "{applied:?}");
    // Another value is one.
    let mut other = Stream::new(stream_id(4, 1));
    let applied = store.apply(&[other.batch(1, 600, &base, &[chmod(2, 0o644)])]).unwrap();
    assert_eq!((applied.conflicts.len(), applied.losses()), (1, 1), "{applied:?}");
}

fn a_late_stream_loses_and_is_told(store: &dyn Store) {
    Fixture::new(store);
    let base = store.position().applied;
    let mut old = Stream::new(stream_id(2, 1));
    let late = old.batch(1, 500, &base, &[create(1, "a", 2, 0o600), create(1, "b", 3, 0o600)]);
    let mut new = Stream::new(stream_id(3, 1));
    let winner = new.batch(2, 400, &base, &[create(1, "a", 4, 0o644)]);
    store.apply(&[winner, late]).unwrap();
    assert_eq!(store.entry(1, b"a").unwrap().unwrap().inode, 4, "the newer epoch's");
    assert_eq!(store.entry(1, b"b").unwrap().unwrap().inode, 3, "what nobody touched since");
    let lost = store.lost(None, 10).unwrap();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].value, LostValue::Entry(2, InodeKind::File as u8));
    let report = store.structure(10).unwrap();
    assert_eq!((report.orphans, report.orphan_count), (vec![2], 1), "the inode whose name lost");
}

/// What a store tells of writes that have not arrived is what becomes of them when they do.
fn tells_which_writes_would_lose(store: &dyn Store) {
    let mut f = Fixture::new(store);
    f.apply(&[create(1, "a", 2, 0o600), create(1, "b", 3, 0), set_xattr(3, "user.x", "1")]);
    let base = store.position().applied;
    let mut old = Stream::new(stream_id(2, 1));
    let ops = [chmod(2, 0o611), set_xattr(3, "user.x", "2"), unlink(1, "b", 3, true), create(1, "c", 4, 0o600)];
    let late = old.batch(1, 500, &base, &ops);
    let written = |batch: &Decoded| -> Vec<(Register, Version)> {
        let entries = Entries::new(batch.payload.clone()).map(Result::unwrap);
        let all = entries.flat_map(|entry| {
            let lsn = batch.header.first_lsn.plus(u64::from(entry.index));
            let version = Version { stamp: batch.header.stamp(entry.index), lsn };
            let op = entry.decode().unwrap();
            let registers: Vec<Register> = effects(&op, version).unwrap().registers().collect();
            registers.into_iter().map(move |register| (register, version))
        });
        all.collect()
    };
    let writes = written(&late);
    assert!(writes.len() > 5, "{writes:?}");
    assert!(store.losing(&writes).unwrap().iter().all(|loses| !loses), "nobody wrote since");
    // A newer epoch, whose author has not seen them.
    let mut new = Stream::new(stream_id(3, 1));
    let winner = new.batch(2, 400, &base, &[chmod(2, 0o644), set_xattr(3, "user.x", "3"), create(1, "c", 5, 0)]);
    store.apply(&[winner]).unwrap();
    let losing = |writes: &[(Register, Version)]| -> Vec<Register> {
        let loses = store.losing(writes).unwrap();
        writes.iter().zip(loses).filter(|(_, loses)| *loses).map(|((register, _), _)| register.clone()).collect()
    };
    let mut foretold = losing(&writes);
    let xattr = Register::Xattr(3, b"user.x".to_vec());
    assert_eq!(foretold, [Register::Field(2, Field::Mode), xattr.clone(), Register::Dentry(1, b"c".to_vec())]);
    let applied = store.apply(&[late]).unwrap();
    let mut lost: Vec<Register> = applied.conflicts.into_iter().map(|event| event.key.register).collect();
    foretold.sort();
    lost.sort();
    assert_eq!(foretold, lost);
    assert_eq!(losing(&writes).len(), 3, "when they have arrived, too");
    // Whoever has seen a write and writes on covers it: what it said is not lost any more.
    let seen = store.position().applied;
    store.apply(&[new.batch(2, 900, &seen, &[set_xattr(3, "user.x", "4")])]).unwrap();
    assert!(!losing(&writes).contains(&xattr));
}

fn structure_finds_cycles_and_dangling_entries(store: &dyn Store) {
    let mut f = Fixture::new(store);
    f.apply(&[mkdir(1, "a", 2), mkdir(1, "b", 3)]);
    let base = store.position().applied;
    let into = |from, to, inode| rename((1, from), (to, "in"), inode, InodeKind::Directory, 0);
    let mut other = Stream::new(stream_id(2, 1));
    let crossing = other.batch(1, 7000, &base, &[into("a", 3, 2)]);
    f.apply(&[into("b", 2, 3), link(1, "nothing", 77)]);
    store.apply(&[crossing]).unwrap();
    assert_eq!(store.structure(1).unwrap().detached.len(), 1);
    let report = store.structure(10).unwrap();
    assert_eq!((report.detached, report.detached_count), (vec![2, 3], 2));
    assert_eq!((report.dangling, report.dangling_count), (vec![(1, b"nothing".to_vec(), 77)], 1));
    assert_eq!(report.homeless_count, 0);
    f.clock = 9000;
    f.apply(&[create(3, "inside", 9, 0), unlink(2, "in", 3, false), rmdir(3, "in", 2)]);
    f.apply(&[unlink(1, "gone", 3, true)]);
    assert_eq!(store.structure(10).unwrap().homeless, [(3, b"inside".to_vec(), 9)]);
    assert!(store.paths(2, 10).unwrap().is_empty());
}

/// A `Forget` spread over several transactions and one in the batch's own end alike.
fn forgetting_is_bounded_and_complete(store: &dyn Store) {
    let mut f = Fixture::new(store);
    let names: Vec<String> = (0..9).map(|i| format!("f{i}")).collect();
    for (name, number) in names.iter().zip(10..) {
        f.apply(&[create(1, name, number, 0), set_xattr(number, "user.x", "v"), unlink(1, name, number, true)]);
    }
    f.apply(&[create(1, "kept", 2, 0), set_xattr(2, "user.x", "v"), remove_xattr(2, "user.x")]);
    assert_eq!(store.tombstones().unwrap(), 9 * 3 + 1);
    let upto = store.position().applied;
    f.apply(&[create(1, "later", 3, 0), unlink(1, "later", 3, true)]);
    let applied = f.apply(&[chmod(2, 0o1), forget(&upto), chmod(2, 0o2)]);
    assert_eq!((applied.forgotten, applied.entries), (28, 3));
    assert_eq!(store.tombstones().unwrap(), 2, "those above stay");
    assert!(store.position().comparable);
    assert!((10..19).all(|number| store.inode(number).unwrap().is_none()));
    assert_eq!(inode(store, 2).mode, Some(0o2));
    assert!(store.recompute_digest().unwrap().agrees());
    let upto = store.position().applied;
    f.apply(&[forget(&upto)]);
    assert_eq!(store.tombstones().unwrap(), 0);
}

fn a_forget_beyond_its_past_is_cut(store: &dyn Store) {
    let mut f = Fixture::new(store);
    let far: Vector = [(f.stream.id, Lsn(1 << 40)), (stream_id(9, 9), Lsn(5))].into_iter().collect();
    f.apply(&[create(1, "a", 2, 0), unlink(1, "a", 2, true), forget(&far)]);
    assert_eq!(store.tombstones().unwrap(), 2, "its own batch is not in its past");
}

fn producers_are_remembered_within_bounds(store: &dyn Store) {
    let mut f = Fixture::new(store);
    let state = store.producer(b"producer-1").unwrap();
    assert_eq!((state.seq, state.stream, state.epoch.0), (1, f.stream.id, 1));
    let mut payload = Builder::default();
    for i in 0..MAX_PRODUCERS as u64 {
        payload.push(&Bytes::from(i.to_be_bytes().to_vec()), i, &chmod(1, 0).encode_to_vec());
    }
    payload.push(&Bytes::new(), 3, &chmod(1, 0).encode_to_vec());
    let count = MAX_PRODUCERS as u32 + 1;
    let batch = f.stream.raw_batch(1, 900, &store.position().applied, count, &payload.finish());
    store.apply(&[batch]).unwrap();
    assert_eq!(store.producers().len(), MAX_PRODUCERS, "invariant 10");
    assert_eq!(store.producer(b"producer-1"), None, "the one idle for longest went");
    assert_eq!(store.producer(&0u64.to_be_bytes()), None);
    assert_eq!(store.producer(b"").map(|s| s.seq), Some(3));
}

/// Invariant 5, for those who group batches differently.
fn digests_are_known_at_every_batch(store: &dyn Store) {
    let mut f = Fixture::new(store);
    let batches: Vec<_> = (0..5).map(|i| f.batch(&[create(1, &i.to_string(), 10 + i, 0)])).collect();
    store.apply(&batches).unwrap();
    let history = store.digest_history();
    let ends: Vec<_> = history.iter().map(|(applied, _)| applied.get(f.stream.id).0).collect();
    assert_eq!(ends, [1, 2, 3, 4, 5, 6]);
    assert_eq!(history.last().unwrap().1, store.digest().root);
    let alone = MemoryStore::new();
    Fixture::new(&alone);
    for batch in batches {
        alone.apply(&[batch]).unwrap();
    }
    assert_eq!(alone.digest_history(), history);
}

fn buckets_lead_to_the_inodes_that_differ(store: &dyn Store) {
    let far = 5 * (1 << 22) + 9;
    let mut f = Fixture::new(store);
    f.apply(&[mkdir(1, "d", 2), create(2, "x", far, 0), create(2, "y", 5000, 0)]);
    let other = MemoryStore::new();
    let mut g = Fixture::new(&other);
    g.apply(&[mkdir(1, "d", 2), create(2, "x", far, 0), create(2, "y", 5000, 0o1)]);
    let differing = store.digest().differing(&other.digest());
    assert_eq!(differing, [bucket_of(5000)]);
    let whole = [Place::default()];
    let at = |store: &dyn Store, bucket| store.contents(bucket, &whole).unwrap().places.remove(0);
    let (ours, theirs) = (at(store, bucket_of(5000)), at(&other, bucket_of(5000)));
    let listed = |content: &Content| match content {
        Content::Inodes(inodes) => inodes.iter().map(|(inode, _)| *inode).collect::<Vec<_>>(),
        Content::Children(_) => panic!("so few are listed"),
    };
    assert_eq!((listed(&ours), listed(&theirs)), (vec![5000], vec![5000]));
    assert_ne!(ours, theirs);
    assert_eq!(listed(&at(store, 0)), [0, 1, 2, far], "0 holds the root's name");
}

/// What is read on the way down grows with the depth, not with the bucket.
fn places_lead_down_to_each_inode(store: &dyn Store) {
    let mut f = Fixture::new(store);
    let numbers: Vec<u64> = (5000..5300).chain((0..300).map(|n| 5000 + (n << 22))).collect();
    let mut ops = vec![mkdir(1, "d", 2)];
    ops.extend(numbers.iter().map(|n| create(2, &n.to_string(), *n, 0)));
    f.apply(&ops);
    let mut open = vec![Place::default()];
    let (mut found, mut sum) = (Vec::new(), 0u128);
    while let Some(place) = open.pop() {
        let contents = store.contents(bucket_of(5000), std::slice::from_ref(&place)).unwrap();
        assert!(contents.comparable && contents.applied == store.position().applied);
        match &contents.places[..] {
            [Content::Children(children)] => {
                assert!(children.len() <= FAN_OUT);
                open.extend(children.iter().map(|(child, _)| place.child(*child).unwrap()));
            }
            [Content::Inodes(inodes)] => {
                assert!(inodes.len() <= MAX_LISTED);
                assert!(inodes.iter().all(|(inode, _)| place.holds(*inode)));
                for (inode, of) in inodes {
                    found.push(*inode);
                    sum = sum.wrapping_add(*of);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    found.sort_unstable();
    let mut wanted = numbers;
    wanted.sort_unstable();
    wanted.dedup();
    assert_eq!(found, wanted);
    assert_eq!(sum, store.digest().buckets[usize::from(bucket_of(5000))]);
    let verified = store.verify(10).unwrap();
    assert!(verified.is_sound() && verified.buckets == store.digest().buckets, "{:?}", verified.wrong);
    assert!(!store.structure(10).unwrap().is_damaged());
}

/// Reads a whole snapshot in parts.
fn snapshot_of(store: &dyn Store, bytes: usize) -> Vec<Vec<u8>> {
    let snapshot = store.snapshot_begin().unwrap();
    let (mut parts, mut from) = (Vec::new(), Resume::START);
    loop {
        let chunk = store.snapshot_chunk(&snapshot, &from, bytes).unwrap();
        parts.push(chunk.bytes);
        match chunk.next {
            Some(next) => from = next,
            None => return parts,
        }
    }
}

fn a_snapshot_is_checked_before_it_changes_anything(store: &dyn Store) {
    let source = MemoryStore::new();
    let mut f = Fixture::new(&source);
    f.apply(&[create(1, "a", 2, 0), set_xattr(2, "user.x", "v"), unlink(1, "gone", 3, true)]);
    let parts = snapshot_of(&source, 60);
    assert!(parts.len() > 3);
    assert!(matches!(store.install_chunk(&parts[0]), Err(snapshot::Error::NotInstalling)));
    store.install_begin().unwrap();
    assert!(matches!(store.apply(&[f.batch(&[chmod(1, 0)])]), Err(Error::Installing)));
    assert!(matches!(store.install_finish(), Err(snapshot::Error::Unfinished(_))));
    assert!(matches!(store.install_chunk(&parts[1]), Err(snapshot::Error::Damaged(_))), "the head comes first");
    for part in &parts[..parts.len() - 1] {
        for at in 0..part.len() {
            let mut bad = part.clone();
            bad[at] ^= 1;
            assert!(matches!(store.install_chunk(&bad), Err(snapshot::Error::Damaged(_))), "byte {at}");
            assert!(store.install_chunk(&part[..at]).is_err());
        }
        store.install_chunk(part).unwrap();
        assert!(store.install_chunk(part).is_err(), "a part comes once");
    }
    assert!(matches!(store.install_finish(), Err(snapshot::Error::Unfinished(_))));
    store.install_chunk(&parts[parts.len() - 1]).unwrap();
    let position = store.install_finish().unwrap();
    assert_eq!((position, store.digest()), (source.position(), source.digest()));
    assert_eq!(store.producers(), source.producers());
    assert_eq!(store.tombstones().unwrap(), source.tombstones().unwrap());
    assert!(matches!(store.install_begin(), Err(snapshot::Error::NotEmpty)));
    assert!(store.recompute_digest().unwrap().agrees());
}

fn a_snapshot_ends_with_a_forget(store: &dyn Store) {
    let mut f = Fixture::new(store);
    f.apply(&[create(1, "a", 2, 0), unlink(1, "a", 2, true)]);
    let snapshot = store.snapshot_begin().unwrap();
    let first = store.snapshot_chunk(&snapshot, &Resume::START, 1).unwrap();
    let upto = store.position().applied;
    f.apply(&[forget(&upto)]);
    let next = first.next.unwrap();
    assert!(matches!(store.snapshot_chunk(&snapshot, &next, 1000), Err(snapshot::Error::Stale)));
    assert!(!snapshot_of(store, 1000).is_empty());
}

/// Invariants 5 and 8: a copy goes on part by part from where the store says, whatever it held before, also with parts
/// of a source that has applied less again than the one before.
fn an_installation_goes_on_where_it_stands(store: &dyn Store) {
    let mut own = Fixture::new(store);
    own.apply(&[create(1, "older", 9, 0)]);
    let (source, behind) = (MemoryStore::new(), MemoryStore::new());
    let mut f = Fixture::new(&source);
    f.apply(&[create(1, "a", 2, 0), set_xattr(2, "user.x", "v"), create(1, "b", 3, 0)]);
    for part in snapshot_of(&source, 1000) {
        if behind.install_progress().unwrap().is_none() {
            behind.install_begin().unwrap();
        }
        behind.install_chunk(&part).unwrap();
    }
    behind.install_finish().unwrap();
    assert_eq!(store.install_progress().unwrap(), None);
    store.install_again().unwrap();
    assert_eq!((store.position().applied, store.producers().len()), (Vector::new(), 0));
    let begun = source.snapshot_begin().unwrap();
    assert!(matches!(MemoryStore::new().snapshot_chunk(&begun, &Resume::START, 60), Err(snapshot::Error::Behind)));
    let progress = store.install_progress().unwrap().unwrap();
    assert_eq!((progress.snapshot, progress.next), (None, Some(Resume::START)));
    let first = source.snapshot_chunk(&begun, &Resume::START, 60).unwrap();
    store.install_chunk(&first.bytes).unwrap();
    let later = f.batch(&[create(1, "c", 4, 0)]);
    source.apply(std::slice::from_ref(&later)).unwrap();
    let mut from: &dyn Store = &source;
    let mut parts = 0;
    loop {
        let progress = store.install_progress().unwrap().unwrap();
        assert_eq!(progress.snapshot.as_ref().map(|s| &s.applied), Some(&begun.applied));
        let Some(next) = progress.next else { break };
        let next = Resume::decode(&next.encode()).unwrap();
        let known = Snapshot::decode(&progress.snapshot.unwrap().encode()).unwrap();
        store.install_chunk(&from.snapshot_chunk(&known, &next, 60).unwrap().bytes).unwrap();
        parts += 1;
        // The one part that was read after the later batch may hold what it wrote.
        from = &behind;
    }
    assert!(parts > 2);
    let position = store.install_finish().unwrap();
    assert!(!position.comparable, "a part was read later than the last one");
    assert_eq!(store.install_progress().unwrap(), None);
    store.apply(&[later]).unwrap();
    assert!(store.position().comparable);
    assert_eq!(store.digest(), source.digest());
    assert!(store.recompute_digest().unwrap().agrees());
}

fn sync_answers_with_what_it_synced(store: &dyn Store) {
    let mut f = Fixture::new(store);
    f.apply(&[create(1, "a", 2, 0)]);
    assert_eq!(store.sync().unwrap(), store.position().applied);
    assert!(store.usage().unwrap().used_bytes > 0);
    assert_eq!(store.vector_in_effect(f.stream.id), Vector::new());
}

macro_rules! on_both {
    ($($test:ident)*) => {
        mod on_disk {
            $(#[test] fn $test() {
                let dir = super::scratch_dir();
                super::$test(&super::open(dir.path()));
            })*
        }
        mod in_memory {
            $(#[test] fn $test() { super::$test(&super::MemoryStore::new()); })*
        }
    };
}

on_both! {
    shows_what_was_written
    removes_and_renames
    a_number_used_again_brings_nothing_back
    repeats_change_nothing
    refuses_what_does_not_follow
    entries_that_make_no_sense_are_ignored
    conflicts_are_told_and_superseded
    what_was_sent_again_is_no_loss
    a_late_stream_loses_and_is_told
    tells_which_writes_would_lose
    structure_finds_cycles_and_dangling_entries
    forgetting_is_bounded_and_complete
    a_forget_beyond_its_past_is_cut
    producers_are_remembered_within_bounds
    digests_are_known_at_every_batch
    buckets_lead_to_the_inodes_that_differ
    places_lead_down_to_each_inode
    a_snapshot_is_checked_before_it_changes_anything
    a_snapshot_ends_with_a_forget
    an_installation_goes_on_where_it_stands
    sync_answers_with_what_it_synced
}
