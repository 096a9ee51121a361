//! `cfs dev kill`.

use std::process::ExitCode;

use super::PartArgs;
use crate::dev::{Cluster, End};

/// Runs the command.
///
/// # Errors
/// When a process is still there after 15 s.
pub fn run(args: &PartArgs) -> anyhow::Result<ExitCode> {
    let mut cluster = Cluster::open(&args.site.dir)?;
    let index = cluster.index(&args.site.site)?;
    let ran = cluster.end_parts(index, args.only, End::Kill)?;
    anstream::eprintln!("{} {}", args.site.site, if ran { "was killed" } else { "did not run" });
    Ok(ExitCode::SUCCESS)
}
