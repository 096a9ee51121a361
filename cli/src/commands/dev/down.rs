//! `cfs dev down`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::dev::Cluster;

/// Arguments of `cfs dev down`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster's directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Also remove the directory with everything in it
    #[arg(long)]
    purge: bool,
}

/// Runs the command.
///
/// # Errors
/// When a process survives or a file cannot be removed.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::open(&args.dir)?;
    let dir = cluster.dir().to_owned();
    cluster.down(args.purge)?;
    let what = if args.purge { "stopped and removed" } else { "stopped; `cfs dev up` starts it again" };
    anstream::eprintln!("the cluster in {} was {what}", dir.display());
    Ok(ExitCode::SUCCESS)
}
