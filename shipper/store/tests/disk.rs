//! The store's files: who may read them, what is refused, and what happens when there is no room.

// A test fails by panicking, also in the functions that it shares with others.
#![allow(clippy::unwrap_used, missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use cfs_model::op::{Create, InodeKind, Op, op::Kind};
use cfs_model::{Epoch, Incarnation, Lsn, SiteId, StreamId};
use cfs_shipper_core::batch::{Batch, ChainHash, Header};
use cfs_shipper_core::codec::Codec;
use cfs_shipper_core::payload::Builder;
use cfs_store::apply::{Applied, Decoded, Error};
use cfs_store::lmdb::{OpenError, Options};
use cfs_store::{HeedStore, Store};
use prost::Message;

const STREAM: StreamId = StreamId { site: SiteId(1), incarnation: Incarnation(1) };

/// Creates of files with scattered numbers and 200 bytes of extents, from the store's cursor on.
fn next_batch(store: &HeedStore, count: u64) -> Decoded {
    let position = store.position();
    let first = position.applied.get(STREAM).0 + 1;
    let mut payload = Builder::default();
    for lsn in first..first + count {
        let attributes =
            Some(cfs_model::op::Attributes { extents: Some(Bytes::from(vec![lsn as u8; 200])), ..Default::default() });
        let inode = lsn.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 60;
        let name = Bytes::from(format!("file {lsn}"));
        let kind = InodeKind::File.into();
        let create = Create { parent: 1, name, inode, kind, attributes, device: 0 };
        payload.push(&Bytes::from_static(b"p"), lsn, &Op { kind: Some(Kind::Create(create)) }.encode_to_vec());
    }
    let header = Header {
        stream: STREAM,
        epoch: Epoch(1),
        first_lsn: Lsn(first),
        count: count as u32,
        first_clock: first,
        durable_lsn: Lsn(first - 1),
        vector: None,
        codec: Codec::None,
        raw_len: 0,
        encoded_len: 0,
        payload_checksum: 0,
        chain: position.chains.get(&STREAM).copied().unwrap_or(ChainHash::start(STREAM)),
    };
    let batch = Batch::build(header, &payload.finish(), &mut Vec::new()).unwrap();
    Decoded { header: batch.header().clone(), chain_after: batch.chain_after(), payload: batch.decompress().unwrap() }
}

fn options(path: &Path, map_bytes: u64) -> Options {
    Options { path: path.to_path_buf(), map_bytes }
}

fn apply_until_refused(store: &HeedStore) -> (u64, Error) {
    for _ in 0..10_000 {
        let before = store.position().applied.get(STREAM).0;
        match store.apply(&[next_batch(store, 100)]) {
            Ok(Applied { entries: 100, .. }) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert_eq!(store.position().applied.get(STREAM).0, before);
                return (before, error);
            }
        }
    }
    panic!("it never filled up");
}

#[test]
fn only_the_owner_may_read_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/meta");
    let store = HeedStore::open(&Options::new(&path)).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let files: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2);
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    assert!(matches!(HeedStore::open(&Options::new(&path)), Err(OpenError::Open(_))), "one at a time");
    drop(store);
    HeedStore::open(&Options::new(&path)).unwrap();
}

#[test]
fn what_is_not_a_store_of_this_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("meta");
    drop(HeedStore::open(&Options::new(&path)).unwrap());
    let data = path.join("data.mdb");
    let mut bytes = std::fs::read(&data).unwrap();
    let needle = b"format";
    let places: Vec<usize> =
        bytes.windows(needle.len()).enumerate().filter(|(_, w)| w == needle).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at + needle.len()] = 9;
    }
    std::fs::write(&data, &bytes).unwrap();
    let error = HeedStore::open(&Options::new(&path)).unwrap_err();
    assert!(matches!(error, OpenError::Format { found: 9, .. }), "{error}");
    std::fs::write(&data, b"no database at all, but long enough to be looked at".repeat(1000)).unwrap();
    let error = HeedStore::open(&Options::new(&path)).unwrap_err();
    assert!(matches!(error, OpenError::Format { found: 0, .. }), "{error}");
}

const MAP: u64 = 16 << 20;

/// A full map is said before it is full; the store stays readable, and takes changes again in a larger map.
#[test]
fn a_full_map_is_refused_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = HeedStore::open(&options(dir.path(), MAP)).unwrap();
    let (reached, error) = apply_until_refused(&store);
    assert!(matches!(error, Error::MapFull { used, map } if used < map && map == MAP), "{error:?}");
    assert!(reached > 10_000, "most of the map is used: {reached}");
    assert_eq!(store.read_dir(1, None, usize::MAX).unwrap().len() as u64, reached);
    assert!(store.recompute_digest().unwrap().agrees());
    assert!(matches!(store.apply(&[next_batch(&store, 100)]), Err(Error::MapFull { .. })));
    drop(store);
    let store = HeedStore::open(&options(dir.path(), 64 << 20)).unwrap();
    store.apply(&[next_batch(&store, 100)]).unwrap();
    assert_eq!(store.position().applied.get(STREAM).0, reached + 100);
}

/// A full file system is an error of its own; the store stays readable, and goes on when there is room.
#[test]
fn a_full_disk_is_refused_and_survived() {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::tmpfs(dir.path(), "3m");
    let Some(mount) = mount else {
        eprintln!("skipped: this user may not mount a small file system");
        return;
    };
    let path = dir.path().join("meta");
    let store = HeedStore::open(&options(&path, 1 << 30)).unwrap();
    let (reached, error) = apply_until_refused(&store);
    assert!(matches!(error, Error::NoSpace), "{error:?}");
    assert_eq!(store.read_dir(1, None, usize::MAX).unwrap().len() as u64, reached);
    assert!(store.recompute_digest().unwrap().agrees());
    drop(store);
    let store = HeedStore::open(&options(&path, 1 << 30)).unwrap();
    assert_eq!(store.position().applied.get(STREAM).0, reached, "it opens on a full disk");
    readable_by_many(&store);
    mount.resize("16m");
    for _ in 0..20 {
        store.apply(&[next_batch(&store, 100)]).unwrap();
    }
    drop(store);
    let store = HeedStore::open(&options(&path, 1 << 30)).unwrap();
    assert_eq!(store.position().applied.get(STREAM).0, reached + 2000);
    assert!(store.recompute_digest().unwrap().agrees());
    drop(store);
}

/// Every reader has a line in LMDB's lock file, which must be there although the disk is full.
fn readable_by_many(store: &HeedStore) {
    let barrier = std::sync::Barrier::new(300);
    std::thread::scope(|scope| {
        for _ in 0..300 {
            scope.spawn(|| {
                barrier.wait();
                assert!(!store.read_dir(1, None, 100).unwrap().is_empty());
            });
        }
    });
}

struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn tmpfs(at: &'a Path, size: &str) -> Option<Self> {
        let options = format!("size={size}");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output().ok()?;
        status.status.success().then_some(Self(at))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &options]).arg(self.0).status().unwrap().success());
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0).status().ok();
    }
}
