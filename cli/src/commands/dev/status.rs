//! `cfs dev status`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use cfs_rpc::v1::{StatusReply, StatusRequest};
use serde::Serialize;

use crate::dev::{Cluster, Ports, Site};
use crate::output::{self, Document, Table};
use crate::{Context, client};

const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Arguments of `cfs dev status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster's directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Serialize)]
struct ClusterStatus {
    dir: PathBuf,
    cluster: String,
    sites: Vec<SiteStatus>,
}

/// One site: its process, and what it says of itself if it answers.
#[derive(Debug, Serialize)]
struct SiteStatus {
    site: String,
    running: bool,
    pid: Option<u32>,
    /// Null: it did not answer.
    status: Option<String>,
    role: Option<String>,
    epoch: Option<u64>,
    lag_ms: Option<u64>,
    incarnation: u64,
    ports: Ports,
    config: PathBuf,
    log: PathBuf,
    socket: PathBuf,
}

impl SiteStatus {
    async fn of(cluster: &Cluster, site: &Site) -> Self {
        let process = site.process.filter(|process| process.is_alive());
        let reply = match process {
            Some(_) => ask(cluster, site).await,
            None => None,
        };
        Self {
            site: site.name.to_string(),
            running: process.is_some(),
            pid: process.map(|process| process.pid),
            status: reply.as_ref().map(|reply| reply.status.clone()),
            role: reply.as_ref().map(|reply| reply.role.clone()),
            epoch: reply.as_ref().map(|reply| reply.epoch),
            lag_ms: reply.as_ref().map(|reply| reply.lag_ms),
            incarnation: site.incarnation,
            ports: site.ports,
            config: cluster.config_path(site),
            log: cluster.log_path(site),
            socket: cluster.socket(site),
        }
    }
}

async fn ask(cluster: &Cluster, site: &Site) -> Option<StatusReply> {
    let asking = async {
        let channel = cfs_rpc::unix::connect(&cluster.socket(site)).await.ok()?;
        Some(client::inspect_on(channel).status(StatusRequest::default()).await.ok()?.into_inner())
    };
    tokio::time::timeout(ANSWER_LIMIT, asking).await.ok().flatten()
}

impl Document for ClusterStatus {
    const SCHEMA: &'static str = "cfs.dev-status/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["SITE", "PROCESS", "STATUS", "ROLE", ">LAG", ">PORT", "CONFIGURATION"]);
        for s in &self.sites {
            let process = s.pid.map_or_else(|| "not running".to_owned(), |pid| format!("pid {pid}"));
            let status = match &s.status {
                Some(status) => status.clone(),
                None if s.running => "no answer".to_owned(),
                None => "-".to_owned(),
            };
            let lag = s.lag_ms.map_or_else(|| "-".to_owned(), |lag| format!("{lag}ms"));
            let role = s.role.clone().unwrap_or_else(|| "-".to_owned());
            table.row([
                s.site.clone(),
                process,
                status,
                role,
                lag,
                s.ports.peer.to_string(),
                s.config.display().to_string(),
            ]);
        }
        table.write(out)
    }
}

/// Runs the command.
///
/// # Errors
/// When there is no cluster.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::open(&args.dir)?;
    let mut sites = Vec::new();
    for site in cluster.sites() {
        sites.push(SiteStatus::of(&cluster, site).await);
    }
    let status = ClusterStatus { dir: cluster.dir().to_owned(), cluster: cluster.id().to_owned(), sites };
    output::print(context.format(), &status)?;
    Ok(ExitCode::SUCCESS)
}
