//! Clusters on one machine, for trying things out and for tests: `cfs dev`.
//!
//! Everything is in one directory: `dev.json` (what was made), `ca/`, and for each site `repl.toml`, `state/`,
//! `shipper.pid` and `shipper.log`. While there is no control plane, these commands hand out the epoch, the primary role
//! and incarnations, through the same service that a control process uses.

mod cluster;
mod error;
mod govern;
mod layout;
mod ports;
mod process;
mod ready;

pub use cluster::{Cluster, Site};
pub use error::Error;
pub use ports::Ports;
pub use process::Process;
pub use ready::Readiness;
