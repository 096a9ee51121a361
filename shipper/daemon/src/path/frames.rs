//! Messages between sites, from and to this site's state.

use cfs_model::op::StreamPosition;
use cfs_model::{Levels, SiteName};
use cfs_rpc::identity::Role;
use cfs_rpc::io::PeerIdentity;
use cfs_rpc::v1;
use cfs_shipper_core::batch::{self, Batch};
use cfs_shipper_core::caps::MAX_BATCHES_PER_FRAME;

use tonic::{Request, Status};

use crate::bootstrap;
use crate::directed::opened_to_wire;
use crate::node::Node;

/// The protocol between sites that this version speaks.
pub(crate) const PROTOCOL: u32 = 1;

/// The caller, if it is a shipper of a site that this one knows (invariant 9).
pub(crate) fn caller<T>(node: &Node, request: &Request<T>) -> Result<SiteName, Status> {
    let peer = PeerIdentity::of(request).ok_or_else(|| Status::unauthenticated("no certificate"))?;
    let identity = &peer.identity;
    if identity.role != Role::Shipper {
        return Err(Status::permission_denied(format!("a certificate of the role {} may not ask this", identity.role)));
    }
    if node.known_peer(&identity.site).is_none() {
        return Err(Status::permission_denied(format!(
            "{} is neither enrolled nor in the configuration of {} ([[peers]])",
            identity.site,
            node.site()
        )));
    }
    Ok(identity.site.clone())
}

/// How far this site is in every stream, as reported to others.
pub(crate) fn stream_states(node: &Node) -> Vec<v1::StreamState> {
    // What is copied in parts counts for nothing and is compared with nothing.
    if bootstrap::is_partial(node) {
        return Vec::new();
    }
    let state = |(stream, durable, applied): (_, _, cfs_model::Lsn)| v1::StreamState {
        durable: Some(StreamPosition::of(stream, durable)),
        applied_lsn: applied.0,
        first_lsn: node.journal.first(stream).unwrap_or_default().0,
    };
    node.positions.cursors().into_iter().map(state).collect()
}

/// The cursors and the floor, as sent to other sites: the cursors are read first. So an ack whose floor is still the old
/// one holds no entry that came after a seal was reported, and may count; see `report`, which reads in the other order.
pub(crate) fn stream_states_and_floor(node: &Node) -> (Vec<v1::StreamState>, u64) {
    let states = stream_states(node);
    (states, node.governed.floor().0)
}

/// What this site says first.
pub(crate) fn hello(node: &Node) -> v1::PeerHello {
    let (streams, floor) = stream_states_and_floor(node);
    let levels = levels(node);
    v1::PeerHello {
        protocol: PROTOCOL,
        cluster: node.config.cluster.id.to_string(),
        site: node.site().to_string(),
        site_id: u32::from(node.id().0),
        floor,
        opened: opened_to_wire(&node.governed.history()),
        streams,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        level: levels.acts_as.0,
        oldest_level: levels.oldest.0,
    }
}

/// What this site acts as.
pub(crate) fn levels(node: &Node) -> Levels {
    Levels::acting_as(node.config.cluster.level)
}

/// Whether the other end is who its certificate names, and one that this site knows (invariant 9).
pub(crate) fn check_hello(node: &Node, hello: &v1::PeerHello, certified: &cfs_model::SiteName) -> Result<(), String> {
    if hello.protocol != PROTOCOL {
        return Err(format!(
            "it speaks protocol {}, this site speaks {PROTOCOL}: upgrade the older of the two",
            hello.protocol
        ));
    }
    levels(node).meet(certified.as_str(), Levels::told(hello.level, hello.oldest_level))?;
    if hello.cluster != node.config.cluster.id.to_string() {
        return Err(format!("it belongs to cluster {}, this site to {}", hello.cluster, node.config.cluster.id));
    }
    if hello.site != certified.as_str() {
        return Err(format!("it says that it is {}, its certificate names {certified}", hello.site));
    }
    let known = node
        .known_peer(certified)
        .ok_or_else(|| format!("{certified} is neither enrolled nor in this site's configuration ([[peers]])"))?;
    if hello.site_id != u32::from(known.id.0) {
        return Err(format!(
            "it has number {}, this site's configuration gives {certified} {}",
            hello.site_id, known.id
        ));
    }
    Ok(())
}

/// Splits a message into batches, each with its checksums and its payload verified; their number is bounded.
pub(crate) fn split(mut bytes: bytes::Bytes) -> Result<Vec<Batch>, batch::Unusable> {
    let mut batches = Vec::new();
    while !bytes.is_empty() {
        if batches.len() == MAX_BATCHES_PER_FRAME {
            return Err(batch::Error::Range("number in a message").into());
        }
        let batch = Batch::decode(&bytes)?;
        batch.check_payload()?;
        let len = batch.bytes().len();
        bytes = bytes.slice(len..);
        batches.push(batch);
    }
    Ok(batches)
}
