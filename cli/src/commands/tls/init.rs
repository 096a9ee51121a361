//! `cfs admin tls init`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;
use cfs_config::Config;
use cfs_model::ClusterId;
use cfs_rpc::ca::{Authority, CA_CERTIFICATE};
use cfs_rpc::identity::Role;
use rand::RngCore;
use serde::Serialize;

use super::{authority_dir, issue_to};
use crate::output::{self, Document};
use crate::{Context, founding};

/// Arguments of `cfs admin tls init`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to make the authority [default: ca, beside the configuration]
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    site: String,
    cluster: String,
    ca_dir: PathBuf,
    tls_dir: PathBuf,
    founding_file: PathBuf,
    config: PathBuf,
}

impl Document for Made {
    const SCHEMA: &'static str = "cfs.tls-init/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Cluster: {}", self.cluster)?;
        writeln!(out, "Authority: {}", self.ca_dir.display())?;
        writeln!(out, "Certificates of {}: {}", self.site, self.tls_dir.display())?;
        writeln!(out, "Founding file: {}", self.founding_file.display())
    }
}

/// Runs the command. Blocks.
///
/// # Errors
/// When there is an authority already, or anything else that a cluster left; then nothing was changed.
pub fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut id = [0; 16];
    rand::rng().fill_bytes(&mut id);
    let cluster = ClusterId(id);
    // What the file says of the cluster is of no account: a copied example must not make two clusters one. Everything else
    // in it must be right.
    let config = Config::load(Some(context.config_path()), &[("cluster.id", &cluster.to_string())])
        .with_context(|| format!("the configuration {} cannot be used", context.config_path().display()))?;
    let ca_dir = authority_dir(context, args.ca_dir);
    check_is_new(&config, &ca_dir)?;
    let authority = Authority::create(&ca_dir, cluster, SystemTime::now())?;
    issue_to(&authority, authority.cert_pem(), &config.site.name, &Role::ALL, config.tls_dir())?;
    founding::write(&config.founding_file(), cluster)?;
    let made = Made {
        site: config.site.name.to_string(),
        cluster: cluster.to_string(),
        ca_dir,
        tls_dir: config.tls_dir().to_owned(),
        founding_file: config.founding_file(),
        config: config.file.clone(),
    };
    output::print(context.format(), &made)?;
    anstream::eprintln!(
        "next:\n  write into {config}, in place of any other id, and into that of every other site:\n    [cluster]\n    id = \"{cluster}\"\n  \
         for each other site: `cfs admin tls issue SITE --out DIR`, and copy DIR to its paths.tls\n  \
         start the processes of {site}, which becomes the first primary, and then those of the others\n\
         keep a copy of {ca}, away from the sites: without it no site can be added",
        config = made.config.display(),
        site = made.site,
        ca = made.ca_dir.display(),
    );
    Ok(ExitCode::SUCCESS)
}

/// Refuses where a cluster was made before: a second authority would lock every site out, and a second founding would make
/// a second cluster.
fn check_is_new(config: &Config, ca_dir: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        !config.site.witness,
        "{} is a witness (site.kind), and the first site of a cluster is its first primary: run this at a site that \
         stores data",
        config.site.name
    );
    let founding = config.founding_file();
    let left = [
        (ca_dir.join(CA_CERTIFICATE), "an authority is there already"),
        (config.tls_dir().join(CA_CERTIFICATE), "this site has certificates already"),
        (founding, "a cluster is about to be founded with it"),
    ];
    for (path, what) in left {
        anyhow::ensure!(
            !path.exists(),
            "{} exists: {what}. Nothing was changed. To begin anew, remove it first, and with it the state below {}",
            path.display(),
            config.paths.state.display()
        );
    }
    let state = config.control_dir();
    let used = std::fs::read_dir(state).is_ok_and(|mut entries| entries.next().is_some());
    anyhow::ensure!(
        !used,
        "{} is not empty: this site belongs to a cluster already. Nothing was changed; `cfs admin replication status` \
         shows the cluster",
        state.display()
    );
    Ok(())
}
