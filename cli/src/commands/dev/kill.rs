//! `cfs dev kill`.

use std::process::ExitCode;

use super::SiteArgs;
use crate::dev::Cluster;

/// Runs the command.
///
/// # Errors
/// When the process is still there after 15 s.
pub fn run(args: &SiteArgs) -> anyhow::Result<ExitCode> {
    let mut cluster = Cluster::open(&args.dir)?;
    let index = cluster.index(&args.site)?;
    let ran = cluster.end(index, true)?;
    anstream::eprintln!("{} {}", args.site, if ran { "was killed" } else { "did not run" });
    Ok(ExitCode::SUCCESS)
}
