//! Measures how fast entries travel: what `cfs bench append` is made of.

mod chase;
mod entries;
mod gaps;
mod histogram;
mod load;
mod record;
mod replicas;
mod usage;

pub use chase::{Acknowledged, Chase, Chased, Counts, run as run_chase};
pub use entries::{Error as EntryError, Template, inode};
pub use gaps::{Gap, Gaps, Place, Primary};
pub use histogram::Histogram;
pub use load::{Load, Sent, run as run_load};
pub use record::{Entry as RecordEntry, Recorder, read as read_record};
pub use replicas::{Outcome, Replicas};
pub use usage::{ProcessDelta, Snapshot, watch_peak};
