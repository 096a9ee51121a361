//! `cfs admin replication status`.

use std::process::ExitCode;

use super::gather::{Gathered, gather};
use super::watch::{self, Watch};
use crate::Context;
use crate::output::Document;

mod table;
mod view;

pub(super) use table::duration_text;
use view::Status;

/// Arguments of `cfs admin replication status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Ask every site, and show its position, vote and version, and who hears whom
    #[arg(long)]
    detailed: bool,
    /// Again and again
    #[command(flatten)]
    watch: Watch,
}

/// Runs the command. Answers within three seconds.
///
/// # Errors
/// When neither the control process nor the shipper of this site answers.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let look = async || {
        let gathered = gather(context, args.detailed).await?;
        Ok(Status::of(&gathered, args.detailed))
    };
    watch::show(context, &args.watch, look).await
}

/// Everything that is known, as `--detailed` shows it.
pub(super) fn document(gathered: &Gathered) -> impl Document + use<> {
    Status::of(gathered, true)
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
