//! The primary's part in forgetting: once every enrolled site has applied what removed them, tombstones go.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cfs_model::Vector;
use cfs_model::op::op::Kind;
use cfs_model::op::{Forget, Op};
use prost::Message;
use tokio::sync::mpsc;

use crate::node::Node;
use crate::path::commit::{Admitted, Work};
use crate::peers::Peer;

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(30);
/// The producer name under which the shipper appends; producers' names hold no control characters.
const PRODUCER: Bytes = Bytes::from_static(b"\0shipper");

/// Runs for as long as the process lives.
pub(crate) async fn run(node: Arc<Node>, queue: mpsc::UnboundedSender<Work>) {
    let mut candidate: Option<Vector> = None;
    loop {
        tokio::time::sleep(INTERVAL).await;
        // Where others append too, one may be writing an entry that is older than what it is about to apply.
        let alone = node.admission().accepting().is_some() && !node.governed.directed().shared;
        if !alone || node.store.tombstones().is_ok_and(|n| n == 0) {
            candidate = None;
            continue;
        }
        candidate = match candidate {
            None => Some(node.store.position().applied),
            Some(vector) => match settled(&node, &vector) {
                None => Some(vector),
                // What every site had written by then is applied here, so nothing that is still to come can be older.
                Some(ends) if node.store.position().applied.covers(&ends) => {
                    append(&node, &queue, &vector);
                    None
                }
                Some(_) => Some(vector),
            },
        };
    }
}

/// If every enrolled site has applied `vector`: the ends of all streams that any of them holds, closed ones up to their final
/// position. Late entries of a site that was lost may be with another one.
fn settled(node: &Node, vector: &Vector) -> Option<Vector> {
    let directed = node.governed.directed();
    let writing = node.admission().accepting().map(|(_, stream)| stream);
    let peers = node.peers.lock();
    let mut ends = Vector::new();
    for site in &directed.data_sites {
        if *site == node.id() {
            continue;
        }
        // An enrolled site that is not in the configuration was not heard: nothing is forgotten without it.
        let heard = |peer: &&Peer| peer.id == *site && peer.is_heard(node.boot_ms(), node.silence_ms());
        let peer = peers.values().find(heard)?;
        if !vector.iter().all(|(stream, lsn)| peer.applied.get(&stream).is_some_and(|applied| *applied >= lsn)) {
            return None;
        }
        // What this site writes just now is younger than the vector.
        for (stream, end) in peer.durable.iter().filter(|(stream, _)| Some(**stream) != writing) {
            ends.advance(*stream, directed.end_of(*stream, *end));
        }
    }
    Some(ends)
}

fn append(node: &Node, queue: &mpsc::UnboundedSender<Work>, vector: &Vector) {
    let op = Op { kind: Some(Kind::Forget(Forget { positions: vector.to_wire() })) };
    let session = node.next_session();
    let mut admission = node.admission();
    let Some((epoch, stream)) = admission.accepting() else { return };
    let Ok(held) = admission.hello(&PRODUCER, session) else { return };
    let seq = held.seq + 1;
    let Ok(places) = admission.entries(&PRODUCER, session, epoch, seq, 1) else { return };
    let ops = vec![Bytes::from(op.encode_to_vec())].into_iter();
    let entry =
        Admitted { stream, epoch, first_lsn: places.first_lsn, producer: PRODUCER, first_seq: seq, ops, _room: None };
    // Under the lock of the admission, so that the queue is in the order of LSNs. Without a group commit the process ends.
    let _ = queue.send(Work::Append(entry));
    tracing::info!(%vector, "tombstones that every site has applied are forgotten");
}
