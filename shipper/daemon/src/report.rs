//! What this site reports to its control process.

use cfs_model::Lsn;
use cfs_model::op::StreamPosition;
use cfs_rpc::v1::{PeerHeard, ShipperReport};

use crate::bootstrap;
use crate::governor::own_stream;
use crate::node::Node;
use crate::path::frames::stream_states;
use crate::path::open::REBUILT;
use crate::peers::Peer;
use crate::status;

/// How far a session of the control process is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attended {
    /// The last directive taken; what it asked to persist is on disk.
    pub(crate) taken: u64,
    /// Why the one after it was not.
    pub(crate) refused: String,
}

/// The report now.
///
/// The floor is read before the cursors. A floor is in force before it is on disk, and on disk before it shows here; so
/// whatever was acknowledged under an older epoch, here or by this site to the primary, lies at or below the cursors
/// that are read after it, and a failover that covers them loses nothing of it (invariant 4). Acks to other sites read
/// in the opposite order, cursors before floor: one whose floor is still the old one names cursors from before the seal,
/// one that names later cursors carries the new floor and does not count. See `stream_states_and_floor`.
pub(crate) fn report(node: &Node, attended: &Attended) -> ShipperReport {
    let floor = node.governed.floor();
    let streams = stream_states(node);
    let now_ms = node.boot_ms();
    let waiting = node.governed.waiting();
    // Whoever was rebuilt asks at once, primary or not.
    let rebuilt = node.governed.needs_another_incarnation();
    let (_, _, epoch) = node.governed.primary();
    let accepting = node.admission().accepting().is_some();
    let (status, why) = status::state(node, accepting);
    let furthest = node.governed.furthest();
    let peers = node.peers.lock().clone();
    let silence_ms = node.silence_ms();
    let heard = |peer: &Peer| PeerHeard {
        site: u32::from(peer.id.0),
        age_ms: peer.heard_at_ms.map_or(u64::MAX, |at| now_ms.saturating_sub(at)),
        rtt_us: peer.rtt_us,
        silent: peer.is_silent(now_ms, silence_ms),
        source_age_ms: peer.sourced_at_ms.map_or(u64::MAX, |at| now_ms.saturating_sub(at)),
    };
    ShipperReport {
        directive: attended.taken,
        refused: attended.refused.clone(),
        instance: node.instance,
        pid: std::process::id(),
        append_path_age_ms: node.proof.age_ms(now_ms),
        epoch: epoch.0,
        floor: floor.0,
        lease_deadline_boot_ns: node.governed.lease_deadline_ns(),
        accepting,
        waiting_for: node.governed.change_under_way().unwrap_or_else(|| waiting.for_what.clone()),
        needs_incarnation: waiting.needs_incarnation || rebuilt,
        needs_incarnation_why: match (rebuilt, waiting.needs_incarnation) {
            (true, _) => REBUILT.to_owned(),
            (false, true) => waiting.for_what,
            (false, false) => String::new(),
        },
        incarnation: node.governed.incarnation().0.unwrap_or_default().0,
        streams,
        drained_op: node.governed.drained_op(),
        confirmed_rule: node.confirmed_rule(),
        wants_promise: u32::try_from(node.governed.wants_promise()).unwrap_or(u32::MAX),
        peers: peers.values().map(heard).collect(),
        partial: bootstrap::is_partial(node),
        level: node.config.cluster.level.0,
        sync_us: node.metrics.sync_us(),
        status: status.into(),
        why,
        lag_ms: status::lag_here(node, now_ms),
        acknowledged: furthest.map(|furthest| StreamPosition::of(furthest.stream, furthest.lsn)),
        acknowledged_at_ms: furthest.map_or(0, |furthest| furthest.at_ms),
        written_at_ms: written_at_ms(node),
        durable_bytes: unshared_bytes(node),
        settings_waiting: node.settings.waiting_for_start(),
        must_rebuild: bootstrap::beyond(node).unwrap_or_default(),
        diverged: peers.values().filter(|peer| peer.diverged).map(|peer| u32::from(peer.id.0)).collect(),
    }
}

/// When the last entry of this site's own streams was written, by its stamp.
fn written_at_ms(node: &Node) -> u64 {
    let own = node.journal.streams().into_iter().filter(|stream| stream.site == node.id());
    let clocks = own.filter_map(|stream| Some(node.journal.position(stream)?.clock));
    clocks.max().unwrap_or(0) / 1_000_000
}

/// Bytes of the own stream, written by this process, that no other site has reported as durable.
fn unshared_bytes(node: &Node) -> u64 {
    let Some(stream) = own_stream(node) else { return 0 };
    let shared = node.peers.lock().values().filter_map(|peer| peer.durable.get(&stream).copied()).max();
    node.unshared.bytes_after(stream, shared.unwrap_or(Lsn::ZERO))
}

/// The part of a report that is sent as soon as it changes. Cursors belong to it while they are `moving` towards something
/// that a leader waits for.
pub(crate) fn waited_for(report: &ShipperReport, moving: bool) -> ShipperReport {
    ShipperReport {
        append_path_age_ms: 0,
        lease_deadline_boot_ns: 0,
        streams: if moving { report.streams.clone() } else { Vec::new() },
        peers: Vec::new(),
        why: String::new(),
        lag_ms: 0,
        acknowledged: None,
        acknowledged_at_ms: 0,
        written_at_ms: 0,
        durable_bytes: 0,
        sync_us: 0,
        ..report.clone()
    }
}
