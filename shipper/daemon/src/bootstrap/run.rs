//! From nothing to complete, step by step, for as long as the process lives.

use std::sync::Arc;
use std::time::Duration;

use cfs_config::Peer;
use cfs_rpc::rebuild::Stage;
use cfs_rpc::v1;
use cfs_rpc::v1::peer_client::PeerClient;
use tokio::sync::mpsc;
use tonic::Response;

use super::kept::Kept;
use super::{Phase, Way, settle, sum, take};
use crate::fatal::fatal;
use crate::node::Node;
use crate::path::replicate::Work;
use crate::{behind, dial, rebuild};

/// How often it is looked whether the next step can be taken.
const POLL: Duration = Duration::from_millis(100);
/// The same for a site that is through.
const IDLE_POLL: Duration = Duration::from_secs(1);
/// After a copy broke.
const PAUSE: Duration = Duration::from_millis(500);
/// A site that is too far behind for so many looks copies: other ways were tried meanwhile.
const LOOKS: u32 = 5;
/// A site that catches up looks so much more often than one that is through.
const CATCHUP_LOOKS: u32 = 10;
/// An offer takes no longer.
const OFFER_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs for as long as the process lives.
pub(crate) async fn run(node: Arc<Node>, journal: mpsc::Sender<Work>) {
    let mut attempt = 0;
    let mut looks = 0;
    loop {
        let pause = match node.bootstrap.phase() {
            Phase::Idle => wait_for_the_cluster(&node).await,
            Phase::Enrolling => choose_a_way(&node).await,
            Phase::Snapshot => {
                let outcome = take::copy(&node, &journal, attempt).await;
                attempt += 1;
                match outcome {
                    Ok(()) => POLL,
                    Err(why) => {
                        if node.bootstrap.note(why.clone()) {
                            tracing::warn!(why, "the copy of a store does not go on; it is tried again");
                        }
                        PAUSE
                    }
                }
            }
            Phase::Catchup => {
                let pause = settle::settle(&node).await;
                if copies_again(&node, &mut looks, LOOKS * CATCHUP_LOOKS).await { Duration::ZERO } else { pause }
            }
            Phase::Complete => {
                rebuild::finish(&node).await;
                copies_again(&node, &mut looks, LOOKS).await;
                IDLE_POLL
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Looks whether no journal brings this site on. If that was so for as many looks on end as are `enough`, it copies a store.
async fn copies_again(node: &Arc<Node>, looks: &mut u32, enough: u32) -> bool {
    *looks = if behind::here(node).is_empty() { 0 } else { *looks + 1 };
    // A sole primary has nobody to copy from.
    let directed = node.governed.directed();
    if *looks < enough || (directed.primary && !directed.shared) {
        return false;
    }
    *looks = 0;
    tracing::warn!("this site is behind what the journals hold: it copies a store");
    begin_copy(node).await;
    true
}

/// Changes what is kept, away from the runtime. A disk that does not take it ends the process, as for every other state.
pub(super) async fn change(node: &Arc<Node>, change: impl FnOnce(&mut Kept) + Send + 'static) {
    let changing = node.clone();
    match tokio::task::spawn_blocking(move || changing.bootstrap.change(change)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => fatal("how far the enrolment is cannot be kept", &error),
        Err(_) => return,
    }
    node.signals.role.bump();
}

pub(super) async fn enter(node: &Arc<Node>, phase: Phase) {
    let now_ms = node.wall_ns() / 1_000_000;
    change(node, move |kept| kept.enter(phase, now_ms)).await;
    // What was awaited before is over.
    node.bootstrap.note("");
    tracing::info!(phase = phase.word(), "enrolment goes on");
}

/// A site that belongs to no cluster takes nothing.
async fn wait_for_the_cluster(node: &Arc<Node>) -> Duration {
    let directed = node.governed.directed();
    if directed.data_sites.contains(&node.id()) {
        enter(node, Phase::Enrolling).await;
        return Duration::ZERO;
    }
    node.bootstrap.note("a control process has to say that this site belongs to the cluster");
    POLL
}

/// What every other site that is reached offers.
pub(crate) async fn offers(node: &Arc<Node>) -> Vec<(Peer, v1::OfferReply)> {
    let after: Vec<_> =
        node.journal.streams().into_iter().filter_map(|s| Some((s, node.journal.position(s)?.durable))).collect();
    let after = after.into_iter().collect::<cfs_model::Vector>().to_wire();
    let directed = node.governed.directed();
    let peers: Vec<Peer> =
        node.data_peers().into_iter().filter(|peer| directed.kept_apart_from(peer.id).is_none()).collect();
    let asked = peers.into_iter().map(|peer| {
        let request = v1::OfferRequest { after: after.clone() };
        async move {
            let answer = tokio::time::timeout(OFFER_TIMEOUT, async {
                let channel = dial::peer(node, &peer).await.ok()?;
                PeerClient::new(channel).offer(request).await.map(Response::into_inner).ok()
            });
            Some((peer.clone(), answer.await.ok()??))
        }
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

/// Whether a copy of a store is the way: nobody's journal reaches back to what is held here, or it is so large that
/// copying what came of it takes less. A site that is rebuilt always copies: a copy is compared with its source.
fn copies(offers: &[&v1::OfferReply], snapshot_above: u64, rebuilt: bool) -> bool {
    let anything = offers.iter().any(|offer| !offer.applied.is_empty());
    let reaches_back = offers.iter().any(|offer| offer.reaches_back);
    let journal = offers.iter().map(|offer| offer.journal_bytes).max().unwrap_or(0);
    anything && (rebuilt || !reaches_back || journal > snapshot_above)
}

/// Pulls nothing before somebody who is through has been asked what there is.
async fn choose_a_way(node: &Arc<Node>) -> Duration {
    // Whoever is primary has nobody to copy from; it takes its own back as after every start.
    let directed = node.governed.directed();
    if directed.primary_site == node.site().as_str() && !directed.shared {
        node.bootstrap.set_pulls(true);
        change(node, |kept| kept.way = Some(Way::Journal)).await;
        enter(node, Phase::Complete).await;
        return Duration::ZERO;
    }
    let offers = offers(node).await;
    let usable: Vec<&v1::OfferReply> =
        offers.iter().map(|(_, offer)| offer).filter(|offer| offer.refused.is_empty()).collect();
    if usable.is_empty() {
        let refusals: Vec<&str> = offers.iter().map(|(_, offer)| offer.refused.as_str()).collect();
        node.bootstrap.note(match refusals.as_slice() {
            [] => "no other site answers on its port for shippers".to_owned(),
            refusals => refusals.join("; "),
        });
        return PAUSE;
    }
    node.bootstrap.note("");
    let rebuilt = node.bootstrap.order().is_some_and(|order| order.stage == Stage::Moved);
    if copies(&usable, node.config.replication.snapshot_above_bytes, rebuilt) {
        begin_copy(node).await;
    } else {
        begin_catchup(node, Way::Journal).await;
    }
    Duration::ZERO
}

/// From now on the store is one that is being replaced.
async fn begin_copy(node: &Arc<Node>) {
    let now_ms = node.wall_ns() / 1_000_000;
    node.bootstrap.set_pulls(false);
    change(node, move |kept| {
        kept.enter(Phase::Snapshot, now_ms);
        (kept.way, kept.bytes, kept.rows_total) = (Some(Way::Snapshot), 0, 0);
    })
    .await;
    tracing::info!(phase = Phase::Snapshot.word(), "enrolment goes on");
    let emptied = node.clone();
    match tokio::task::spawn_blocking(move || emptied.store.install_again()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            node.bootstrap.note(error.to_string());
            tracing::error!(%error, "the store cannot be emptied for a copy; it is tried again");
        }
        Err(_) => {}
    }
}

pub(super) async fn begin_again(node: &Arc<Node>) {
    begin_copy(node).await;
}

pub(super) async fn begin_catchup(node: &Arc<Node>, way: Way) {
    let from = sum(&node.store.position().applied);
    let now_ms = node.wall_ns() / 1_000_000;
    // At once: a site that dies in between would copy what nobody may have.
    change(node, move |kept| {
        if way == Way::Journal {
            kept.enter(Phase::Snapshot, now_ms);
        }
        kept.enter(Phase::Catchup, now_ms);
        (kept.way, kept.catchup_from) = (Some(way), from);
    })
    .await;
    tracing::info!(phase = Phase::Catchup.word(), way = way.word(), "enrolment goes on");
    node.bootstrap.set_pulls(true);
    node.signals.role.bump();
    node.signals.durable.bump();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(applied: u64, reaches_back: bool, journal_bytes: u64) -> v1::OfferReply {
        let position = cfs_model::op::StreamPosition { site: 1, incarnation: 1, lsn: applied };
        let applied = if applied == 0 { Vec::new() } else { vec![position] };
        v1::OfferReply { applied, reaches_back, journal_bytes, ..Default::default() }
    }

    #[test]
    fn a_store_is_copied_if_no_journal_reaches_back_or_it_is_large() {
        let small = offer(5, true, 100);
        assert!(!copies(&[&small], 100, false));
        assert!(copies(&[&small], 99, false));
        assert!(copies(&[&offer(5, false, 100)], 100, false));
        assert!(!copies(&[&offer(5, false, 100), &small], 100, false), "one of them reaches back");
        assert!(!copies(&[&offer(0, true, 100)], 0, false), "there is nothing");
        assert!(copies(&[&small], 100, true), "a rebuilt site takes a copy");
        assert!(!copies(&[&offer(0, true, 0)], 0, true), "of which there is none yet");
    }
}
