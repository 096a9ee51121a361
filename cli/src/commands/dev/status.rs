//! `cfs dev status`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use cfs_rpc::v1::{StatusReply, StatusRequest};
use serde::Serialize;

use crate::dev::{self, Cluster, Part, Ports, Rule, Site};
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
    /// The control plane's leader, as the first control process that answers knows it.
    leader: Option<String>,
    proxy: ProxyStatus,
    faults: Vec<Rule>,
}

#[derive(Debug, Serialize)]
struct ProxyStatus {
    running: bool,
    pid: Option<u32>,
}

/// One site: its processes, and what they say of themselves if they answer.
#[derive(Debug, Serialize)]
struct SiteStatus {
    site: String,
    /// `data` or `witness`.
    kind: &'static str,
    /// Its shipper.
    running: bool,
    pid: Option<u32>,
    control_running: bool,
    control_pid: Option<u32>,
    /// Whether any of its processes is stopped in its tracks.
    paused: bool,
    /// Null: it did not answer.
    status: Option<String>,
    role: Option<String>,
    epoch: Option<u64>,
    lag_ms: Option<u64>,
    /// Of its stream, the latest that is known; 0: none.
    incarnation: u64,
    ports: Ports,
    config: PathBuf,
    log: PathBuf,
    control_log: PathBuf,
    socket: PathBuf,
    control_socket: PathBuf,
    /// What its control process knows as leader.
    #[serde(skip)]
    leader: Option<String>,
}

impl SiteStatus {
    async fn of(cluster: &Cluster, site: &Site) -> Self {
        let pid = |part: Part| site.process(part).filter(|process| process.is_alive()).map(|process| process.pid);
        let (shipper, control) = (pid(Part::Shipper), pid(Part::Control));
        let asking = async { if shipper.is_some() { ask(cluster, site).await } else { None } };
        let (reply, answer) = tokio::join!(asking, async {
            if control.is_some() { dev::ask(&cluster.control_socket(site)).await.ok() } else { None }
        });
        let leader = answer.as_ref().map(|answer| answer.leader.clone()).filter(|leader| !leader.is_empty());
        let here = answer.and_then(|answer| answer.here).filter(|_| site.witness);
        let own = |reply: &StatusReply| {
            let streams = reply.cursors.iter().filter(|cursor| cursor.site == u32::from(site.id.0));
            streams.map(|cursor| cursor.incarnation).max()
        };
        Self {
            site: site.name.to_string(),
            kind: if site.witness { "witness" } else { "data" },
            running: shipper.is_some(),
            pid: shipper,
            control_running: control.is_some(),
            control_pid: control,
            paused: [Part::Control, Part::Shipper]
                .iter()
                .any(|p| site.process(*p).is_some_and(dev::Process::is_paused)),
            status: reply.as_ref().map(|reply| reply.status.clone()).or(here.as_ref().map(|here| here.state.clone())),
            role: reply.as_ref().map(|reply| reply.role.clone()).or(here.as_ref().map(|here| here.role.clone())),
            epoch: reply.as_ref().map(|reply| reply.epoch).or(here.as_ref().map(|here| here.epoch)),
            lag_ms: reply.as_ref().map(|reply| reply.lag_ms),
            incarnation: reply.as_ref().and_then(own).unwrap_or(0),
            ports: site.ports,
            config: cluster.config_path(site),
            log: cluster.log_path(site, if site.witness { Part::Control } else { Part::Shipper }),
            control_log: cluster.log_path(site, Part::Control),
            socket: cluster.socket(site),
            control_socket: cluster.control_socket(site),
            leader,
        }
    }

    fn processes(&self) -> String {
        let shown = |name: &str, pid: Option<u32>| match pid {
            Some(pid) => format!("{name} {pid}"),
            None => format!("no {name}"),
        };
        let control = shown("control", self.control_pid);
        let paused = if self.paused { " (paused)" } else { "" };
        match self.kind {
            "witness" => format!("{control}{paused}"),
            _ => format!("{control}, {}{paused}", shown("shipper", self.pid)),
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
        let mut table = Table::new(&["SITE", "PROCESSES", "STATUS", "ROLE", ">LAG", ">PORT", "CONFIGURATION"]);
        for s in &self.sites {
            let status = match &s.status {
                Some(status) => status.clone(),
                None if s.running || s.control_running => "no answer".to_owned(),
                None => "-".to_owned(),
            };
            let lag = s.lag_ms.map_or_else(|| "-".to_owned(), |lag| format!("{lag}ms"));
            let role = s.role.clone().unwrap_or_else(|| "-".to_owned());
            let port = if s.kind == "witness" { s.ports.control } else { s.ports.peer };
            let processes = s.processes();
            table.row([s.site.clone(), processes, status, role, lag, port.to_string(), s.config.display().to_string()]);
        }
        table.write(out)?;
        writeln!(out, "Leader: {}", self.leader.as_deref().unwrap_or("none known"))?;
        for rule in &self.faults {
            let fault = rule.fault;
            let mut words = Vec::new();
            words.extend(fault.cut.then(|| "cut".to_owned()));
            words.extend((fault.delay_ms > 0).then(|| format!("{} ms later", fault.delay_ms)));
            words.extend(fault.bandwidth.map(|bytes| format!("{bytes} bytes/s")));
            writeln!(out, "Link {} to {}: {}", rule.from, rule.to, words.join(", "))?;
        }
        if !self.proxy.running && self.sites.len() > 1 {
            writeln!(out, "Fault proxy: not running; no site reaches another")?;
        }
        Ok(())
    }
}

/// Runs the command.
///
/// # Errors
/// When there is no cluster.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::look(&args.dir)?;
    let sites = futures::future::join_all(cluster.sites().iter().map(|site| SiteStatus::of(&cluster, site))).await;
    let proxy = cluster.proxy();
    let status = ClusterStatus {
        dir: cluster.dir().to_owned(),
        cluster: cluster.id().to_owned(),
        leader: sites.iter().find_map(|site| site.leader.clone()),
        sites,
        proxy: ProxyStatus { running: proxy.is_some(), pid: proxy.map(|process| process.pid) },
        faults: cluster.faults()?.rules().to_vec(),
    };
    output::print(context.format(), &status)?;
    Ok(ExitCode::SUCCESS)
}
