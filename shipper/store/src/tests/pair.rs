//! The same site on disk and in memory; whatever the two answer must be equal.

use std::path::Path;

use crate::apply::{Applied, Decoded, Error};
use crate::lmdb::Options;
use crate::lost::LostEvent;
use crate::snapshot::{self, Resume, Snapshot};
use crate::{HeedStore, MemoryStore, Position, Store};

/// A directory in memory where there is one: these tests are about order, not about disks.
pub(super) fn scratch_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(super) fn open(path: &Path) -> HeedStore {
    HeedStore::open(&Options { path: path.to_path_buf(), map_bytes: 1 << 30 }).unwrap()
}

pub(super) struct Pair {
    dir: tempfile::TempDir,
    disk: Option<HeedStore>,
    memory: MemoryStore,
}

impl Pair {
    pub(super) fn new() -> Self {
        let dir = scratch_dir();
        let disk = Some(open(dir.path()));
        Self { dir, disk, memory: MemoryStore::new() }
    }

    pub(super) fn disk(&self) -> &HeedStore {
        self.disk.as_ref().unwrap()
    }

    pub(super) const fn memory(&self) -> &MemoryStore {
        &self.memory
    }

    pub(super) fn apply(&self, batches: &[Decoded]) -> Result<Applied, Error> {
        let (disk, memory) = (self.disk().apply(batches), self.memory.apply(batches));
        assert_eq!(format!("{disk:?}"), format!("{memory:?}"));
        disk
    }

    pub(super) fn position(&self) -> Position {
        let position = self.disk().position();
        assert_eq!(position, self.memory.position());
        position
    }

    /// Closes the store on disk and opens it again: nothing may change by that.
    pub(super) fn restart(&mut self) {
        let known = |store: &HeedStore| {
            let position = store.position();
            let streams: Vec<_> = position.applied.iter().map(|(stream, _)| store.vector_in_effect(stream)).collect();
            (position, streams, store.digest(), store.producers())
        };
        let before = known(self.disk());
        self.disk = None;
        let disk = open(self.dir.path());
        assert_eq!(before, known(&disk));
        self.disk = Some(disk);
    }

    /// One part from each; the two are the same bytes, because rows and their order are.
    pub(super) fn chunk(
        &self,
        snapshot: &Snapshot,
        from: &Resume,
        bytes: usize,
    ) -> Result<snapshot::Chunk, snapshot::Error> {
        let disk = self.disk().snapshot_chunk(snapshot, from, bytes);
        let memory = self.memory.snapshot_chunk(snapshot, from, bytes);
        assert_eq!(format!("{disk:?}"), format!("{memory:?}"));
        disk
    }

    pub(super) fn install(parts: &[Vec<u8>]) -> Self {
        let out = Self::new();
        for store in [out.disk() as &dyn Store, &out.memory] {
            store.install_begin().unwrap();
            for part in parts {
                store.install_chunk(part).unwrap();
            }
            store.install_finish().unwrap();
        }
        out.position();
        out
    }

    /// Checks that the running digest is the one that the registers have, in both.
    pub(super) fn verify(&self) {
        for store in [self.disk() as &dyn Store, &self.memory] {
            let recomputed = store.recompute_digest().unwrap();
            assert!(recomputed.agrees(), "invariant 5: the running digest is the registers' digest");
            assert_eq!(recomputed.running, store.digest());
            assert!(store.verify(1).unwrap().is_sound(), "a check in many transactions says the same");
        }
        assert_eq!(self.disk().digest(), self.memory.digest());
    }

    /// Lost writes that nothing has superseded.
    pub(super) fn waiting(&self) -> Vec<LostEvent> {
        let waiting = |store: &dyn Store| -> Vec<LostEvent> {
            store.lost(None, usize::MAX).unwrap().into_iter().filter(|event| !event.superseded).collect()
        };
        let out = waiting(self.disk());
        assert_eq!(out, waiting(&self.memory));
        out
    }
}
