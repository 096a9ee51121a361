//! The digests of this site's recent positions, for comparison at equal cursors.

use std::sync::Arc;
use std::time::Duration;

use cfs_model::Vector;
use cfs_rpc::v1;
use tonic::Status;

use crate::node::Node;

/// Positions in one answer: the newest.
const MAX_POINTS: usize = 512;
/// A caller never waits for longer.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Answers once what is wanted is applied here, or when the caller's time is up.
pub(crate) async fn recent(node: &Arc<Node>, request: v1::DigestsRequest) -> Result<v1::DigestsReply, Status> {
    let wanted =
        Vector::from_wire(&request.wanted).ok_or_else(|| Status::invalid_argument("the position is not one"))?;
    let wait = Duration::from_millis(request.wait_ms).min(MAX_WAIT);
    wait_applied(node, &wanted, wait).await;
    let comparable = node.store.position().comparable;
    let mut history = node.store.digest_history();
    // After a start the history is empty until something is applied.
    let now = node.store.digest();
    if comparable && history.last().is_none_or(|(applied, _)| *applied != now.applied) {
        history.push((now.applied, now.root));
    }
    let newest = history.into_iter().rev().take(MAX_POINTS);
    let mut points: Vec<v1::DigestPoint> = newest
        .map(|(applied, root)| v1::DigestPoint { applied: applied.to_wire(), root: root.to_be_bytes().to_vec().into() })
        .collect();
    points.reverse();
    let why = if comparable { "" } else { "a snapshot or a forgetting is under way" };
    Ok(v1::DigestsReply { points, comparable, why: why.into() })
}

/// Waits until `wanted` is applied here; returns whether it is.
pub(crate) async fn wait_applied(node: &Node, wanted: &Vector, wait: Duration) -> bool {
    let mut applied = node.signals.applied.subscribe();
    let reached = async {
        while !node.store.position().applied.covers(wanted) {
            applied.changed().await;
        }
    };
    tokio::time::timeout(wait, reached).await.is_ok()
}
