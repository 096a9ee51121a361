//! The control process of one site: a voter in the group that owns membership, epochs, leases and the primary role.
//!
//! What is decided is decided in `cfs-control-core`; here it is carried out. What all parts share is in `control`. The way
//! of a lease: `reporter` tells the leader of this site, `lead` answers after a round of the group, `attend` hands the
//! deadline to the shipper.

mod admin;
mod alive;
mod attend;
mod contact;
mod control;
mod decisions;
mod grpc;
mod hears;
mod hooks;
mod http;
mod inspect;
mod join;
mod lead;
mod member;
mod membership;
mod metrics;
mod orders;
pub mod raft;
mod reporter;
mod reread;
mod sealed;
mod signals;
mod start;
mod status;
mod stop;
mod watchdog;
mod wire;
mod words;

pub use start::main_with;
