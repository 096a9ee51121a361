//! What every store promises.

use std::collections::BTreeMap;

use bytes::Bytes;
use cfs_model::{Epoch, StreamId, Vector, Version};
use cfs_shipper_core::batch::ChainHash;
use cfs_shipper_core::merge::Register;

use crate::apply::{self, Applied, Decoded};
use crate::digest::{Digest, Recomputed};
use crate::lost::{LostEvent, LostKey};
use crate::repair::{self, Part, Repaired};
use crate::snapshot::{self, Chunk, Resume, Snapshot};
use crate::structure::StructureReport;
use crate::table::{Error, Usage};
use crate::verify::{Contents, Place, Verified};
use crate::view::{DentryView, Held, InodeView};

/// How far a store is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// What has been applied.
    pub applied: Vector,
    /// The chain of each stream at its cursor.
    pub chains: BTreeMap<StreamId, ChainHash>,
    /// The highest clock of any entry applied.
    pub highest_clock: u64,
    /// Whether the digest is one that other stores at these cursors have: not while a snapshot's replay has not reached
    /// the snapshot's end, nor while tombstones are being forgotten.
    pub comparable: bool,
}

/// What a store remembers of a producer, so that its retries are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerState {
    /// The stream that its latest entry is in.
    pub stream: StreamId,
    /// The epoch of its latest entry.
    pub epoch: Epoch,
    /// The highest sequence number applied.
    pub seq: u64,
    /// The clock of its latest entry: the producer with the earliest goes when there are too many.
    pub clock: u64,
}

/// The metadata store of one site.
///
/// Every call blocks and may be made from any thread. Reads see what the latest [`Store::apply`] committed and do not
/// wait for one that is running. Lists are bounded by a limit and are resumed from the last item of the list before.
pub trait Store: Send + Sync + 'static {
    /// How far this store is. Answered from memory.
    fn position(&self) -> Position;

    /// Applies batches in the order given, and moves the cursors in the same transaction. A batch at or below its
    /// cursor changes nothing. A gap, a chain that does not fit, or a vector that is not covered is refused before
    /// anything changes; after any other error the cursors tell what was applied, and the call may be repeated.
    ///
    /// When it returns, the change is visible and survives the end of the process, though not yet a power cut: see
    /// [`Store::sync`]. The caller bounds the batches of one call by `caps::MAX_TRANSACTION_*`; a batch that forgets
    /// many tombstones is spread over several transactions by itself.
    fn apply(&self, batches: &[Decoded]) -> Result<Applied, apply::Error>;

    /// Returns a vector up to which everything applied survives a power cut.
    fn sync(&self) -> Result<Vector, Error>;

    /// What the writer of `stream` had applied of other streams, according to the last batch applied here.
    fn vector_in_effect(&self, stream: StreamId) -> Vector;

    /// Every producer remembered, at most `caps::MAX_PRODUCERS`.
    fn producers(&self) -> Vec<(Bytes, ProducerState)>;

    /// What is remembered of one producer.
    fn producer(&self, name: &[u8]) -> Option<ProducerState>;

    /// An inode as it shows; `None` when nothing is known of it.
    fn inode(&self, inode: u64) -> Result<Option<InodeView>, Error>;

    /// Everything that is held of an inode, at most `limit` of each kind and about `max_bytes` of values.
    fn held(&self, inode: u64, limit: usize, max_bytes: usize) -> Result<Held, Error>;

    /// Live entries of a directory in the order of their names, from the first name after `after`.
    fn read_dir(&self, parent: u64, after: Option<&[u8]>, limit: usize) -> Result<Vec<DentryView>, Error>;

    /// One live entry of a directory.
    fn entry(&self, parent: u64, name: &[u8]) -> Result<Option<DentryView>, Error>;

    /// The root directory's inode.
    fn root(&self) -> Result<Option<u64>, Error>;

    /// Paths from the root to an inode, sorted; each begins with `/`. None for an inode that cannot be reached.
    fn paths(&self, inode: u64, limit: usize) -> Result<Vec<Vec<u8>>, Error>;

    /// The running digest. Answered from memory.
    fn digest(&self) -> Digest;

    /// Cursors and digest roots at the ends of the latest batches, oldest first, at most
    /// [`crate::digest::HISTORY`]. Empty after a start. Only comparable ones.
    fn digest_history(&self) -> Vec<(Vector, u128)>;

    /// Computes the digest from all registers, in one read transaction, beside the running one of the same moment.
    fn recompute_digest(&self) -> Result<Recomputed, Error>;

    /// Reads all registers and tells whether they have the digest that is kept, naming at most `limit` inodes that do
    /// not decode. Reads in short transactions and stops nobody: what is written meanwhile is looked at again, a bucket
    /// at a time.
    fn verify(&self, limit: usize) -> Result<Verified, Error>;

    /// What is in places of one bucket, in one read transaction: how two stores find what differs. Damaged registers
    /// count as they are.
    fn contents(&self, bucket: u16, places: &[Place]) -> Result<Contents, Error>;

    /// Checks what is derived from the registers, naming at most `limit` of each kind of finding. Reads in short
    /// transactions; while batches are applied, counts are those of no single moment, and each finding held at one.
    fn structure(&self, limit: usize) -> Result<StructureReport, Error>;

    /// Reads part of the registers of an inode, of about `max_bytes`, from where the part before said (empty: from the
    /// beginning). Fails if one of them does not decode.
    fn read_registers(&self, inode: u64, from: &[u8], max_bytes: usize) -> Result<Part, repair::Error>;

    /// Puts a part, read with the same `from` in a store that has applied all that this one has, in the place of what
    /// is here; derives anew what follows from it; corrects the digest in the same transaction. Where the other store had
    /// applied more, this one is not comparable before it has applied that too.
    ///
    /// Whether a digest that fits neither the registers before nor those after is to follow is not decided here: see
    /// [`Store::settle_bucket`].
    fn repair(&self, inode: u64, from: &[u8], part: &Part) -> Result<Repaired, repair::Error>;

    /// Takes out the rows of registers and of names that do not stand where their keys belong, at most `limit`, so that others
    /// are found again; what they held is to be repaired. Returns the inodes under whose numbers they stood; `None` when there
    /// are more, or other rows too are misplaced: then nothing has changed. The digest kept stays. Others wait to write
    /// meanwhile.
    fn take_out_misplaced(&self, limit: usize) -> Result<Option<Vec<u64>>, Error>;

    /// Makes the digest kept of a bucket that of its registers. The caller knows that the registers are right. Returns
    /// whether it was another.
    fn settle_bucket(&self, bucket: u16) -> Result<bool, Error>;

    /// Lost writes in the order of their keys, superseded ones included.
    fn lost(&self, after: Option<&LostKey>, limit: usize) -> Result<Vec<LostEvent>, Error>;

    /// For each write of a register, by an entry of that version, whether it is lost here, or will be when it arrives: this
    /// store holds a later write, and nobody who wrote the register had seen it.
    fn losing(&self, writes: &[(Register, Version)]) -> Result<Vec<bool>, Error>;

    /// How many registers wait for a `Forget`.
    fn tombstones(&self) -> Result<u64, Error>;

    /// Begins to read a snapshot at the current cursors. Pins nothing.
    fn snapshot_begin(&self) -> Result<Snapshot, snapshot::Error>;

    /// Reads the next part of a snapshot, in a read transaction of its own, of about `max_bytes` (more if one row is
    /// larger). While it is read, batches may be applied; after a `Forget` it fails and must begin again.
    fn snapshot_chunk(&self, snapshot: &Snapshot, from: &Resume, max_bytes: usize) -> Result<Chunk, snapshot::Error>;

    /// Prepares this store, which must be empty, for a snapshot. Until [`Store::install_finish`] it applies nothing.
    fn install_begin(&self) -> Result<(), snapshot::Error>;

    /// The same for a store that may hold something: it is emptied first, in one transaction.
    fn install_again(&self) -> Result<(), snapshot::Error>;

    /// How far an installation is that has not ended, also one of an earlier process; `None` when there is none.
    fn install_progress(&self) -> Result<Option<snapshot::Progress>, snapshot::Error>;

    /// Installs one part, in the order read, and in the same transaction where the next one begins. Checks it before anything changes.
    fn install_chunk(&self, bytes: &[u8]) -> Result<(), snapshot::Error>;

    /// Ends the installation after the last part. The cursors are those of [`Store::snapshot_begin`], and the store is
    /// not comparable before it has applied what its source had applied at the end.
    fn install_finish(&self) -> Result<Position, snapshot::Error>;

    /// Space taken.
    fn usage(&self) -> Result<Usage, Error>;
}
