//! `cfs dev stop`.

use std::process::ExitCode;

use super::StopArgs;
use crate::dev::Cluster;

/// Runs the command.
///
/// # Errors
/// When a process is still there long after the signal.
pub fn run(args: &StopArgs) -> anyhow::Result<ExitCode> {
    let mut cluster = Cluster::open(&args.part.site.dir)?;
    let site = &args.part.site.site;
    let index = cluster.index(site)?;
    let ran = cluster.end_parts(index, args.part.only, args.how())?;
    anstream::eprintln!("{site} {}", if ran { "was stopped" } else { "did not run" });
    Ok(ExitCode::SUCCESS)
}
