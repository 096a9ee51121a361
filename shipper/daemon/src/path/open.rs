//! Opening the own stream for appends, and closing it: whenever role, cursors or what peers show change.

use std::sync::Arc;
use std::time::Duration;

use cfs_model::{Epoch, StreamId, Vector};
use cfs_shipper_core::resume::{self, Decision, Situation};

use crate::governor::{Waiting, own_stream};
use crate::node::Node;

/// How long a site waits for the others' cursors before it asks for a new incarnation.
const PATIENCE_MS: u64 = 2000;
/// The situation is looked at so often even if nothing was heard: leases run out silently.
const INTERVAL: Duration = Duration::from_millis(50);

/// Runs for as long as the process lives.
pub(crate) async fn keep_role(node: Arc<Node>) {
    let mut role = node.signals.role.subscribe();
    let mut peers = node.signals.peers.subscribe();
    let mut since_ms = node.boot_ms();
    let mut told_primary = false;
    loop {
        if node.governed.is_told_primary() != told_primary {
            told_primary = !told_primary;
            since_ms = node.boot_ms();
        }
        step(&node, since_ms).await;
        tokio::select! {
            () = role.changed() => {}
            () = peers.changed(), if node.admission().accepting().is_none() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

async fn step(node: &Arc<Node>, since_ms: u64) {
    let may = node.governed.may_append(node.boot_ns());
    let accepting = node.admission().accepting();
    let stream = own_stream(node);
    if accepting.is_some() && accepting != may.zip(stream) {
        node.admission().close();
        tracing::warn!("appends are refused from now on: the right to append has ended");
        node.signals.role.bump();
    }
    let waiting = match may {
        Some(_) if accepting.is_some() && accepting == may.zip(stream) => Waiting::default(),
        Some(epoch) => try_open(node, epoch, since_ms).await,
        None if node.governed.is_told_primary() => waiting_for("a lease".into()),
        None => Waiting::default(),
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

async fn try_open(node: &Arc<Node>, epoch: Epoch, since_ms: u64) -> Waiting {
    let (incarnation, used_before) = node.governed.incarnation();
    let stream = own_stream(node);
    let cursor = stream.map(|stream| node.positions.cursor(stream)).unwrap_or_default();
    let shown = stream.map(|stream| node.peers.shown(stream)).unwrap_or_default();
    let decision = resume::decide(&Situation {
        allotted: incarnation,
        used_before,
        durable: cursor.durable(),
        behind: behind(node),
        shown: &shown,
        waited_ms: node.boot_ms().saturating_sub(since_ms),
        patience_ms: PATIENCE_MS,
    });
    match (decision, stream) {
        (Decision::Open, Some(stream)) => open(node, epoch, stream).await,
        (Decision::Open, None) => waiting_for("an incarnation".into()),
        (Decision::Wait(for_what), _) => waiting_for(for_what),
        (Decision::AskForIncarnation(for_what), _) => Waiting { for_what, needs_incarnation: true },
    }
}

/// A stream that is not applied here as far as this site or a connected one holds it: older incarnations of the own
/// stream come back this way before a new one is opened.
fn behind(node: &Node) -> Option<StreamId> {
    let applied = node.store.position().applied;
    let offered = node.plan().furthest();
    let here = node.positions.lock().iter().map(|(stream, p)| (*stream, p.cursor.durable())).collect::<Vector>();
    here.max(&offered).iter().find(|(stream, lsn)| applied.get(*stream) < *lsn).map(|(stream, _)| stream)
}

const fn waiting_for(for_what: String) -> Waiting {
    Waiting { for_what, needs_incarnation: false }
}

/// Marks the incarnation as used, loads the producer table and accepts.
async fn open(node: &Arc<Node>, epoch: Epoch, stream: StreamId) -> Waiting {
    let blocking = node.clone();
    let prepared = tokio::task::spawn_blocking(move || {
        blocking.governed.mark_opened().map_err(|e| e.to_string())?;
        Ok::<_, String>(blocking.store.producers())
    });
    let producers = match prepared.await.map_err(|e| e.to_string()).and_then(|outcome| outcome) {
        Ok(producers) => producers,
        Err(error) => {
            tracing::error!(error, "the own stream cannot be opened");
            return waiting_for(error);
        }
    };
    if node.positions.lock().get(&stream).is_none() {
        node.positions.restore(stream, cfs_model::Lsn::ZERO, cfs_model::Lsn::ZERO);
    }
    let end = node.positions.cursor(stream).durable();
    let table = producers.into_iter().map(|(name, state)| (name, state.seq, state.epoch));
    node.admission().open(epoch, stream, end, table);
    tracing::info!(%epoch, %stream, %end, "accepting appends");
    node.signals.role.bump();
    Waiting::default()
}
