//! The shipper of one site: group-commits the journal, streams it between sites over mTLS, applies it to the metadata
//! store, and obeys the current epoch.
//!
//! An entry's way is in `path`, in the order of the journey. What all parts share is the `node`.

mod audit;
mod behind;
mod bootstrap;
mod contested;
mod descent;
mod dial;
mod digests;
mod directed;
mod fatal;
mod forget;
mod governed;
mod governor;
mod http;
mod inspect;
mod metrics;
mod node;
mod path;
mod peers;
mod positions;
mod probe;
mod rebuild;
mod recent;
mod report;
mod reread;
mod restate;
mod resync;
mod retention;
mod role;
mod settings;
mod signal;
mod space;
mod start;
mod status;
mod sync_time;
mod unshared;
mod verify;
mod worker;

pub use start::main_with;
