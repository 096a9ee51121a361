//! `cfs demo`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use cfs_rpc::v1::inspect_client::InspectClient;
use cfs_rpc::v1::{MetricsRequest, StatusRequest};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Channel;

use super::dev::up::look_around;
use super::meta::consistency_check;
use super::replication::metrics;
use crate::demo::{self, Change, Comparison, Imported};
use crate::dev::Cluster;
use crate::output::{self, Document, good_or_bad};
use crate::{Context, client};

const IDENTICAL: &str = "identical";
const DIFFERENT: &str = "DIFFERENT";
/// How long sites may take to come to the same position.
const CHECK_LIMIT: Duration = Duration::from_secs(10);

/// Arguments of `cfs demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tree whose metadata is replicated; it is only read
    #[arg(long, value_name = "PATH", default_value = "/usr/share")]
    tree: PathBuf,
    /// Leave the cluster running, and say how to look around
    #[arg(long)]
    keep: bool,
    /// Leave out the live changes and the check of every register
    #[arg(long)]
    fast: bool,
    /// Damage one value at the second site, to see the comparison fail
    #[arg(long)]
    tamper: bool,
}

/// What the demonstration found.
#[derive(Debug, Serialize)]
struct Outcome {
    tree: PathBuf,
    /// `identical` or `DIFFERENT`.
    verdict: &'static str,
    paths_compared: u64,
    paths_different: u64,
    /// The first ones.
    differences: Vec<String>,
    unreadable: u64,
    inodes: u64,
    entries: u64,
    seconds: f64,
    entries_per_s: f64,
    wire_bytes: u64,
    /// Share of bytes that compression saved; null: nothing was compressed.
    compression_ratio: Option<f64>,
    max_lag_ms: u64,
    changes: Vec<Change>,
    /// Result lines of `cfs admin meta consistency-check`.
    checks: Vec<String>,
}

impl Document for Outcome {
    const SCHEMA: &'static str = "cfs.demo/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{} paths, {} entries in {:.2} s: {:.0} entries/s from the tree to the other site's store",
            self.inodes, self.entries, self.seconds, self.entries_per_s
        )?;
        let saved = self.compression_ratio.map_or_else(|| "n/a".to_owned(), |ratio| format!("{:.0}%", ratio * 100.0));
        writeln!(
            out,
            "{:.2} MB on the wire, {saved} saved by compression, lag at most {} ms",
            self.wire_bytes as f64 / 1e6,
            self.max_lag_ms
        )?;
        for check in &self.checks {
            writeln!(out, "{check}")?;
        }
        for difference in &self.differences {
            writeln!(out, "  {difference}")?;
        }
        let same = self.verdict == IDENTICAL;
        let verdict = good_or_bad(self.verdict, same);
        let tree = self.tree.display();
        let (paths, different) = (self.paths_compared, self.paths_different);
        if same {
            writeln!(out, "VERDICT: {verdict}: all {paths} paths of {tree} are the same on the other site")
        } else {
            writeln!(out, "VERDICT: {verdict}: {different} of {paths} paths of {tree} differ, or a check above failed")
        }
    }
}

/// Runs the command. Exits with 1 if anything differs. What it started is ended, however it ends.
///
/// # Errors
/// When the sites cannot be started, the tree cannot be imported, or the run is interrupted.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let tree = std::fs::canonicalize(&args.tree).with_context(|| format!("cannot read {}", args.tree.display()))?;
    anyhow::ensure!(tree.is_dir(), "{} is no directory: choose another --tree", tree.display());
    let dir = tempfile::Builder::new().prefix("cfs-demo-").tempdir()?.keep();
    let mut cluster = Cluster::open_or_create(&dir, None, None)?;
    let outcome = tokio::select! {
        outcome = demonstrate(&mut cluster, &tree, &args) => outcome,
        name = interrupted() => Err(anyhow::anyhow!("interrupted by {}", name?)),
    };
    if args.keep && outcome.is_ok() {
        look_around(&cluster);
    } else {
        cluster.down(true)?;
    }
    let outcome = outcome?;
    output::print(context.format(), &outcome)?;
    Ok(if outcome.verdict == IDENTICAL { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn interrupted() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done.map(|()| "Ctrl-C"),
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = hangup.recv() => Ok("SIGHUP"),
    }
}

async fn demonstrate(cluster: &mut Cluster, tree: &Path, args: &Args) -> anyhow::Result<Outcome> {
    step("starting two sites with mTLS between them");
    cluster.start(0)?;
    cluster.start(1)?;
    cluster.make_ready(&[0, 1]).await?;
    let (mut source, mut replica) = (inspect(cluster, 0).await?, inspect(cluster, 1).await?);

    let name = |index: usize| cluster.sites()[index].name.to_string();
    step(&format!("importing {} at {}, which ships it to {}", tree.display(), name(0), name(1)));
    let config = cluster.config_path(&cluster.sites()[0]);
    let imported = demo::import(&config, tree, &mut source).await?;
    step(&format!("{} entries arrived after {:.2} s", imported.entries, imported.seconds));

    let mut changes = Vec::new();
    if !args.fast {
        step("making a few changes, each timed until the other site has applied it");
        let socket = cluster.socket(&cluster.sites()[0]);
        let show = |change: &Change| anstream::eprintln!("  {:7.2} ms  {}", change.ms, change.change);
        changes = demo::make_changes(socket, &mut source, &mut replica, show).await?;
    }
    if args.tamper {
        tamper(cluster, &mut replica).await?;
    }
    step("comparing every path on the other site with the tree");
    let comparison = demo::compare(tree, &mut inspect(cluster, 1).await?).await?;
    let checks = check(cluster, !args.fast).await?;
    summarise(&mut source, tree, imported, changes, comparison, checks).await
}

/// Damages one value behind the second site's back.
async fn tamper(cluster: &mut Cluster, replica: &mut InspectClient<Channel>) -> anyhow::Result<()> {
    let victim = demo::choose_victim(replica).await?;
    let site = &cluster.sites()[1];
    step(&format!("damaging the mode of {} in the store of {}, which is stopped for it", victim.path, site.name));
    let config = cfs_config::Config::load_with(Some(&cluster.config_path(site)), &[], [])?;
    cluster.end(1, false)?;
    demo::damage(config.meta_dir(), &victim)?;
    cluster.start(1)?;
    cluster.make_ready(&[0, 1]).await?;
    Ok(())
}

/// Digests against each other, and on request each site's registers against its own digest.
async fn check(cluster: &Cluster, local: bool) -> anyhow::Result<Vec<(String, bool)>> {
    step("comparing the sites' digests");
    let mut results = Vec::new();
    let mut one = async |index: usize, local: bool, what: &str| {
        let mut inspect = inspect(cluster, index).await?;
        let report = consistency_check::ask(&mut inspect, local, CHECK_LIMIT).await?;
        results.push((format!("{what} {}: {}", report.site, report.result_line()), report.matches()));
        anyhow::Ok(())
    };
    one(0, false, "digests of all sites, seen from").await?;
    if local {
        one(0, true, "every register of").await?;
        one(1, true, "every register of").await?;
    }
    Ok(results)
}

async fn summarise(
    source: &mut InspectClient<Channel>,
    tree: &Path,
    imported: Imported,
    changes: Vec<Change>,
    comparison: Comparison,
    checks: Vec<(String, bool)>,
) -> anyhow::Result<Outcome> {
    let status =
        source.status(StatusRequest::default()).await.map_err(client::failed("report its status"))?.into_inner();
    let text = source.metrics(MetricsRequest {}).await.map_err(client::failed("report its metrics"))?.into_inner().text;
    if imported.skipped + comparison.unreadable > 0 {
        anstream::eprintln!(
            "note: {} paths or attributes may not be read by this user and were left out",
            imported.skipped.max(comparison.unreadable)
        );
    }
    let same = comparison.different == 0 && checks.iter().all(|(_, matches)| *matches);
    Ok(Outcome {
        tree: tree.to_owned(),
        verdict: if same { IDENTICAL } else { DIFFERENT },
        paths_compared: comparison.paths,
        paths_different: comparison.different,
        differences: comparison.first,
        unreadable: comparison.unreadable,
        inodes: imported.seen,
        entries: imported.entries,
        seconds: imported.seconds,
        entries_per_s: imported.entries as f64 / imported.seconds,
        wire_bytes: status.peers.iter().map(|peer| peer.sent_bytes).sum(),
        compression_ratio: metrics::figure(&text, "compression_ratio"),
        max_lag_ms: imported.max_lag_ms,
        changes,
        checks: checks.into_iter().map(|(line, _)| line).collect(),
    })
}

async fn inspect(cluster: &Cluster, index: usize) -> anyhow::Result<InspectClient<Channel>> {
    let site = cluster.sites().get(index).context("the cluster has too few sites")?;
    Ok(client::inspect_on(cfs_rpc::unix::connect(&cluster.socket(site)).await?))
}

/// Says on standard error what comes next.
fn step(what: &str) {
    anstream::eprintln!("* {what}");
}
