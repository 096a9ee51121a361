//! The vocabulary of the product: sites, epochs, streams, stamps, vectors and operations.
//!
//! Pure: no clock, no I/O, no runtime.

mod cluster;
mod id;
mod level;
mod stamp;
mod vector;
mod wire;

pub use cluster::{ClusterId, Error as ClusterIdError};
pub use id::{Epoch, Error as IdError, Incarnation, Lsn, SiteId, SiteName, StreamId};
pub use level::{Level, Levels};
pub use stamp::{Stamp, Version};
pub use vector::{Error as VectorError, Vector};

/// The producer under whose name a structure that is not sound is mended. Every site records its entries in the audit trail.
pub const STRUCTURE_REPAIR: &str = "cfs-structure-repair";

/// The operations of the journal, generated from `proto/cfs/v1/op.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod op {
    include!(concat!(env!("OUT_DIR"), "/cfs.v1.rs"));
}
