//! `cfs admin`: look into a running cluster and steer it.

use std::process::ExitCode;

use super::{meta, replication, tls};
use crate::Context;

/// What can be looked into.
#[allow(clippy::large_enum_variant, reason = "it is made once")]
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// The metadata store
    #[command(subcommand)]
    Meta(meta::Command),
    /// Replication between sites
    #[command(subcommand)]
    Replication(replication::Command),
    /// The cluster's authority and certificates
    #[command(subcommand)]
    Tls(tls::Command),
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Meta(command) => command.run(context).await,
            Self::Replication(command) => command.run(context).await,
            Self::Tls(command) => command.run(context).await,
        }
    }
}
