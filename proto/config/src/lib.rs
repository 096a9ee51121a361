//! The configuration file `repl.toml` that every process of a site reads: flag > environment > file > default.
//!
//! [`Config::load`] checks everything and reports all problems at once, each with its place and what would be right.
//! Pure but for reading the file.

mod assemble;
pub mod cluster;
mod config;
mod cross_check;
mod durability;
mod error;
mod period;
mod reread;
mod resolve;
mod schema;
mod setting;
mod size;
mod sources;

pub use config::{
    Audit, Cluster, Config, Control, DEFAULT_FILE, Disk, Journal, Listen, Log, LogFormat, Paths, Peer, Replication,
    Site, Store, SyncFallback,
};
pub use durability::{Durability, Error as DurabilityError};
pub use error::{Error, Problem};
pub use period::{Error as PeriodError, Period};
pub use reread::{Difference, Reread};
pub use setting::{Origin, Setting};
pub use size::{ByteSize, Error as ByteSizeError};
