//! What this site says of itself.

use cfs_model::{Lsn, SiteId, StreamId, Vector};
use cfs_rpc::v1;
use cfs_service::usage;

use crate::node::Node;
use crate::peers::Peer;
use crate::positions::Position;
use crate::{behind, bootstrap, retention};

/// More sites than this no control process knows.
const MAX_VOUCHED: usize = 64;

/// The state now, with what the process, the disk and the store say of themselves.
pub(crate) fn local(node: &Node) -> v1::StatusReply {
    let now_ms = node.boot_ms();
    let usage = node.store.usage().unwrap_or_default();
    let name = format!("cfs-shipper {}", node.site());
    let exhaustion = retention::report::exhaustion(node);
    v1::StatusReply {
        process: Some(usage::process(name, now_ms.saturating_sub(node.started_ms))),
        machine: Some(usage::machine()),
        errors_5min: node.recent.errors(now_ms, node.metrics.errors()),
        conflicts_1h: node.recent.conflicts(now_ms, node.metrics.losses()),
        tombstones: node.store.tombstones().unwrap_or_default(),
        journal_bytes: node.journal.usage().bytes,
        store_bytes: usage.used_bytes,
        disk_free_bytes: node.space.free_bytes(),
        journal_exhausted_in_s: exhaustion.as_ref().map(|exhaustion| exhaustion.in_s),
        journal_exhausted_by: exhaustion.map(|exhaustion| exhaustion.site).unwrap_or_default(),
        ..cursors_only(node)
    }
}

/// The part of it that is in memory.
pub(crate) fn cursors_only(node: &Node) -> v1::StatusReply {
    let now_ms = node.boot_ms();
    let (primary, _, epoch) = node.governed.primary();
    let (status, why) = state(node, node.admission().accepting().is_some());
    let directed = node.governed.directed();
    let role = match primary.as_str() {
        "" => "NONE",
        site if site == node.site().as_str() => "PRIMARY",
        _ if directed.shared => "ACTIVE",
        _ => "REPLICA",
    };
    let mut peers = node.peers.lock().clone();
    // A witness has no shipper that could be down.
    peers.retain(|_, peer| !directed.witnesses.contains(&peer.id));
    // Nor one that does not belong to the cluster, or no longer.
    if directed.data_sites.contains(&node.id()) {
        peers.retain(|_, peer| directed.data_sites.contains(&peer.id));
    }
    v1::StatusReply {
        site: node.site().to_string(),
        site_id: u32::from(node.id().0),
        cluster: node.config.cluster.id.to_string(),
        status: status.into(),
        why,
        role: role.into(),
        active_active: directed.shared,
        epoch: epoch.0,
        lag_ms: lag_here(node, now_ms),
        cursors: cursors(node, now_ms),
        peers: peers.iter().map(|(site, peer)| peer_status(node, site.as_str(), peer, now_ms)).collect(),
        primary,
        floor: node.governed.floor().0,
        behind: behind::text(&behind::here(node)),
        needed_by_copies: node.copies.needed().to_wire(),
        version: env!("CARGO_PKG_VERSION").into(),
        entries_appended: node.metrics.entries_appended(),
        entries_applied: node.metrics.entries_applied(),
        ..v1::StatusReply::default()
    }
}

/// The status of this site and why it is not READY.
pub(crate) fn state(node: &Node, accepting: bool) -> (&'static str, String) {
    if node.governed.directed().fenced {
        let why = node.governed.change_under_way().unwrap_or_default();
        return ("FENCED", format!("waits for {why}"));
    }
    if node.space.is_read_only() {
        return ("READ_ONLY", node.space.why());
    }
    if let Some(why) = bootstrap::in_words(node) {
        return ("ENROLLING", why);
    }
    if let Some(why) = bootstrap::beyond(node) {
        return (
            "WAITING",
            format!("{why}; cfs admin replication enroll --primary SITE --force-rebuild keeps it aside"),
        );
    }
    let stuck =
        node.positions.lock().iter().find_map(|(stream, p)| Some(format!("stream {stream}: {}", p.stuck.clone()?)));
    if let Some(why) = stuck {
        return ("WAITING", why);
    }
    if let Some(change) = node.governed.change_under_way() {
        return ("WAITING", change);
    }
    let waiting = node.governed.waiting().for_what;
    if node.governed.is_told_primary() && !accepting {
        return ("WAITING", waiting);
    }
    if node.governed.primary().0.is_empty() {
        return ("STARTING", "no control process has told this site its role since it started".into());
    }
    ("READY", String::new())
}

fn cursors(node: &Node, now_ms: u64) -> Vec<v1::StreamCursor> {
    let table = node.positions.lock();
    let cursors: Vec<_> = table.iter().map(|(stream, position)| (*stream, cursor(position, now_ms))).collect();
    drop(table);
    let silence_ms = node.silence_ms();
    let reachable = |stream: &StreamId, after: u64| {
        let peers = node.peers.lock();
        let holds = |peer: &Peer| peer.durable.get(stream).is_some_and(|lsn| lsn.0 > after);
        peers.values().any(|peer| peer.is_heard(now_ms, silence_ms) && holds(peer))
    };
    let filled = cursors.into_iter().map(|(stream, mut cursor)| {
        if cursor.state == "moving" && cursor.durable < cursor.source && !reachable(&stream, cursor.durable) {
            "stuck".clone_into(&mut cursor.state);
            "no site that holds more of it is heard".clone_into(&mut cursor.reason);
        }
        cursor.site = u32::from(stream.site.0);
        cursor.incarnation = stream.incarnation.0;
        cursor.site_name = node.site_name(stream.site);
        cursor.pulled_from = node.plan().puller(stream).map(|(_, site)| node.site_name(site)).unwrap_or_default();
        cursor
    });
    filled.collect()
}

fn cursor(position: &Position, now_ms: u64) -> v1::StreamCursor {
    let applied = position.cursor.applied();
    let source = position.known.end();
    let state = match &position.stuck {
        Some(_) => "stuck",
        None if applied >= source => "idle",
        None => "moving",
    };
    v1::StreamCursor {
        source: source.0,
        durable: position.cursor.durable().0,
        applied: applied.0,
        state: state.into(),
        reason: position.stuck.clone().unwrap_or_default(),
        age_ms: position.known.age_ms(applied, now_ms),
        ..v1::StreamCursor::default()
    }
}

fn peer_status(node: &Node, site: &str, peer: &Peer, now_ms: u64) -> v1::PeerStatus {
    let silent_ms = peer.silent_ms(now_ms, node.started_ms);
    let down = !peer.is_heard(now_ms, node.silence_ms());
    let state = match (peer.diverged, down) {
        (true, _) => "DIVERGED",
        (_, true) => "DOWN",
        _ => "HEALTHY",
    };
    let mut why = peer.trouble.clone();
    if down && why.is_empty() {
        why = "it has not answered yet".into();
    }
    let position = |(stream, durable): (&cfs_model::StreamId, &Lsn)| v1::StreamCursor {
        site: u32::from(stream.site.0),
        incarnation: stream.incarnation.0,
        durable: durable.0,
        applied: peer.applied.get(stream).copied().unwrap_or_default().0,
        site_name: node.site_name(stream.site),
        ..v1::StreamCursor::default()
    };
    v1::PeerStatus {
        site: site.to_owned(),
        site_id: u32::from(peer.id.0),
        state: state.into(),
        lag_ms: lag_of(node, peer, now_ms),
        lag_known: peer.heard_at_ms.is_some() || peer.vouched_at_ms.is_some(),
        heard_ms: silent_ms,
        rtt_us: peer.rtt_us,
        cursors: peer.durable.iter().map(position).collect(),
        sent_bytes: peer.sent_bytes,
        received_bytes: peer.received_bytes,
        why: if state == "HEALTHY" { String::new() } else { why },
        behind: behind::text(&behind::of_site(node, peer.id)),
        answered_ms: Some(peer.answered_at_ms.map_or(u64::MAX, |at_ms| now_ms.saturating_sub(at_ms))),
    }
}

/// How far a peer is behind the streams that this site holds, in ms: the age of the oldest entry that it has not
/// reported as applied, to this site or to another that says so; while nobody hears it, at least the time since.
pub(crate) fn lag_of(node: &Node, peer: &Peer, now_ms: u64) -> u64 {
    let table = node.positions.lock();
    let behind =
        table.iter().map(|(stream, position)| position.known.age_ms(peer.applied_by_any(*stream), now_ms)).max();
    behind.unwrap_or(0).max(unknown_ms(node, peer, now_ms))
}

/// How far this site is behind what it knows to exist; while nobody hears the primary, or another site that takes appends,
/// at least the time since.
pub(crate) fn lag_here(node: &Node, now_ms: u64) -> u64 {
    let behind = node.positions.lag_ms(now_ms);
    let directed = node.governed.directed();
    let peers = node.peers.lock();
    let appends = |site: &str, peer: &Peer| {
        site == directed.primary_site || directed.shared && directed.data_sites.contains(&peer.id)
    };
    let writers = peers.iter().filter(|(site, peer)| appends(site.as_str(), peer));
    behind.max(writers.map(|(_, peer)| unknown_ms(node, peer, now_ms)).max().unwrap_or(0))
}

/// Time since anybody heard a peer; 0 while that is as it should be.
fn unknown_ms(node: &Node, peer: &Peer, now_ms: u64) -> u64 {
    let unknown_ms = peer.unknown_ms(now_ms, node.started_ms);
    if unknown_ms > node.silence_ms() { unknown_ms } else { 0 }
}

/// Takes what other control processes say of sites that this one does not hear.
pub(crate) fn vouched(node: &Node, sites: &[v1::Vouched]) {
    let now_ms = node.boot_ms();
    for said in sites.iter().take(MAX_VOUCHED) {
        let Ok(site) = u8::try_from(said.site).map(SiteId) else { continue };
        if !node.peers.vouched(site, now_ms.saturating_sub(said.age_ms), &said.streams) {
            continue;
        }
        let directed = node.governed.directed();
        let positions = said.streams.iter().take(Vector::MAX_STREAMS).filter_map(|state| state.durable);
        let held = positions.filter_map(|position| Some((position.stream()?, position.lsn())));
        let claimed = held.map(|(stream, lsn)| (stream, directed.end_of(stream, lsn))).collect();
        node.positions.claimed(site, &claimed, now_ms);
    }
}
