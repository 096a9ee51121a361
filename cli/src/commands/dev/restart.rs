//! `cfs dev restart`.

use std::process::ExitCode;

use super::StopArgs;
use super::start::start;
use crate::dev::Cluster;

/// Runs the command.
///
/// # Errors
/// When a process does not end, cannot be started, or does not answer after 20 s.
pub async fn run(args: StopArgs) -> anyhow::Result<ExitCode> {
    let mut cluster = Cluster::open(&args.part.site.dir)?;
    let index = cluster.index(&args.part.site.site)?;
    cluster.end_parts(index, args.part.only, args.how())?;
    start(&mut cluster, index, args.part.only).await?;
    Ok(ExitCode::SUCCESS)
}
