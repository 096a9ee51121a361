//! `cfs dev start`.

use std::process::ExitCode;

use super::PartArgs;
use crate::dev::{Cluster, Part, Readiness};

/// Runs the command.
///
/// # Errors
/// When a process cannot be started or does not answer after 20 s.
pub async fn run(args: PartArgs) -> anyhow::Result<ExitCode> {
    let mut cluster = Cluster::open(&args.site.dir)?;
    let index = cluster.index(&args.site.site)?;
    start(&mut cluster, index, args.only).await?;
    Ok(ExitCode::SUCCESS)
}

/// Starts a site, waits until it is ready, and says so.
pub(super) async fn start(cluster: &mut Cluster, index: usize, only: Option<Part>) -> anyhow::Result<()> {
    let name = cluster.sites()[index].name.clone();
    let started = cluster.start_parts(index, only)?;
    // Other commands go on meanwhile, among them those that end what is waited for. Enrolment is recorded at its end.
    if cluster.sites()[index].enrolled {
        cluster.unlock();
    }
    for readiness in cluster.make_ready(&[index]).await? {
        match readiness {
            Readiness::Full if started => anstream::eprintln!("{name} is ready"),
            Readiness::Full => anstream::eprintln!("{name} ran already and is ready"),
            Readiness::Waits(why) => anstream::eprintln!("{name} runs, but {why}"),
        }
    }
    Ok(())
}
