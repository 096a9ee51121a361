//! The shipper of one site: group-commits the journal, streams it between sites over mTLS, applies it to the metadata
//! store, and obeys the current epoch.
//!
//! An entry's way is in `path`, in the order of the journey. What all parts share is the `node`.

mod dial;
mod digests;
mod fatal;
mod forget;
mod governor;
mod http;
mod inspect;
mod metrics;
mod node;
mod path;
mod peers;
mod positions;
mod role;
mod signal;
mod space;
mod start;
mod status;
mod usage;
mod worker;

pub use start::main_with;
