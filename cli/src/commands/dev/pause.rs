//! `cfs dev pause` and `cfs dev resume`.

use std::process::ExitCode;

use super::SiteArgs;
use crate::dev::Cluster;

/// Runs the command.
///
/// # Errors
/// When a process cannot be signalled.
pub fn run(args: &SiteArgs, pause: bool) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::look(&args.dir)?;
    let index = cluster.index(&args.site)?;
    let any = cluster.pause(index, pause)?;
    let what = match (any, pause) {
        (false, _) => "does not run",
        (true, true) => "is paused",
        (true, false) => "goes on",
    };
    anstream::eprintln!("{} {what}", args.site);
    Ok(ExitCode::SUCCESS)
}
