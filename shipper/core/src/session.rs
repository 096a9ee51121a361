//! What a receiver demands of a batch before it touches its journal.

use cfs_model::{Epoch, Lsn, StreamId};

use crate::batch::{ChainHash, Header};
use crate::history::{History, Verdict};

/// Where a stream ends at the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// The last entry received.
    pub lsn: Lsn,
    /// The chain there.
    pub chain: ChainHash,
    /// The epoch of the last batch.
    pub epoch: Epoch,
}

impl Tail {
    /// The tail of a stream of which nothing is held.
    pub fn start(stream: StreamId) -> Self {
        Self { lsn: Lsn::ZERO, chain: ChainHash::start(stream), epoch: Epoch(0) }
    }
}

/// Why a batch is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It belongs to another stream than the one pulled.
    #[error("it belongs to stream {0}")]
    Stream(StreamId),
    /// It does not follow what is held: replayed, reordered, or something is missing in between.
    #[error("it starts at LSN {got}, {want} comes next")]
    NotNext {
        /// The LSN that comes next.
        want: Lsn,
        /// The LSN of the batch.
        got: Lsn,
    },
    /// The same position with another past.
    #[error("it continues another history: its chain hash is {got}, here it is {want}")]
    Diverged {
        /// The chain held.
        want: ChainHash,
        /// The chain that the batch continues.
        got: ChainHash,
    },
    /// Epochs never go back in a stream.
    #[error("its epoch {got} is below {last}, the epoch of the batch before")]
    EpochWentBack {
        /// Epoch of the batch before.
        last: Epoch,
        /// Epoch of this one.
        got: Epoch,
    },
    /// The epoch is not known here yet; ask again once it is.
    #[error("its epoch {0} is not known here yet")]
    EpochUnknown(Epoch),
    /// The epoch belongs to somebody else.
    #[error("its epoch {epoch} was opened for site number {owner}")]
    EpochOfAnother {
        /// Epoch of the batch.
        epoch: Epoch,
        /// For whom it was opened.
        owner: cfs_model::SiteId,
    },
}

/// Checks that a batch continues `stream` after `tail` (invariant 3) in an epoch that its site had.
pub fn check(stream: StreamId, tail: &Tail, header: &Header, history: &History) -> Result<(), Refused> {
    if header.stream != stream {
        return Err(Refused::Stream(header.stream));
    }
    if header.first_lsn != tail.lsn.next() {
        return Err(Refused::NotNext { want: tail.lsn.next(), got: header.first_lsn });
    }
    if header.chain != tail.chain {
        return Err(Refused::Diverged { want: tail.chain, got: header.chain });
    }
    if header.epoch < tail.epoch {
        return Err(Refused::EpochWentBack { last: tail.epoch, got: header.epoch });
    }
    match history.verdict(header.epoch, stream.site) {
        Verdict::Opened => Ok(()),
        Verdict::Unknown => Err(Refused::EpochUnknown(header.epoch)),
        Verdict::OpenedFor(owner) => Err(Refused::EpochOfAnother { epoch: header.epoch, owner }),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
