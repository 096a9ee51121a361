//! The order of writes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Epoch, Incarnation, Lsn, SiteId, StreamId};

/// When and by whom an entry was written; totally ordered, field by field in the order below. The later stamp wins a
/// merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// The epoch in which the entry was appended.
    pub epoch: Epoch,
    /// Hybrid logical clock: nanoseconds since the Unix epoch, above every stamp its writer had seen.
    pub clock: u64,
    /// The writer's site.
    pub site: SiteId,
    /// The incarnation of the writer's stream.
    pub incarnation: Incarnation,
}

impl Stamp {
    /// The stream that the entry is in.
    pub const fn stream(&self) -> StreamId {
        StreamId { site: self.site, incarnation: self.incarnation }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}.{}", self.epoch, self.clock, self.site, self.incarnation.0)
    }
}

/// Which entry wrote a register: its stamp and its place in the stream that the stamp names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The entry's stamp.
    pub stamp: Stamp,
    /// The entry's position in `stamp.stream()`.
    pub lsn: Lsn,
}
