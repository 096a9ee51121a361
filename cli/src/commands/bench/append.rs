//! `cfs bench append`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cfs_client::{Options, Producer, Target};
use cfs_config::Durability;
use cfs_model::StreamId;
use cfs_rpc::v1::StatusRequest;
use cfs_rpc::v1::inspect_client::InspectClient;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::follow;
use super::speed::{Quantiles, Speed};
use crate::bench::{self, Histogram, Load, Outcome, ProcessDelta, Replicas, Snapshot, Template};
use crate::output::{self, Document, Table};
use crate::{Context, client, namespace};

/// Entries in flight, over all producers: half of what a shipper queues.
pub(super) const IN_FLIGHT: usize = 16_384;
/// Inode of a root directory that is made because there is none.
pub(super) const NEW_ROOT: u64 = 1;

/// Arguments of `cfs bench append`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many entries to append, over all producers
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..1 << 33))]
    pub(super) entries: u64,
    /// Bytes of one encoded entry
    #[arg(long, value_name = "BYTES", default_value_t = 200)]
    pub(super) size: usize,
    /// How many producers append at the same time
    #[arg(long, value_name = "P", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(super) producers: u64,
    /// Entries in a second, over all producers [default: as fast as it goes]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) rate: Option<u64>,
    /// When an append counts as done: local or remote(K) [default: as the site is configured]
    #[arg(long, value_name = "DURABILITY")]
    pub(super) durability: Option<Durability>,
    /// Append at whichever site is primary, wherever that moves, and measure the gaps; this site's own processes need not
    /// run
    #[arg(long)]
    pub(super) follow_primary: bool,
    /// Append for so long instead of a number of entries
    #[arg(long, value_name = "SECONDS", requires = "follow_primary", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub(super) duration: Option<u64>,
    /// Write every acknowledged entry to this file, as JSON lines for `cfs bench verify`
    #[arg(long, value_name = "FILE", requires = "follow_primary")]
    pub(super) record: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Results {
    site: String,
    /// Replicas that were waited for.
    replicas: Vec<String>,
    #[serde(flatten)]
    speed: Speed,
    /// Null: there is no replica.
    replica_lag_ms: Option<Quantiles>,
    wire_bytes: u64,
    processes: Vec<ProcessDelta>,
}

impl Document for Results {
    const SCHEMA: &'static str = "cfs.bench-append/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let replicas = if self.replicas.is_empty() { "none".to_owned() } else { self.replicas.join(", ") };
        writeln!(out, "Appended at {}, replicas: {replicas}", self.site)?;
        self.speed.write_table(out)?;
        writeln!(out, "replica lag: {}", Quantiles::text(self.replica_lag_ms))?;
        writeln!(out, "bytes on the wire: {}", self.wire_bytes)?;
        let mut table = Table::new(&["PROCESS", ">CPU S", ">PEAK MEMORY"]);
        for p in &self.processes {
            let memory = format!("{:.1} MiB", p.rss_peak_bytes as f64 / f64::from(1u32 << 20));
            table.row([p.name.clone(), format!("{:.2}", p.cpu_s), memory]);
        }
        table.write(out)
    }
}

/// The site that is measured, and everything that is ready before the clock starts.
struct Prepared {
    inspect: InspectClient<Channel>,
    site: String,
    replicas: Vec<String>,
    stream: StreamId,
    loads: Vec<(Arc<Producer>, Load)>,
    entry_bytes: usize,
    first_lsn: u64,
}

/// Runs the command.
///
/// # Errors
/// When the site takes no appends, or a replica stops applying.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    if args.follow_primary {
        return follow::run(context, &args).await;
    }
    let prepared = prepare(context, &args).await?;
    if prepared.replicas.is_empty() {
        anstream::eprintln!("note: {} has no healthy replica: lag is not measured", prepared.site);
    }
    let results = measure(prepared, &args).await?;
    output::print(context.format(), &results)?;
    Ok(ExitCode::SUCCESS)
}

async fn prepare(context: &Context, args: &Args) -> anyhow::Result<Prepared> {
    let mut inspect = client::inspect(context).await?;
    let status = inspect.status(StatusRequest::default()).await.map_err(client::failed("report its status"))?;
    let status = status.into_inner();
    let healthy = status.peers.iter().filter(|peer| peer.state == "HEALTHY");
    let replicas: Vec<String> = healthy.map(|peer| peer.site.clone()).collect();
    for peer in status.peers.iter().filter(|peer| peer.state != "HEALTHY") {
        anstream::eprintln!("note: {} is {} and is not waited for", peer.site, peer.state);
    }
    let socket = context.config()?.shipper_socket();
    let run: u32 = rand::random();
    let mut producers = Vec::new();
    for index in 0..args.producers {
        producers.push(Arc::new(connect(socket.clone(), &format!("bench-{run:08x}-{index}"), args).await?));
    }
    let first = producers.first().context("there is no producer")?;
    let directories = make_directories(&mut inspect, first, run, args.producers).await?;
    let mut entry_bytes = 0;
    let mut loads = Vec::new();
    let mut made = args.producers + 1;
    for (index, (producer, parent)) in (0..).zip(producers.iter().zip(&directories.inodes)) {
        let entries = share(args.entries, args.producers, index);
        let template = Template::new(*parent, bench::inode(run, made), args.size)?;
        made += entries;
        entry_bytes = template.entry_bytes();
        let rate = args.rate.map(|rate| rate as f64 / args.producers as f64);
        let delay = args.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(index as f64 / rate as f64));
        loads.push((producer.clone(), Load { template, entries, rate, delay }));
    }
    let (stream, first_lsn) = (directories.stream, directories.last_lsn);
    Ok(Prepared { inspect, site: status.site, replicas, stream, loads, entry_bytes, first_lsn })
}

async fn connect(socket: PathBuf, name: &str, args: &Args) -> anyhow::Result<Producer> {
    let producers = usize::try_from(args.producers).unwrap_or(1);
    let options = Options {
        durability: args.durability.map(|durability| durability.to_string()).unwrap_or_default(),
        max_entries: IN_FLIGHT / producers,
        give_up_after: Some(crate::follow::PATIENCE),
        on_wait: Some(Arc::new(crate::follow::say_why)),
        ..Options::default()
    };
    Ok(Producer::connect(Target::Unix(socket), name, options).await?)
}

struct Directories {
    inodes: Vec<u64>,
    stream: StreamId,
    last_lsn: u64,
}

/// Makes `/bench-RUN/PRODUCER` for each producer.
async fn make_directories(
    inspect: &mut InspectClient<Channel>,
    producer: &Producer,
    run: u32,
    count: u64,
) -> anyhow::Result<Directories> {
    let root = match namespace::root(inspect).await? {
        Some(root) => root,
        None => {
            producer.append(&namespace::make_root(NEW_ROOT)).await?.await?;
            NEW_ROOT
        }
    };
    let top = bench::inode(run, 0);
    let name = format!("bench-{run:08x}");
    let mut ack = producer.append(&namespace::make_directory(root, name.as_bytes(), top)).await?.await?;
    let mut inodes = Vec::new();
    for index in 0..count {
        let inode = bench::inode(run, 1 + index);
        let directory = namespace::make_directory(top, index.to_string().as_bytes(), inode);
        ack = producer.append(&directory).await?.await?;
        inodes.push(inode);
    }
    Ok(Directories { inodes, stream: ack.stream, last_lsn: ack.lsn.0 })
}

/// How many of `entries` the producer with this index appends.
pub(super) const fn share(entries: u64, producers: u64, index: u64) -> u64 {
    entries / producers + if index < entries % producers { 1 } else { 0 }
}

async fn measure(prepared: Prepared, args: &Args) -> anyhow::Result<Results> {
    let Prepared { mut inspect, site, replicas, stream, loads, entry_bytes, first_lsn } = prepared;
    let before = snapshot(&mut inspect).await?;
    let watch = StatusRequest { cursors_only: true, ..StatusRequest::default() };
    let status = inspect.watch_status(watch).await.map_err(client::failed("report its cursors"))?.into_inner();
    let bar = progress_bar(args.entries);
    let (sent, acknowledged) = mpsc::unbounded_channel();
    let follow = {
        let bar = bar.clone();
        let progress = move |lsn: cfs_model::Lsn| bar.set_position(lsn.0.saturating_sub(first_lsn));
        tokio::spawn(Replicas::new(stream, replicas.clone()).follow(status, acknowledged, progress))
    };
    let memory = tokio::spawn(bench::watch_peak());
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (producer, load) in loads {
        tasks.spawn(bench::run_load(producer, load, sent.clone()));
    }
    drop(sent);
    let mut ack = Histogram::default();
    while let Some(done) = tasks.join_next().await {
        ack.merge(&done??);
    }
    let Outcome { lag, finished } = follow.await??;
    bar.finish_and_clear();
    memory.abort();
    let after = snapshot(&mut inspect).await?;
    let seconds = finished.saturating_duration_since(start).as_secs_f64();
    Ok(Results {
        site,
        replica_lag_ms: Quantiles::of(&lag).filter(|_| !replicas.is_empty()),
        replicas,
        speed: Speed::of(args.entries, entry_bytes, args.producers, seconds, &ack),
        wire_bytes: after.wire_bytes_since(&before),
        processes: after.since(&before),
    })
}

async fn snapshot(inspect: &mut InspectClient<Channel>) -> anyhow::Result<Snapshot> {
    let request = StatusRequest { all_sites: true, ..StatusRequest::default() };
    let reply = inspect.status(request).await.map_err(client::failed("report what processes use"))?.into_inner();
    Ok(Snapshot::of(&reply))
}

/// Entries applied on every replica; hidden off a terminal.
fn progress_bar(entries: u64) -> ProgressBar {
    let template = "{wide_bar} {percent}% {human_pos} of {human_len} entries, {per_sec}, {eta} left";
    let bar = ProgressBar::new(entries);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for (entries, producers) in [(10, 3), (2, 4), (7, 7), (1, 1)] {
            let sum: u64 = (0..producers).map(|index| share(entries, producers, index)).sum();
            assert_eq!(sum, entries);
        }
    }
}
