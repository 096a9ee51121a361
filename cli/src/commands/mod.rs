//! One module for each noun, one file for each verb.

use std::process::ExitCode;

use crate::Context;

pub mod journal;

/// What `cfs` can do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write to and look into the journal
    #[command(subcommand)]
    Journal(journal::Command),
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// What happened, to what, and what to do next.
    pub async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Journal(command) => command.run(context).await,
        }
    }
}
