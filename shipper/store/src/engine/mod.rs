//! The store, over any backend.

mod apply;
mod dentry;
mod derived;
mod forget;
mod head;
mod held;
mod inode;
mod install;
mod losing;
mod lost;
mod misplaced;
mod named;
mod paths;
mod read;
mod repair;
mod snapshot;
mod structure;
mod txn;
mod verify;
mod xattr;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use cfs_model::{StreamId, Vector, Version};
use cfs_shipper_core::merge::Register;

use crate::apply::{Applied, Decoded};
use crate::backend::{Backend, Read};
use crate::digest::{Digest, HISTORY, Recomputed};
use crate::lmdb::{Lmdb, OpenError, Options};
use crate::lost::{LostEvent, LostKey};
use crate::memory::Memory;
use crate::repair::{Part, Repaired};
use crate::snapshot::{Chunk, Resume, Snapshot};
use crate::store::{Position, ProducerState, Store};
use crate::structure::StructureReport;
use crate::table::{Error, Table, Usage};
use crate::verify::{Contents, Place, Verified};
use crate::view::{DentryView, Held, InodeView};
use head::Head;
use txn::Scratch;

type Producers = BTreeMap<Bytes, ProducerState>;

/// What is known without asking the tables; always that of the latest commit.
#[derive(Debug)]
struct Live {
    head: Head,
    producers: Producers,
    history: VecDeque<(Vector, u128)>,
}

impl Live {
    fn remember(&mut self, boundary: (Vector, u128)) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(boundary);
    }
}

/// A store over a backend: [`crate::HeedStore`] or [`crate::MemoryStore`].
#[derive(Debug)]
pub struct Engine<B> {
    backend: B,
    live: RwLock<Live>,
    /// Held by the one who changes the store.
    writer: Mutex<Scratch>,
}

impl Engine<Lmdb> {
    /// Opens the store in a directory, or makes a new one. Reads nothing but cursors, producers and digest.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        Ok(Self::load(Lmdb::open(options)?)?)
    }
}

impl Engine<Memory> {
    /// An empty store.
    pub fn new() -> Self {
        let live = Live { head: Head::default(), producers: Producers::new(), history: VecDeque::new() };
        Self { backend: Memory::default(), live: RwLock::new(live), writer: Mutex::default() }
    }
}

impl Default for Engine<Memory> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend> Engine<B> {
    fn load(backend: B) -> Result<Self, Error> {
        let reader = backend.read()?;
        let head = head::load(&reader)?;
        let producers = head::load_producers(&reader)?;
        drop(reader);
        let live = Live { head, producers, history: VecDeque::new() };
        Ok(Self { backend, live: RwLock::new(live), writer: Mutex::default() })
    }

    /// The tables themselves, to damage them.
    #[cfg(test)]
    pub(crate) const fn backend(&self) -> &B {
        &self.backend
    }

    /// A panic while the lock was held cannot have left a half-made change: commits are published by one assignment.
    fn live(&self) -> RwLockReadGuard<'_, Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn live_mut(&self) -> RwLockWriteGuard<'_, Live> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Store for Engine<B> {
    fn position(&self) -> Position {
        self.live().head.position()
    }

    fn apply(&self, batches: &[Decoded]) -> Result<Applied, crate::apply::Error> {
        self.apply_batches(batches)
    }

    fn sync(&self) -> Result<Vector, Error> {
        let applied = self.live().head.applied.clone();
        self.backend.sync()?;
        Ok(applied)
    }

    fn vector_in_effect(&self, stream: StreamId) -> Vector {
        self.live().head.seen.get(&stream).cloned().unwrap_or_default()
    }

    fn producers(&self) -> Vec<(Bytes, ProducerState)> {
        self.live().producers.iter().map(|(name, state)| (name.clone(), *state)).collect()
    }

    fn producer(&self, name: &[u8]) -> Option<ProducerState> {
        self.live().producers.get(name).copied()
    }

    fn inode(&self, inode: u64) -> Result<Option<InodeView>, Error> {
        read::inode(&self.backend.read()?, inode)
    }

    fn held(&self, inode: u64, limit: usize, max_bytes: usize) -> Result<Held, Error> {
        held::held(&self.backend.read()?, inode, limit, max_bytes)
    }

    fn read_dir(&self, parent: u64, after: Option<&[u8]>, limit: usize) -> Result<Vec<DentryView>, Error> {
        read::read_dir(&self.backend.read()?, parent, after, limit)
    }

    fn entry(&self, parent: u64, name: &[u8]) -> Result<Option<DentryView>, Error> {
        read::entry(&self.backend.read()?, parent, name)
    }

    fn root(&self) -> Result<Option<u64>, Error> {
        read::root(&self.backend.read()?)
    }

    fn paths(&self, inode: u64, limit: usize) -> Result<Vec<Vec<u8>>, Error> {
        paths::paths(&self.backend.read()?, inode, limit)
    }

    fn digest(&self) -> Digest {
        let live = self.live();
        live.head.sums.digest(&live.head.applied)
    }

    fn digest_history(&self) -> Vec<(Vector, u128)> {
        self.live().history.iter().cloned().collect()
    }

    fn recompute_digest(&self) -> Result<Recomputed, Error> {
        verify::recompute(&self.backend.read()?)
    }

    fn verify(&self, limit: usize) -> Result<Verified, Error> {
        verify::verify(&self.backend, limit)
    }

    fn contents(&self, bucket: u16, places: &[Place]) -> Result<Contents, Error> {
        verify::contents(&self.backend.read()?, bucket, places)
    }

    fn structure(&self, limit: usize) -> Result<StructureReport, Error> {
        structure::check(&self.backend, limit)
    }

    fn lost(&self, after: Option<&LostKey>, limit: usize) -> Result<Vec<LostEvent>, Error> {
        read::lost(&self.backend.read()?, after, limit)
    }

    fn losing(&self, writes: &[(Register, Version)]) -> Result<Vec<bool>, Error> {
        losing::losing(&self.backend.read()?, writes)
    }

    fn tombstones(&self) -> Result<u64, Error> {
        self.backend.read()?.len(Table::Tombs)
    }

    fn read_registers(&self, inode: u64, from: &[u8], max_bytes: usize) -> Result<Part, crate::repair::Error> {
        self.read_part(inode, from, max_bytes)
    }

    fn repair(&self, inode: u64, from: &[u8], part: &Part) -> Result<Repaired, crate::repair::Error> {
        self.repair_part(inode, from, part)
    }

    fn take_out_misplaced(&self, limit: usize) -> Result<Option<Vec<u64>>, Error> {
        self.take_out(limit)
    }

    fn settle_bucket(&self, bucket: u16) -> Result<bool, Error> {
        self.settle(bucket)
    }

    fn snapshot_begin(&self) -> Result<Snapshot, crate::snapshot::Error> {
        self.begin_snapshot()
    }

    fn snapshot_chunk(
        &self,
        snapshot: &Snapshot,
        from: &Resume,
        max_bytes: usize,
    ) -> Result<Chunk, crate::snapshot::Error> {
        self.read_chunk(snapshot, from, max_bytes)
    }

    fn install_begin(&self) -> Result<(), crate::snapshot::Error> {
        self.begin_install()
    }

    fn install_again(&self) -> Result<(), crate::snapshot::Error> {
        self.install_again()
    }

    fn install_progress(&self) -> Result<Option<crate::snapshot::Progress>, crate::snapshot::Error> {
        self.read_progress()
    }

    fn install_chunk(&self, bytes: &[u8]) -> Result<(), crate::snapshot::Error> {
        self.install_part(bytes)
    }

    fn install_finish(&self) -> Result<Position, crate::snapshot::Error> {
        self.finish_install()
    }

    fn usage(&self) -> Result<Usage, Error> {
        self.backend.usage()
    }
}
