//! Who may append, as producers are told.

use std::sync::Arc;

use cfs_rpc::v1::RoleState;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::node::Node;

/// Who may append, as this site knows.
pub(crate) fn state(node: &Node) -> RoleState {
    let (primary, address, epoch) = node.governed.primary();
    let change = node.governed.change_under_way();
    // While it changes, nobody is.
    let (primary, address) = if change.is_some() { Default::default() } else { (primary, address) };
    let accepting = node.admission().accepting().is_some();
    RoleState {
        site: node.site().to_string(),
        primary,
        address,
        epoch: epoch.0,
        accepting: accepting && !node.space.is_read_only(),
        waiting_for: if accepting && node.space.is_read_only() {
            node.space.why()
        } else {
            change.unwrap_or_else(|| node.governed.waiting().for_what)
        },
        lease_left_ns: lease_left_ns(node),
    }
}

/// What is left of the lease now; all ones: it has no end.
pub(crate) fn lease_left_ns(node: &Node) -> u64 {
    left_ns(node.governed.lease_deadline_ns(), node.boot_ns())
}

/// What is left until `deadline_ns`; all ones: it has no end.
pub(crate) const fn left_ns(deadline_ns: u64, now_ns: u64) -> u64 {
    if deadline_ns == u64::MAX { u64::MAX } else { deadline_ns.saturating_sub(now_ns) }
}

/// The state now, and again whenever it changes.
pub(crate) fn watch(node: Arc<Node>) -> ReceiverStream<Result<RoleState, Status>> {
    let (out, states) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut changes = node.signals.role.subscribe();
        let mut last = None;
        loop {
            let state = state(&node);
            if last.as_ref() != Some(&state) {
                last = Some(state.clone());
                if out.send(Ok(state)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = changes.changed() => {}
                () = out.closed() => return,
            }
        }
    });
    ReceiverStream::new(states)
}
