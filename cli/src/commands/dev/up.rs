//! `cfs dev up`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use cfs_model::SiteName;

use crate::dev::{Cluster, Plan};

/// Arguments of `cfs dev up`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster's directory; made if it is not there
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Names of the sites that store data, the first primary first, five at most [default: site-a,site-b]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    sites: Option<Vec<SiteName>>,
    /// Name of a site that only votes, which makes failover automatic [default: none]
    #[arg(long, value_name = "NAME")]
    witness: Option<SiteName>,
    /// First port; each site takes ten, and two more for each other site [default: where ports are free]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..))]
    base_port: Option<u16>,
    /// Make the files only: sites are started with `cfs dev start` and enrolled as in production
    #[arg(long)]
    bare: bool,
}

/// Runs the command.
///
/// # Errors
/// When files, ports or processes cannot be had, or when a site is not ready after 20 s.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let plan = Plan { sites: args.sites, witness: args.witness, base_port: args.base_port, by_hand: args.bare };
    let mut cluster = Cluster::open_or_create(&args.dir, &plan)?;
    if args.bare {
        let dir = cluster.dir().display();
        anstream::eprintln!(
            "nothing runs yet in {dir}; next:\n  cfs dev start --dir {dir} {}",
            cluster.sites()[0].name
        );
        return Ok(ExitCode::SUCCESS);
    }
    let indices: Vec<usize> = (0..cluster.sites().len()).collect();
    for index in &indices {
        cluster.start(*index)?;
    }
    cluster.make_ready(&indices).await?;
    anstream::eprintln!(
        "{} sites are ready after {:.1} s in {}",
        indices.len(),
        began.elapsed().as_secs_f64(),
        cluster.dir().display()
    );
    look_around(&cluster);
    Ok(ExitCode::SUCCESS)
}

/// Says on standard error what can be done with a cluster.
pub(crate) fn look_around(cluster: &Cluster) {
    let Some(first) = cluster.sites().first() else { return };
    let last = cluster.sites().iter().rfind(|site| !site.witness).unwrap_or(first);
    let (config, other) = (cluster.config_path(first), cluster.config_path(last));
    let dir = cluster.dir().display();
    let program = std::env::current_exe().unwrap_or_else(|_| "cfs".into());
    anstream::eprintln!(
        "look around:\n  alias cfs={}\n  export CFS_CONFIG={}\n  cfs admin replication status\n  cfs journal import --tree PATH\n  \
         cfs --config {} admin meta ls -R /\n  cfs admin meta consistency-check\n  cfs dev status --dir {dir}\nend it:\n  \
         cfs dev down --dir {dir} --purge",
        program.display(),
        config.display(),
        other.display(),
    );
}
