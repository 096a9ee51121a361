//! `cfs dev restart`.

use std::process::ExitCode;

use super::SiteArgs;
use super::start::start;
use crate::dev::Cluster;

/// Runs the command.
///
/// # Errors
/// When the process does not end, cannot be started, or is not ready after 20 s.
pub async fn run(args: SiteArgs) -> anyhow::Result<ExitCode> {
    let mut cluster = Cluster::open(&args.dir)?;
    let index = cluster.index(&args.site)?;
    cluster.end(index, false)?;
    start(&mut cluster, index).await?;
    Ok(ExitCode::SUCCESS)
}
