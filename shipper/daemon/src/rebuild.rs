//! A site's data are put aside and copied anew, because an operator said so: first what no other site holds is shipped, then the
//! order is on disk, then the process starts anew and carries it out. From the order on the site counts for nothing, until
//! it holds again what it held (invariants 4 and 6).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cfs_config::Config;
use cfs_model::{Lsn, SiteId, StreamId, Vector};
use cfs_rpc::rebuild::{Order, Stage, bytes_of, check};
use cfs_rpc::v1;
use tokio::time::Instant;

use crate::bootstrap;
use crate::governed::Governed;
use crate::node::Node;

/// Other sites pull what they lack within this, or the old data are kept.
const SHIP_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);
/// The answer leaves before the process does.
const GRACE: Duration = Duration::from_millis(200);

/// Carries an order out that was given: the data are aside on return, and the own stream will be another. Goes on where a crash
/// left it. Nothing of journal and store is open yet. Blocks.
pub(crate) fn at_start(config: &Config, governed: &Governed, now_ms: u64) -> anyhow::Result<Option<Order>> {
    let directory = config.paths.state.join("shipper");
    let read = Order::read(&directory);
    let place = || directory.join(cfs_rpc::rebuild::FILE).display().to_string();
    let Some(mut order) = read.with_context(|| format!("{} does not read: remove it and order again", place()))? else {
        return Ok(None);
    };
    if matches!(order.stage, Stage::Asked | Stage::Again) {
        match order.stage {
            Stage::Again => order.discard_copy().context("what was copied cannot be removed")?,
            _ => order.put_aside().with_context(|| format!("{} cannot be put aside", order.aside()))?,
        }
        governed.abandon()?;
        bootstrap::begin_anew(&directory, now_ms).context("that the enrolment begins anew cannot be kept")?;
        order.stage = Stage::Moved;
        order.write(&directory).with_context(place)?;
        tracing::warn!(aside = order.aside(), "the data of this site are put aside, and copied anew from another site");
    }
    Ok(Some(order))
}

/// Why an order is refused; nothing was changed.
struct Refused {
    code: &'static str,
    why: String,
    next: String,
}

fn refused(code: &'static str, why: impl Into<String>, next: &str) -> Refused {
    Refused { code, why: why.into(), next: next.into() }
}

/// Gives the order, or says why not.
pub(crate) async fn order(node: &Arc<Node>, request: v1::RebuildRequest) -> v1::RebuildReply {
    match give(node, request).await {
        Ok(text) => v1::RebuildReply { text, ..v1::RebuildReply::default() },
        Err(Refused { code, why, next }) => {
            v1::RebuildReply { code: code.into(), why, next, ..v1::RebuildReply::default() }
        }
    }
}

fn primary(node: &Node) -> Refused {
    let why = format!("{} is primary: its data are those that the others copy", node.site());
    refused("PRIMARY", why, "cfs admin replication failover --to SITE, then again")
}

async fn give(node: &Arc<Node>, request: v1::RebuildRequest) -> Result<String, Refused> {
    let Ok(_alone) = node.repairing.try_lock() else {
        return Err(refused("BUSY", "a repair or a rebuild is under way here", "try again when it is over"));
    };
    if node.bootstrap.order().is_some_and(|order| order.stage != Stage::Kept) {
        let why = "a rebuild is under way here";
        return Err(refused("UNDER_WAY", why, "cfs admin replication bootstrap-status"));
    }
    if node.governed.is_told_primary() {
        return Err(primary(node));
    }
    fits(node).await?;
    let until = Instant::now() + SHIP_LIMIT;
    while !split(node).only_here.is_empty() && !others(node).is_empty() && Instant::now() < until {
        tokio::time::sleep(POLL).await;
    }
    // From here on nothing is acknowledged to anybody, so all that ever was is in what is read next.
    if !node.governed.leave(true) {
        return Err(primary(node));
    }
    node.bootstrap.leave(true);
    node.signals.role.bump();
    let mut keep: Vec<String> = Some(request.keep_why).filter(|why| !why.is_empty()).into_iter().collect();
    let Split { held, only_here } = split(node);
    keep.extend(kept_because(node, &only_here));
    let directories = [node.config.journal_dir(), node.config.meta_dir()];
    let at_ms = node.wall_ns() / 1_000_000;
    let order = Order::new(&directories, &request.through, &keep.join("; "), held, at_ms);
    let (given, directory) = (order.clone(), node.config.paths.state.join("shipper"));
    let written = tokio::task::spawn_blocking(move || given.write(&directory)).await;
    if let Err(error) = written.map_err(std::io::Error::other).and_then(|written| written) {
        // It may be there all the same: then the next start carries it out, and may.
        node.bootstrap.leave(false);
        node.governed.leave(false);
        node.signals.role.bump();
        return Err(refused("STATE", format!("the order cannot be kept: {error}"), "journalctl -u claudefs-shipper"));
    }
    node.bootstrap.rebuilds(Some(order.clone()));
    tracing::warn!(aside = order.aside(), keep_why = order.keep_why, "ordered to have the data of this site rebuilt");
    let again = node.clone();
    tokio::spawn(async move {
        tokio::time::sleep(GRACE).await;
        again.signals.again.bump();
    });
    Ok(format!(
        "{} copies another site's store anew; its old data are put aside as {}; follow it: cfs admin replication \
         bootstrap-status",
        node.site(),
        fate(&order)
    ))
}

/// Whether the new store fits beside the old one.
async fn fits(node: &Arc<Node>) -> Result<(), Refused> {
    let offers = bootstrap::offers(node).await;
    let theirs = offers.iter().map(|(_, offer)| offer.store_bytes).max().unwrap_or(0);
    let config = node.config.clone();
    let checked = tokio::task::spawn_blocking(move || {
        let store_bytes = theirs.max(bytes_of(config.meta_dir()));
        check(&[config.journal_dir(), config.meta_dir()], store_bytes, config.disk.reserve_bytes)
    });
    let checked = checked.await.map_err(|error| error.to_string()).and_then(|checked| checked);
    checked.map_err(|why| refused("NO_ROOM", why, "free some space or enlarge the disk, then again"))
}

/// Where the old data are and what becomes of them, for people.
pub(crate) fn fate(order: &Order) -> String {
    let (aside, why) = (order.aside(), &order.keep_why);
    match (order.stage, why.is_empty()) {
        (Stage::Kept, _) => format!("{aside}, kept because {why}; remove them when nothing of them is needed"),
        (_, true) => format!("{aside}, removed when this site is COMPLETE"),
        (_, false) => format!("{aside}, and kept also when this site is COMPLETE because {why}"),
    }
}

/// What is durable here, in two parts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Split {
    /// What this site must hold again before it counts: all but entries of its own that nobody else has.
    held: Vector,
    /// Streams of which others that are heard hold less.
    only_here: Vector,
}

/// `others` is the furthest that sites hold which are heard; nothing behind the end of a closed stream counts.
fn split_of(own: SiteId, here: &Vector, others: &Vector, closed: &BTreeMap<StreamId, Lsn>) -> Split {
    let mut split = Split::default();
    for (stream, lsn) in here.iter() {
        let lsn = closed.get(&stream).map_or(lsn, |end| lsn.min(*end));
        let there = others.get(stream);
        if lsn > there {
            split.only_here.set(stream, lsn);
        }
        split.held.set(stream, if stream.site == own { lsn.min(there) } else { lsn });
    }
    split
}

fn others(node: &Node) -> Vec<Vector> {
    let directed = node.governed.directed();
    let (now_ms, silence_ms) = (node.boot_ms(), node.silence_ms());
    let peers = node.peers.lock();
    let usable = peers.values().filter(|peer| {
        peer.is_heard(now_ms, silence_ms) && !peer.diverged && directed.kept_apart_from(peer.id).is_none()
    });
    usable.map(|peer| peer.durable.iter().map(|(stream, lsn)| (*stream, *lsn)).collect()).collect()
}

fn split(node: &Node) -> Split {
    let streams = node.journal.streams().into_iter();
    let here: Vector = streams.filter_map(|s| Some((s, node.journal.position(s)?.durable))).collect();
    let others = others(node).into_iter().fold(Vector::new(), |all, one| all.max(&one));
    split_of(node.id(), &here, &others, &node.governed.directed().closed)
}

fn kept_because(node: &Node, only_here: &Vector) -> Vec<String> {
    let diverged: Vec<String> =
        node.peers.lock().iter().filter(|(_, peer)| peer.diverged).map(|(site, _)| site.to_string()).collect();
    let here = (!only_here.is_empty()).then(|| format!("no other site that is heard holds all of stream {only_here}"));
    let other = (!diverged.is_empty()).then(|| format!("{} has another content of a stream", diverged.join(", ")));
    here.into_iter().chain(other).collect()
}

/// The first stream of what a site held that is not applied as far.
fn first_lacking(held: &Vector, applied: &Vector, closed: &BTreeMap<StreamId, Lsn>) -> Option<(StreamId, Lsn)> {
    let end = |stream, lsn: Lsn| closed.get(&stream).map_or(lsn, |end| lsn.min(*end));
    held.iter().map(|(stream, lsn)| (stream, end(stream, lsn))).find(|(stream, lsn)| applied.get(*stream) < *lsn)
}

/// What this site held before it was rebuilt and does not hold again.
pub(crate) fn lacks(node: &Node, applied: &Vector) -> Option<(StreamId, Lsn)> {
    let order = node.bootstrap.order().filter(|order| order.stage == Stage::Moved)?;
    first_lacking(&order.held, applied, &node.governed.directed().closed)
}

/// The site is complete: the old data go, unless something of them is nowhere else. Tried again until it is done.
pub(crate) async fn finish(node: &Arc<Node>) {
    let Some(order) = node.bootstrap.order().filter(|order| order.stage == Stage::Moved) else { return };
    let directory = node.config.paths.state.join("shipper");
    let done = tokio::task::spawn_blocking(move || ended(order, &directory)).await;
    match done.map_err(std::io::Error::other).and_then(|done| done) {
        Ok(left) => {
            match &left {
                None => tracing::info!("the rebuild is over, the old data are removed"),
                Some(order) => tracing::warn!("the rebuild is over; the old data are in {}", fate(order)),
            }
            node.bootstrap.rebuilds(left);
        }
        Err(error) => tracing::warn!(%error, "the old data of this site are not removed yet; it is tried again"),
    }
}

/// Returns what is left of an order whose site is complete. Blocks.
fn ended(mut order: Order, directory: &Path) -> std::io::Result<Option<Order>> {
    if order.keep_why.is_empty() {
        order.remove(directory)?;
        return Ok(None);
    }
    order.stage = Stage::Kept;
    order.write(directory)?;
    Ok(Some(order))
}

#[cfg(test)]
#[path = "rebuild_tests.rs"]
mod tests;
