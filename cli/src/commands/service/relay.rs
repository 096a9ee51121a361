//! `cfs __service relay`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::relay;

/// Arguments of `cfs __service relay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A unit whose lines are printed
    #[arg(long = "unit", value_name = "UNIT", required = true)]
    units: Vec<String>,
    /// Where to keep how far they were printed
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Runs the command, until SIGTERM and then until the units have stopped.
///
/// # Errors
/// When a unit does not start, or systemd cannot be asked.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    relay::run(args.units, args.keep).await?;
    Ok(ExitCode::SUCCESS)
}
