//! The configuration file `repl.toml` that every process of a site reads: flag > environment > file > default.
//!
//! [`Config::load`] checks everything and reports all problems at once, each with its place and what would be right.
//! Pure but for reading the file.

mod assemble;
mod config;
mod cross_check;
mod durability;
mod error;
mod resolve;
mod schema;
mod setting;
mod size;
mod sources;

pub use config::{
    Cluster, Config, DEFAULT_FILE, Disk, Journal, Listen, Log, LogFormat, Paths, Peer, Replication, Site, Store,
    SyncFallback,
};
pub use durability::{Durability, Error as DurabilityError};
pub use error::{Error, Problem};
pub use setting::{Origin, Setting};
pub use size::{ByteSize, Error as ByteSizeError};
