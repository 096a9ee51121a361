//! `cfs bench`: measure.

use std::process::ExitCode;

use crate::Context;

pub mod append;

/// Verbs of `cfs bench`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Append entries and follow them to every replica
    Append(append::Args),
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Append(args) => append::run(context, args).await,
        }
    }
}
