//! The last phase: what the others held when it began is applied, and a copied store is compared with theirs.

use std::sync::Arc;
use std::time::Duration;

use cfs_model::Vector;

use super::run::{begin_again, enter};
use super::{Phase, Way};
use crate::inspect::consistency;
use crate::node::Node;
use crate::{rebuild, worker};

/// How often it is looked.
const POLL: Duration = Duration::from_millis(100);
/// Sites whose cursors have not met are compared again after this.
const PAUSE: Duration = Duration::from_secs(1);
/// A comparison under load takes no longer.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(20);
/// A store that differs after a copy is copied again no sooner.
const DIFFERS_PAUSE: Duration = Duration::from_secs(10);

/// What sites that were heard hold, up to the ends of closed streams.
fn held_by_others(node: &Node) -> Option<Vector> {
    let directed = node.governed.directed();
    let now_ms = node.boot_ms();
    let peers = node.peers.lock();
    let mut heard = peers.values().filter(|peer| peer.is_heard(now_ms, node.silence_ms())).peekable();
    heard.peek()?;
    let mut all = Vector::new();
    for (stream, lsn) in heard.flat_map(|peer| &peer.durable) {
        all.advance(*stream, directed.end_of(*stream, *lsn));
    }
    Some(all)
}

/// Looks once; returns after which pause to look again.
pub(super) async fn settle(node: &Arc<Node>) -> Duration {
    let goal = {
        let goal = node.bootstrap.lock().goal.clone();
        if goal.is_empty() { held_by_others(node) } else { Some(goal) }
    };
    let Some(goal) = goal else {
        node.bootstrap.note("no other site is heard");
        return POLL;
    };
    node.bootstrap.lock().goal.clone_from(&goal);
    let position = node.store.position();
    if !position.applied.covers(&goal) || !position.comparable {
        node.bootstrap.note("");
        return POLL;
    }
    if let Some((stream, lsn)) = rebuild::lacks(node, &position.applied) {
        let text = format!(
            "waits for stream {stream} up to {lsn}: this site held that before, and a site that does is not heard"
        );
        node.bootstrap.note(text);
        return POLL;
    }
    let copied = node.bootstrap.lock().kept.way == Some(Way::Snapshot);
    if copied && let Err(pause) = compare(node).await {
        return pause;
    }
    node.bootstrap.note("");
    enter(node, Phase::Complete).await;
    tracing::info!(applied = %node.store.position().applied, "this site holds what the others hold");
    Duration::ZERO
}

/// Whether the copied store is what it says, and what another site has at the same cursors (invariant 5).
async fn compare(node: &Arc<Node>) -> Result<(), Duration> {
    node.bootstrap.note("the digest is computed again and compared");
    let store = node.store.clone();
    let agrees = match worker::behind(move || store.recompute_digest()).await {
        Ok(Ok(recomputed)) => recomputed.agrees(),
        Ok(Err(error)) => {
            node.bootstrap.note(error.to_string());
            return Err(PAUSE);
        }
        Err(_) => return Err(PAUSE),
    };
    if !agrees {
        return Err(differs(node, "the registers do not have the digest that was kept").await);
    }
    let peers = node.data_peers();
    let compared = peers.iter().map(|peer| async move {
        match tokio::time::timeout(COMPARE_TIMEOUT, consistency::compare(node, peer)).await {
            Ok(Ok((verdict, _))) => Ok(verdict),
            Ok(Err(why)) => Err(format!("{}: {why}", peer.name)),
            Err(_) => Err(format!("{}: cursors did not meet", peer.name)),
        }
    });
    let (verdicts, silent): (Vec<_>, Vec<_>) =
        futures::future::join_all(compared).await.into_iter().partition(Result::is_ok);
    let verdicts: Vec<_> = verdicts.into_iter().flatten().collect();
    if let Some(verdict) = verdicts.iter().find(|verdict| verdict.verdict == "DIFFER") {
        return Err(differs(node, &format!("the digest is another than that of {}", verdict.site)).await);
    }
    if !verdicts.iter().any(|verdict| verdict.verdict == "MATCH") {
        let why: Vec<String> = silent.into_iter().filter_map(Result::err).collect();
        node.bootstrap.note(format!("waits to be compared with another site; {}", why.join("; ")));
        return Err(PAUSE);
    }
    Ok(())
}

async fn differs(node: &Arc<Node>, why: &str) -> Duration {
    node.metrics.error("copy_differs");
    tracing::error!(why, "the copied store is not what it should be; it is copied again");
    tokio::time::sleep(DIFFERS_PAUSE).await;
    begin_again(node).await;
    node.bootstrap.note(format!("copied again: {why}"));
    Duration::ZERO
}
