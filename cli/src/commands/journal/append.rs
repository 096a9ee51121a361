//! `cfs journal append`.

use std::process::ExitCode;

use crate::Context;

/// Arguments of `cfs journal append`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// What happened, to what, and what to do next.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let _ = (context, args);
    Ok(ExitCode::SUCCESS)
}
