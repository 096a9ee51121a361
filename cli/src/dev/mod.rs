//! Clusters on one machine, for trying things out and for tests: `cfs dev`.
//!
//! Everything is in one directory: `dev.json` (what was made), `ca/`, and for each site `repl.toml`, `state/`, and pid and
//! log of its control process and its shipper. Sites reach each other through the fault proxy ([`proxy`]), whose rules are
//! `faults.json`.

mod admin;
mod cluster;
mod error;
mod faults;
mod layout;
mod ports;
mod process;
mod processes;
pub mod proxy;
mod ready;
mod record;

pub use admin::{Error as AdminError, ask, lead};
pub use cluster::{Cluster, Plan};
pub use error::Error;
pub use faults::{Error as FaultsError, Fault, Faults, Rule};
pub use ports::Ports;
pub use process::Process;
pub use processes::End;
pub use ready::Readiness;
pub use record::{Part, Site};
