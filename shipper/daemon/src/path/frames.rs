//! Messages between sites, from and to this site's state.

use cfs_model::op::StreamPosition;
use cfs_rpc::v1;
use cfs_shipper_core::batch::{self, Batch};
use cfs_shipper_core::caps::MAX_BATCHES_PER_FRAME;

use crate::governor::opened_to_wire;
use crate::node::Node;

/// The protocol between sites that this version speaks.
pub(crate) const PROTOCOL: u32 = 1;

/// How far this site is in every stream, as reported to others.
pub(crate) fn stream_states(node: &Node) -> Vec<v1::StreamState> {
    let state = |(stream, durable, applied): (_, _, cfs_model::Lsn)| v1::StreamState {
        durable: Some(StreamPosition::of(stream, durable)),
        applied_lsn: applied.0,
    };
    node.positions.cursors().into_iter().map(state).collect()
}

/// What this site says first.
pub(crate) fn hello(node: &Node) -> v1::PeerHello {
    v1::PeerHello {
        protocol: PROTOCOL,
        cluster: node.config.cluster.id.to_string(),
        site: node.site().to_string(),
        site_id: u32::from(node.id().0),
        floor: node.governed.floor().0,
        opened: opened_to_wire(&node.governed.history()),
        streams: stream_states(node),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Whether the other end is who its certificate names, and one that this site knows (invariant 9).
pub(crate) fn check_hello(node: &Node, hello: &v1::PeerHello, certified: &cfs_model::SiteName) -> Result<(), String> {
    if hello.protocol != PROTOCOL {
        return Err(format!(
            "it speaks protocol {}, this site speaks {PROTOCOL}: upgrade the older of the two",
            hello.protocol
        ));
    }
    if hello.cluster != node.config.cluster.id.to_string() {
        return Err(format!("it belongs to cluster {}, this site to {}", hello.cluster, node.config.cluster.id));
    }
    if hello.site != certified.as_str() {
        return Err(format!("it says that it is {}, its certificate names {certified}", hello.site));
    }
    let known = node.config.peers.iter().find(|peer| peer.name == *certified);
    let known = known.ok_or_else(|| format!("{certified} is not in this site's configuration ([[peers]])"))?;
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
