//! `cfs bench append --follow-primary`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use cfs_client::{Ack, Options, Producer, Target};
use cfs_config::Config;
use cfs_model::{Epoch, SiteId};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;

use super::append::{Args, IN_FLIGHT, NEW_ROOT, share};
use super::follow_results::Results;
use super::speed::Speed;
use crate::bench::{
    self, Acknowledged, Chase, Chased, Counts, Gaps, Histogram, Place, RecordEntry, Recorder, Template,
};
use crate::{Context, client, follow, namespace, output};

/// How long the local shipper may take to say where the root is.
const ROOT_LIMIT: Duration = Duration::from_secs(2);
/// Inodes that each producer may use when only the time is bounded.
const UNBOUNDED: u64 = 1 << 27;
/// Acknowledgements between a producer and the record.
const WAITING: usize = 256;

/// The sites' names by number, and who acknowledged when.
struct Watch {
    names: BTreeMap<SiteId, String>,
    gaps: Mutex<Gaps>,
}

impl Watch {
    fn new(config: &Config) -> Self {
        let peers = config.peers.iter().map(|peer| (peer.id, peer.name.to_string()));
        let names = peers.chain([(config.site.id, config.site.name.to_string())]).collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        Self { names, gaps: Mutex::new(Gaps::new(Instant::now(), unix_ms)) }
    }

    fn gaps(&self) -> MutexGuard<'_, Gaps> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, ack: &Ack) -> Place {
        let site = ack.stream.site;
        let site = self.names.get(&site).cloned().unwrap_or_else(|| format!("site number {site}"));
        Place { site, epoch: ack.epoch.0 }
    }

    /// Follows one producer's acknowledgements until it ends.
    async fn follow(self: Arc<Self>, mut acks: broadcast::Receiver<Ack>) {
        let mut highest = 0;
        loop {
            match acks.recv().await {
                // A new session begins with an acknowledgement of what is known already.
                Ok(ack) if ack.seq > highest => {
                    highest = ack.seq;
                    let place = self.place(&ack);
                    self.gaps().acknowledged(ack.received, &place);
                }
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}

/// One producer and where its entries begin.
struct Share {
    producer: Arc<Producer>,
    name: String,
    parent: u64,
    first_inode: u64,
    first_seq: u64,
    entries: u64,
}

/// Runs the benchmark: goes on through failovers, and prints how long they took for a producer. Exits with 1 if the fate
/// of an entry stayed unknown.
///
/// # Errors
/// When no site takes appends at the start, or the record cannot be written.
pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let config = context.config()?;
    let target = follow::target(&config)?;
    let watch = Arc::new(Watch::new(&config));
    let recorder = args.record.as_deref().map(Recorder::create).transpose()?;
    let connecting = tokio::time::timeout(follow::PATIENCE, prepare(context, args, &target));
    let shares = connecting.await.with_context(|| format!("no site took appends for {:?}", follow::PATIENCE))??;
    let first = shares.first().context("there is no producer")?;
    let entry_bytes = Template::new(first.parent, first.first_inode, args.size)?.entry_bytes();
    let (stop, stopped) = watch::channel(false);
    let counts = Arc::new(Counts::default());
    let producers: Vec<_> = shares.iter().map(|share| share.producer.clone()).collect();
    let (mut chases, mut followers, mut records) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    let start = Instant::now();
    for (index, share) in (0..).zip(shares) {
        followers.spawn(watch.clone().follow(share.producer.acks()));
        let (acknowledged, to_record) = mpsc::channel(WAITING);
        let load = Chase {
            template: Template::new(share.parent, share.first_inode, args.size)?,
            entries: share.entries,
            rate: args.rate.map(|rate| rate as f64 / args.producers as f64),
            delay: args.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(f64::from(index) / rate as f64)),
            stop: stopped.clone(),
            patience: follow::PATIENCE,
            counts: counts.clone(),
        };
        chases.spawn(bench::run_chase(share.producer.clone(), load, acknowledged));
        let entries = recorder.as_ref().map(Recorder::entries);
        records.spawn(record(watch.clone(), share, to_record, entries));
    }
    let chased = chase(chases, stop, args, &counts, &watch, context.verbose()).await?;
    let end = Instant::now();
    followers.shutdown().await;
    while let Some(recorded) = records.join_next().await {
        recorded?;
    }
    if let Some(recorder) = recorder {
        let written = tokio::task::spawn_blocking(|| recorder.finish()).await?;
        written.context("the record could not be written")?;
    }
    if chased.unknown > 0 {
        watch.gaps().given_up(end);
    }
    let seconds = end.duration_since(start).as_secs_f64();
    let gaps = watch.gaps();
    let results = Results {
        speed: Speed::of(chased.acknowledged, entry_bytes, args.producers, seconds, &chased.latency),
        longest_gap_ms: gaps.longest.as_ref().map_or(0.0, |gap| gap.ms),
        longest_gap: gaps.longest.clone(),
        gaps: gaps.listed.clone(),
        primary_changes: gaps.primaries.len().saturating_sub(1),
        primaries: gaps.primaries.clone(),
        resent: producers.iter().map(|producer| producer.resent()).sum(),
        unknown: chased.unknown,
        failure: chased.failure,
    };
    drop(gaps);
    let complete = results.unknown == 0 && results.failure.is_none();
    output::print(context.format(), &results)?;
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits for the producers, stops them when it is time or when asked to from the terminal, and says each second how far
/// they came.
async fn chase(
    mut chases: JoinSet<Chased>,
    stop: watch::Sender<bool>,
    args: &Args,
    counts: &Counts,
    watch: &Watch,
    verbose: bool,
) -> anyhow::Result<Chased> {
    let start = tokio::time::Instant::now();
    let until = args.duration.map(|seconds| start + Duration::from_secs(seconds));
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut all = Chased { latency: Histogram::default(), acknowledged: 0, unknown: 0, failure: None };
    let (mut before, mut stopping) = (0, false);
    loop {
        tokio::select! {
            done = chases.join_next() => {
                let Some(done) = done else { return Ok(all) };
                let done = done?;
                all.latency.merge(&done.latency);
                all.acknowledged += done.acknowledged;
                all.unknown += done.unknown;
                all.failure = all.failure.or(done.failure);
                // One that failed shows what all would.
                if all.failure.is_some() {
                    stop.send_replace(true);
                }
            }
            () = async { tokio::time::sleep_until(until.unwrap_or(start)).await }, if until.is_some() && !stopping => {
                stopping = true;
                stop.send_replace(true);
            }
            interrupted = tokio::signal::ctrl_c(), if !stopping => {
                interrupted?;
                stopping = true;
                stop.send_replace(true);
            }
            _ = second.tick(), if verbose => {
                let appended = counts.appended.load(Ordering::Relaxed);
                let acknowledged = counts.acknowledged.load(Ordering::Relaxed);
                let (longest, primary) = {
                    let gaps = watch.gaps();
                    (gaps.longest.as_ref().map_or(0.0, |gap| gap.ms), gaps.primaries.last().map(|p| p.place.clone()))
                };
                let primary = primary.map_or_else(|| "nobody yet".to_owned(), |p| format!("{} in epoch {}", p.site, Epoch(p.epoch)));
                anstream::eprintln!(
                    "{:>5} s  {acknowledged} acknowledged, {} in this second, {} in flight, longest gap {longest:.0} ms, by {primary}",
                    start.elapsed().as_secs(), acknowledged - before, appended.saturating_sub(acknowledged)
                );
                before = acknowledged;
            }
        }
    }
}

/// Passes what was acknowledged to the record, if there is one.
async fn record(
    watch: Arc<Watch>,
    share: Share,
    mut acknowledged: mpsc::Receiver<Acknowledged>,
    record: Option<mpsc::Sender<Vec<RecordEntry>>>,
) {
    while let Some(Acknowledged { first, count, ack }) = acknowledged.recv().await {
        let Some(record) = &record else { continue };
        let (place, unix_ms) = (watch.place(&ack), watch.gaps().unix_ms(ack.received));
        let entry = |number: u64| RecordEntry {
            producer: share.name.clone(),
            seq: share.first_seq + number,
            parent: share.parent,
            inode: share.first_inode + number,
            unix_ms,
            site: place.site.clone(),
            epoch: place.epoch,
            stream: ack.stream.to_string(),
            lsn: ack.lsn.0,
        };
        if record.send((first..first + count).map(entry).collect()).await.is_err() {
            // Finishing the record says why.
            return;
        }
    }
}

/// Connects the producers and makes `/bench-RUN/PRODUCER` for each.
async fn prepare(context: &Context, args: &Args, target: &Target) -> anyhow::Result<Vec<Share>> {
    let run: u32 = rand::random();
    let producers = usize::try_from(args.producers).unwrap_or(1);
    let options = Options {
        durability: args.durability.map(|durability| durability.to_string()).unwrap_or_default(),
        max_entries: IN_FLIGHT / producers,
        ..Options::default()
    };
    let mut shares = Vec::new();
    let mut made = args.producers + 1;
    for index in 0..args.producers {
        let name = format!("bench-{run:08x}-{index}");
        let producer = Arc::new(Producer::connect(target.clone(), &name, options.clone()).await?);
        let entries = if args.duration.is_some() { UNBOUNDED } else { share(args.entries, args.producers, index) };
        let (parent, first_inode) = (bench::inode(run, 1 + index), bench::inode(run, made));
        made += entries;
        shares.push(Share { first_seq: producer.first_seq(), producer, name, parent, first_inode, entries });
    }
    let (root, absent) = root(context).await;
    let first = shares.first_mut().context("there is no producer")?;
    let producer = first.producer.clone();
    if absent {
        producer.append(&namespace::make_root(root)).await?.await?;
    }
    let top = bench::inode(run, 0);
    let name = format!("bench-{run:08x}");
    let mut ack = producer.append(&namespace::make_directory(root, name.as_bytes(), top)).await?.await?;
    for index in 0..args.producers {
        let directory = namespace::make_directory(top, index.to_string().as_bytes(), bench::inode(run, 1 + index));
        ack = producer.append(&directory).await?.await?;
    }
    first.first_seq = ack.seq + 1;
    Ok(shares)
}

/// The root directory as the local shipper has it, and whether it is known not to exist.
async fn root(context: &Context) -> (u64, bool) {
    let asking = async {
        let mut inspect = client::inspect(context).await?;
        anyhow::Ok(namespace::root(&mut inspect).await?)
    };
    match tokio::time::timeout(ROOT_LIMIT, asking).await {
        Ok(Ok(Some(root))) => (root, false),
        Ok(Ok(None)) => (NEW_ROOT, true),
        Ok(Err(_)) | Err(_) => {
            anstream::eprintln!("note: the local shipper does not say which inode is the root, {NEW_ROOT} is assumed");
            (NEW_ROOT, false)
        }
    }
}
