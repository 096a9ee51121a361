//! Appends to the metadata journal: what a file system's metadata service embeds.
//!
//! A [`Producer`] numbers its entries, keeps many in flight, reconnects for ever and sends again what the journal does
//! not hold, so that each entry is appended exactly once, whatever broke in between. [`Producer::append`] waits for room
//! and hands out an [`Append`], a future that ends when the entry is as durable as asked.
//!
//! ```no_run
#![doc = include_str!("../examples/embed.rs")]
//! ```

mod append;
mod driver;
mod error;
mod in_flight;
mod lease;
mod options;
mod patience;
mod producer;
mod route;
mod scout;
mod session;
mod shared;
mod sites;

pub use append::{Append, Permit};
pub use cfs_rpc::v1::RoleState;
pub use error::{Error, Fatal};
pub use options::{OnWait, Options, Target};
pub use producer::{Ack, Producer};
