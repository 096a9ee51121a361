//! `cfs bench`: measure.

use std::process::ExitCode;

use crate::Context;

pub mod append;
mod follow;
mod follow_results;
mod speed;
pub mod verify;

/// Verbs of `cfs bench`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Append entries and follow them to every replica
    Append(append::Args),
    /// Look whether this site holds every entry that a benchmark recorded as acknowledged
    Verify(verify::Args),
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Append(args) => append::run(context, args).await,
            Self::Verify(args) => verify::run(context, args).await,
        }
    }
}
