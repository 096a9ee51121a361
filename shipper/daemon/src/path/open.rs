//! Opening the own stream for appends, taking it to its end for a switchover, and closing it: whenever role, cursors or
//! what peers show change.

use std::sync::Arc;
use std::time::Duration;

use cfs_model::{Epoch, Lsn, StreamId};
use cfs_shipper_core::admit::Remembered;
use cfs_shipper_core::resume::{self, Decision, FRESH_PATIENCE_MS, Situation};

use crate::bootstrap;
use crate::directed::Directed;
use crate::governed::Waiting;
use crate::governor::own_stream;
use crate::node::Node;

/// A primary looks at its situation so often even if nothing was heard: leases run out silently.
const INTERVAL: Duration = Duration::from_millis(50);
/// The same for everybody else.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);

/// Why a site that was rebuilt asks for another incarnation.
pub(crate) const REBUILT: &str = "another incarnation: its data were put aside and are copied anew";

/// Runs for as long as the process lives.
pub(crate) async fn keep_role(node: Arc<Node>) {
    let mut role = node.signals.role.subscribe();
    let mut peers = node.signals.peers.subscribe();
    let mut durable = node.signals.durable.subscribe();
    let mut applied = node.signals.applied.subscribe();
    let mut since_ms = node.boot_ms();
    let mut told = (false, Epoch(0));
    loop {
        let directed = node.governed.directed();
        if (directed.primary, directed.epoch) != told {
            told = (directed.primary, directed.epoch);
            since_ms = node.boot_ms();
        }
        step(&node, &directed, since_ms).await;
        let opening = directed.primary && node.admission().accepting().is_none();
        let draining = node.governed.draining().is_some_and(|(op, _)| node.governed.drained_op() != op);
        tokio::select! {
            () = role.changed() => {}
            () = peers.changed(), if opening => {}
            () = applied.changed(), if opening => {}
            () = durable.changed(), if opening || draining => {}
            () = tokio::time::sleep(if directed.primary { INTERVAL } else { IDLE_INTERVAL }) => {}
        }
    }
}

async fn step(node: &Arc<Node>, directed: &Directed, since_ms: u64) {
    // Only where others append too can a site take appends and need a copy of a store at the same time.
    let copying = directed.shared && bootstrap::is_partial(node);
    let may = node.governed.may_append(node.boot_ns()).filter(|_| !copying);
    let accepting = node.admission().accepting();
    let stream = own_stream(node);
    let draining = node.governed.draining();
    if accepting.is_some() && accepting != may.zip(stream) {
        node.admission().close();
        match draining {
            Some((op, epoch)) => tracing::info!(op, %epoch, "a switchover: no more appends are taken"),
            None => tracing::warn!("appends are refused from now on: the right to append has ended"),
        }
        node.signals.role.bump();
    }
    if let Some((op, epoch)) = draining.filter(|(op, _)| node.governed.drained_op() != *op) {
        drain(node, op, epoch).await;
    }
    let named = directed.primary || directed.primary_site == node.site().as_str();
    let waiting = match may {
        Some(_) if accepting.is_some() && accepting == may.zip(stream) => Waiting::default(),
        Some(epoch) => try_open(node, directed, epoch, since_ms).await,
        None => match node.governed.change_under_way() {
            Some(change) if named => waiting_for(change),
            None if copying => waiting_for("the copy of a store".into()),
            None if named => waiting_for("a lease".into()),
            _ => Waiting::default(),
        },
    };
    if node.governed.set_waiting(waiting.clone()) {
        if !waiting.for_what.is_empty() {
            tracing::info!(
                waiting_for = waiting.for_what,
                needs_incarnation = waiting.needs_incarnation,
                "not accepting"
            );
        }
        node.signals.role.bump();
    }
}

/// Says that the stream is at its end once all that was taken is durable; it is closed already.
async fn drain(node: &Arc<Node>, op: u64, epoch: Epoch) {
    if !node.is_settled() {
        return;
    }
    let marker = node.clone();
    match tokio::task::spawn_blocking(move || marker.governed.mark_drained(op, epoch)).await {
        Ok(Ok(true)) => tracing::info!(op, %epoch, "drained: everything taken is durable"),
        Ok(Ok(false)) => {}
        Ok(Err(error)) => {
            node.metrics.error("governed");
            tracing::error!(op, %error, "that the stream is drained cannot be persisted; it is tried again");
            return;
        }
        Err(_) => return,
    }
    node.signals.role.bump();
}

async fn try_open(node: &Arc<Node>, directed: &Directed, epoch: Epoch, since_ms: u64) -> Waiting {
    if node.governed.needs_another_incarnation() {
        return Waiting { for_what: REBUILT.into(), needs_incarnation: true };
    }
    let (incarnation, used_before) = node.governed.incarnation();
    let stream = own_stream(node);
    let cursor = stream.map(|stream| node.positions.cursor(stream)).unwrap_or_default();
    let (shown, reachable) =
        stream.map(|stream| node.peers.shown(stream, &directed.data_sites, since_ms)).unwrap_or_default();
    let waited_ms = node.boot_ms().saturating_sub(since_ms);
    let decision = resume::decide(&Situation {
        allotted: incarnation,
        used_before,
        closed: stream.is_some_and(|stream| directed.closed.contains_key(&stream)),
        unsettled: !node.is_settled(),
        durable: cursor.durable(),
        behind: behind(node, directed, since_ms, waited_ms),
        shown: &shown,
        reachable,
        waited_ms,
        patience_ms: directed.patience_ms,
    });
    match (decision, stream) {
        (Decision::Open, Some(stream)) => open(node, epoch, stream, directed.shared).await,
        (Decision::Open, None) => waiting_for("an incarnation".into()),
        (Decision::Wait(for_what), _) => waiting_for(for_what),
        (Decision::AskForIncarnation(for_what), _) => Waiting { for_what, needs_incarnation: true },
    }
}

/// What has to be applied before the own stream is opened and is not: the cut, what is durable here of the own
/// incarnations, and what enrolled sites that are heard hold of the older ones. A site that was heard before is waited
/// for a moment, since its word may be on its way.
fn behind(node: &Node, directed: &Directed, since_ms: u64, waited_ms: u64) -> Option<(StreamId, Lsn)> {
    if let Some(missing) = node.cut_missing() {
        return Some(missing);
    }
    let applied = node.store.position().applied;
    let missing = |stream: StreamId, lsn: Lsn| {
        (stream.site == node.id() && applied.get(stream) < directed.end_of(stream, lsn)).then_some((stream, lsn))
    };
    let here: Vec<(StreamId, Lsn)> = node.positions.lock().iter().map(|(s, p)| (*s, p.cursor.durable())).collect();
    if let Some(missing) = here.into_iter().find_map(|(stream, lsn)| missing(stream, lsn)) {
        return Some(missing);
    }
    let own = own_stream(node);
    let peers = node.peers.lock();
    let heard = peers.values().filter(|peer| {
        directed.data_sites.contains(&peer.id)
            && directed.kept_apart_from(peer.id).is_none()
            && peer.heard_at_ms.is_some_and(|at| at >= since_ms || waited_ms < FRESH_PATIENCE_MS)
    });
    let held = heard.flat_map(|peer| &peer.durable).filter(|(stream, _)| Some(**stream) != own);
    held.into_iter().find_map(|(stream, lsn)| missing(*stream, *lsn))
}

const fn waiting_for(for_what: String) -> Waiting {
    Waiting { for_what, needs_incarnation: false }
}

/// Marks the incarnation as used, loads the producer table and accepts.
async fn open(node: &Arc<Node>, epoch: Epoch, stream: StreamId, shared: bool) -> Waiting {
    let blocking = node.clone();
    let prepared = tokio::task::spawn_blocking(move || {
        blocking.governed.mark_opened().map_err(|e| e.to_string())?;
        let base = blocking.store.position().applied;
        Ok::<_, String>((base, blocking.store.producers()))
    });
    let (mut base, producers) = match prepared.await.map_err(|e| e.to_string()).and_then(|outcome| outcome) {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::error!(error, "the own stream cannot be opened");
            return waiting_for(error);
        }
    };
    if node.positions.lock().get(&stream).is_none() {
        node.positions.restore(stream, Lsn::ZERO, Lsn::ZERO);
    }
    let end = node.positions.cursor(stream).durable();
    base.set(stream, end);
    let table = producers.into_iter().map(|(name, state)| {
        let (seq, stream, epoch) = (state.seq, state.stream, state.epoch);
        Remembered { name, seq, stream, epoch }
    });
    // What was written in this epoch before, in whichever incarnation, may have been acknowledged.
    let mut own = node.journal.streams().into_iter().filter(|own| own.site == stream.site);
    let wrote = own.any(|own| node.journal.position(own).is_some_and(|position| position.epoch == epoch));
    node.governed.begin_acknowledging(epoch, stream, wrote.then_some(end));
    {
        let mut admission = node.admission();
        admission.open(epoch, stream, base, table);
        if shared {
            admission.share();
        }
    }
    tracing::info!(%epoch, %stream, %end, "accepting appends");
    node.signals.role.bump();
    Waiting::default()
}
