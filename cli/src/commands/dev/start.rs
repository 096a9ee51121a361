//! `cfs dev start`.

use std::process::ExitCode;

use super::SiteArgs;
use crate::dev::{Cluster, Readiness};

/// Runs the command.
///
/// # Errors
/// When the process cannot be started or is not ready after 20 s.
pub async fn run(args: SiteArgs) -> anyhow::Result<ExitCode> {
    let mut cluster = Cluster::open(&args.dir)?;
    let index = cluster.index(&args.site)?;
    start(&mut cluster, index).await?;
    Ok(ExitCode::SUCCESS)
}

/// Starts a site, waits until it is ready, and says so.
pub(super) async fn start(cluster: &mut Cluster, index: usize) -> anyhow::Result<()> {
    let name = cluster.sites()[index].name.clone();
    let started = cluster.start(index)?;
    for readiness in cluster.make_ready(&[index]).await? {
        match readiness {
            Readiness::Full if started => anstream::eprintln!("{name} is ready"),
            Readiness::Full => anstream::eprintln!("{name} ran already and is ready"),
            Readiness::Waits(why) => anstream::eprintln!("{name} runs, but {why}"),
        }
    }
    Ok(())
}
