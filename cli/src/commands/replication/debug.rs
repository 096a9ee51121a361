//! `cfs admin replication debug`.

use std::process::ExitCode;

use crate::Context;

mod bundle;
mod merge;
mod trace;

/// Arguments of `cfs admin replication debug`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    trace: trace::Trace,
}

/// Verbs of `cfs admin replication debug`.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write one archive with what all sites know, for whoever helps; without keys, tokens and values of entries
    Bundle(bundle::Args),
}

/// Runs the command.
///
/// # Errors
/// When neither process answers, the caller may not ask, or the archive cannot be written.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(Command::Bundle(args)) => bundle::run(context, args).await,
        None => trace::run(context, args.trace).await,
    }
}
