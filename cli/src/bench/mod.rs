//! Measures how fast entries travel: what `cfs bench append` is made of.

mod entries;
mod histogram;
mod load;
mod replicas;
mod usage;

pub use entries::{Error as EntryError, Template, inode};
pub use histogram::Histogram;
pub use load::{Load, Sent, run as run_load};
pub use replicas::{Outcome, Replicas};
pub use usage::{ProcessDelta, Snapshot, watch_peak};
