//! The acts of `cfs demo`, one after the other.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cfs_config::Config;
use cfs_model::{Epoch, StreamId};
use cfs_rpc::v1::{MetricsRequest, StatusRequest};

use super::Args;
use crate::client;
use crate::commands::bench::verify::not_in;
use crate::commands::meta::consistency_check;
use crate::commands::replication::metrics;
use crate::demo::{
    self, Change, DIFFERENT, Failover, IDENTICAL, Imported, Load, Narrator, Outcome, Rejoin, Switchover, Written,
};
use crate::dev::{Cluster, End};
use crate::namespace;

mod ways;

/// The site that is primary first, and in the end.
const A: usize = 0;
/// The site that is primary in between, and dies.
const B: usize = 1;
/// How long sites may take to come to the same position.
const CHECK_LIMIT: Duration = Duration::from_secs(60);

/// One tour through what the product does.
pub(super) struct Tour<'a> {
    cluster: &'a mut Cluster,
    tree: &'a Path,
    args: &'a Args,
    narrator: Narrator,
    /// Where the producer writes, in the root directory.
    apart: String,
}

/// What the import and what followed it led to.
struct Shipped {
    imported: Imported,
    changes: Vec<Change>,
    wire_bytes: u64,
    compression_ratio: Option<f64>,
}

/// The stream of the site that died, and how far it was acknowledged and known elsewhere.
struct Lost {
    stream: StreamId,
    acknowledged: u64,
    shipped: u64,
}

impl<'a> Tour<'a> {
    pub(super) fn new(cluster: &'a mut Cluster, tree: &'a Path, args: &'a Args) -> Self {
        let apart = format!(".demo-load-{}", std::process::id());
        Self { cluster, tree, args, narrator: Narrator::new(args.fast), apart }
    }

    pub(super) async fn run(mut self) -> anyhow::Result<Outcome> {
        self.begin().await?;
        let shipped = self.ship().await?;
        let load = self.write().await?;
        let switchover = self.switch_over(&load).await?;
        let (failover, lost) = self.kill(&load, &switchover).await?;
        let rejoin = self.come_back(&lost).await?;
        let written = self.stop(load).await?;
        if self.args.tamper {
            self.tamper().await?;
        }
        let missing = self.look_for(&written).await?;
        let title = format!("every path at {} is compared with the tree", self.name(B));
        self.narrator.act(&title, "by lstat: type, inode, mode, owner, group, size, time, link target").await;
        let comparison = demo::compare(self.tree, &self.apart, &mut self.inspect(B).await?).await?;
        let checks = self.check().await?;
        self.note_unreadable(&shipped.imported, &comparison);
        let same = comparison.different == 0 && missing == 0 && checks.iter().all(|(_, matches)| *matches);
        Ok(Outcome {
            tree: self.tree.to_owned(),
            verdict: if same { IDENTICAL } else { DIFFERENT },
            paths_compared: comparison.paths,
            paths_different: comparison.different,
            differences: comparison.first,
            unreadable: comparison.unreadable,
            inodes: shipped.imported.seen,
            entries: shipped.imported.entries,
            seconds: shipped.imported.seconds,
            entries_per_s: shipped.imported.entries as f64 / shipped.imported.seconds,
            wire_bytes: shipped.wire_bytes,
            compression_ratio: shipped.compression_ratio,
            max_lag_ms: shipped.imported.max_lag_ms,
            changes: shipped.changes,
            acknowledged: written.inodes.len() as u64,
            missing,
            switchover,
            failover,
            rejoin,
            checks: checks.into_iter().map(|(line, _)| line).collect(),
        })
    }

    async fn begin(&mut self) -> anyhow::Result<()> {
        let why = "each has a control process, which votes on who is primary; a and b store data, w only votes";
        self.narrator.act("two sites and a witness start, with mTLS between them", why).await;
        let all: Vec<usize> = (0..self.cluster.sites().len()).collect();
        for index in &all {
            self.cluster.start(*index)?;
        }
        self.ready().await?;
        demo::await_automatic(&self.control(A)).await
    }

    async fn ship(&self) -> anyhow::Result<Shipped> {
        let (a, b) = (self.name(A), self.name(B));
        let title = format!("{} is imported at {a}, which ships it to {b}", self.tree.display());
        self.narrator.act(&title, "metadata only; what is durable there is sent, checked and applied here").await;
        let (mut source, mut replica) = (self.inspect(A).await?, self.inspect(B).await?);
        let config = self.cluster.config_path(&self.cluster.sites()[A]);
        let imported = demo::import(&config, self.tree, &mut source).await?;
        self.narrator.tell(&format!("{} entries arrived after {:.2} s", imported.entries, imported.seconds));
        let mut changes = Vec::new();
        if !self.args.fast {
            self.narrator.act("a few changes, each timed until the other site has applied it", "one by one").await;
            let socket = self.cluster.socket(&self.cluster.sites()[A]);
            let show = |change: &Change| self.narrator.tell(&format!("{:7.2} ms  {}", change.ms, change.change));
            changes = demo::make_changes(socket, &mut source, &mut replica, show).await?;
        }
        let status = source.status(StatusRequest::default()).await.map_err(client::failed("report its status"))?;
        let text = source.metrics(MetricsRequest {}).await.map_err(client::failed("report its metrics"))?;
        Ok(Shipped {
            imported,
            changes,
            wire_bytes: status.into_inner().peers.iter().map(|peer| peer.sent_bytes).sum(),
            compression_ratio: metrics::figure(&text.into_inner().text, "compression_ratio"),
        })
    }

    async fn write(&self) -> anyhow::Result<Load> {
        let why = "it follows the primary, and each entry that is acknowledged to it is looked for in the end";
        self.narrator.act("a producer begins to create 1000 files a second", why).await;
        let root = namespace::root(&mut self.inspect(A).await?).await?.context("the tree has no root directory")?;
        let config = Config::load_with(Some(&self.cluster.config_path(&self.cluster.sites()[A])), &[], [])?;
        let load = Load::start(&config, root, &self.apart).await?;
        self.let_write().await;
        Ok(load)
    }

    async fn switch_over(&self, load: &Load) -> anyhow::Result<Switchover> {
        let to = self.name(B);
        let why = "the old primary finishes what it has, the new one applies all of it, then it opens a new epoch";
        self.narrator.act(&format!("planned switchover: {to} becomes primary"), why).await;
        load.watch_gaps().await?;
        let control = self.control(A);
        let epoch = demo::switch_over(&control, &to, |line| self.narrator.tell(line)).await?;
        load.wait(&format!("an acknowledgement by {to}"), |ledger| ledger.first(&to, epoch.saturating_sub(1))).await?;
        self.tell_phases(&control, epoch).await;
        self.let_write().await;
        let (gap_ms, acknowledged) = {
            let ledger = load.ledger();
            (ledger.longest_gap_ms(), ledger.acknowledged())
        };
        self.narrator.tell(&format!(
            "{to} is primary in epoch {}; longest gap between two acknowledged appends {gap_ms:.0} ms; {acknowledged} so far",
            Epoch(epoch)
        ));
        demo::await_automatic(&self.control(A)).await?;
        Ok(Switchover { to, gap_ms, epoch })
    }

    async fn kill(&mut self, load: &Load, before: &Switchover) -> anyhow::Result<(Failover, Lost)> {
        let (to, from) = (self.name(A), self.name(B));
        let why = "the others open the next epoch when its lease of a second has run out, and not before";
        self.narrator.act(&format!("kill -9 of every process of {from}, the primary's site"), why).await;
        load.watch_gaps().await?;
        let killed = Instant::now();
        self.cluster.end(B, End::Kill)?;
        let what = format!("an acknowledgement by {to}");
        let (first, epoch) = load.wait(&what, |ledger| ledger.first(&to, before.epoch)).await?;
        let ms = first.saturating_duration_since(killed).as_secs_f64() * 1000.0;
        self.narrator.tell(&format!(
            "{to} acknowledges {ms:.0} ms after the kill, in epoch {}; before it was {}",
            Epoch(epoch),
            Epoch(before.epoch)
        ));
        self.tell_phases(&self.control(A), epoch).await;
        let (stream, acknowledged) = load.ledger().stream_of(&from).context("the lost site acknowledged nothing")?;
        let shipped = self.watcher().await?.applied(stream).await?;
        let at_risk = acknowledged.saturating_sub(shipped);
        self.narrator.tell(&format!("{at_risk} entries that {from} had acknowledged are only on its disk now"));
        self.let_write().await;
        Ok((Failover { to, ms, epoch, at_risk }, Lost { stream, acknowledged, shipped }))
    }

    async fn come_back(&mut self, lost: &Lost) -> anyhow::Result<Rejoin> {
        let who = self.name(B);
        let why = "it is fenced, fetches what it missed, and hands over what only it has; nothing is discarded";
        self.narrator.act(&format!("{who} returns, and rejoins by itself"), why).await;
        let mut watcher = self.watcher().await?;
        let began = Instant::now();
        self.cluster.start(B)?;
        watcher.await_return(lost.stream, lost.acknowledged, |line| self.narrator.tell(line)).await?;
        let ms = began.elapsed().as_secs_f64() * 1000.0;
        let late_entries = watcher.applied(lost.stream).await?.saturating_sub(lost.shipped);
        self.narrator.tell(&match late_entries {
            0 => "nothing of its old epoch comes late: all of it had been shipped".to_owned(),
            late => format!("{late} entries of its old epoch come late with it, and are merged"),
        });
        Ok(Rejoin { ms, late_entries })
    }

    async fn stop(&mut self, load: Load) -> anyhow::Result<Written> {
        self.narrator.act("the producer stops", "then there is nothing to do, and the lag is 0").await;
        let written = load.finish().await?;
        let lag_ms = self.watcher().await?.await_in_sync().await?;
        self.narrator.tell(&format!("{} entries acknowledged, lag {lag_ms} ms", written.inodes.len()));
        self.ready().await?;
        Ok(written)
    }

    /// Damages one value behind the second site's back.
    async fn tamper(&mut self) -> anyhow::Result<()> {
        let victim = demo::choose_victim(&self.apart, &mut self.inspect(B).await?).await?;
        let site = &self.cluster.sites()[B];
        let title = format!("the mode of {} is damaged in the store of {}, stopped for it", victim.path, site.name);
        self.narrator.act(&title, "a bit flips on the disk; the comparison must see it").await;
        let config = Config::load_with(Some(&self.cluster.config_path(site)), &[], [])?;
        self.cluster.end(B, End::Now)?;
        demo::damage(config.meta_dir(), &victim)?;
        self.cluster.start(B)?;
        self.ready().await
    }

    /// How many of the acknowledged entries a site does not hold.
    async fn look_for(&self, written: &Written) -> anyhow::Result<u64> {
        let title = "every acknowledged entry is looked for at both sites";
        self.narrator.act(title, "also those that the dead site had acknowledged").await;
        let mut missing = Vec::new();
        for index in [A, B] {
            let lacks = not_in(&mut self.inspect(index).await?, written.directory, &written.inodes).await?;
            self.narrator.tell(&format!(
                "{}: {} looked for, {} missing",
                self.name(index),
                written.inodes.len(),
                lacks.len()
            ));
            missing.extend(lacks);
        }
        missing.sort_unstable();
        missing.dedup();
        Ok(missing.len() as u64)
    }

    /// Digests against each other, and unless it must be fast each site's registers against its own digest.
    async fn check(&self) -> anyhow::Result<Vec<(String, bool)>> {
        self.narrator.act("the sites' digests are compared", "over all values, at the same position").await;
        let mut results = Vec::new();
        let mut one = async |index: usize, local: bool, what: &str| {
            let mut inspect = self.inspect(index).await?;
            let report = consistency_check::ask(&mut inspect, local, CHECK_LIMIT).await?;
            results.push((format!("{what} {}: {}", report.site, report.result_line()), report.matches()));
            anyhow::Ok(())
        };
        one(A, false, "digests of all sites, seen from").await?;
        one(B, false, "digests of all sites, seen from").await?;
        if !self.args.fast {
            one(A, true, "every register of").await?;
            one(B, true, "every register of").await?;
        }
        Ok(results)
    }
}
