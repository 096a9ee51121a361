//! `cfs journal`: write to and look into the journal.

use std::process::ExitCode;

use crate::Context;

pub mod append;
pub mod dump;
pub mod import;
pub mod verify;

/// Verbs of `cfs journal`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Append the metadata of a directory tree
    Import(import::Args),
    /// Append operations read as JSON lines from standard input
    Append(append::Args),
    /// Print a stream's entries from the journal's files
    Dump(dump::Args),
    /// Check every byte of a journal's files
    Verify(verify::Args),
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Import(args) => import::run(context, args).await,
            Self::Append(args) => append::run(context, args).await,
            Self::Dump(args) => dump::run(context, &args),
            Self::Verify(args) => verify::run(context, &args),
        }
    }
}
