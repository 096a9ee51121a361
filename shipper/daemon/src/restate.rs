//! Journals entries of this site's own stream again, as new ones: after a split was settled in favour of the side with the
//! older epochs, its values would otherwise lose the merge. Entries hold absolute values, so saying them again is harmless.

use std::sync::Arc;

use bytes::Bytes;
use cfs_model::op::op::Kind;
use cfs_model::{Lsn, StreamId};
use cfs_shipper_core::caps::MAX_FRAME_BYTES;
use cfs_shipper_core::payload::Entries;
use tokio::sync::mpsc::UnboundedSender;

use crate::node::Node;
use crate::path::commit::{Admitted, Work};

/// The producer name under which entries are said again; producers' names hold no control characters.
const PRODUCER: Bytes = Bytes::from_static(b"\0restate");
/// Entries that are queued together; the next ones follow when these are durable.
const CHUNK: usize = 1024;

/// Appends the entries of `stream` after `after` up to `through` again. Returns how many, all durable here.
///
/// # Errors
/// This site takes no appends, or does not any more: some may have been appended.
pub(crate) async fn run(
    node: &Arc<Node>,
    queue: &UnboundedSender<Work>,
    stream: StreamId,
    after: Lsn,
    through: Lsn,
) -> Result<u64, String> {
    if stream.site != node.id() {
        return Err(format!("stream {stream} is not of this site"));
    }
    let mut reader = node.journal.reader(stream, after).map_err(|error| error.to_string())?;
    let mut said = 0;
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let batches = reader.next(MAX_FRAME_BYTES).map_err(|error| error.to_string())?;
            let mut ops = Vec::new();
            let mut end = Lsn::ZERO;
            for batch in &batches {
                let header = batch.header();
                end = header.last_lsn();
                for entry in Entries::new(batch.decompress().map_err(|error| error.to_string())?) {
                    let entry = entry.map_err(|error| error.to_string())?;
                    let wanted = header.first_lsn.plus(u64::from(entry.index)) <= through;
                    let op = entry.decode().map_err(|error| error.to_string())?;
                    // What is forgotten is forgotten.
                    if wanted && !matches!(op.kind, Some(Kind::Forget(_))) {
                        ops.push(entry.op);
                    }
                }
            }
            Ok::<_, String>((reader, ops, end))
        });
        let (next, ops, end) = read.await.map_err(|error| error.to_string())??;
        reader = next;
        for chunk in ops.chunks(CHUNK) {
            append(node, queue, PRODUCER, chunk.to_vec()).await?;
            said += chunk.len() as u64;
        }
        if end == Lsn::ZERO || end >= through {
            return Ok(said);
        }
    }
}

/// Appends operations under a name of this process's own. Returns where the last one is, durable here.
///
/// # Errors
/// This site takes no appends, or does not any more: then they may have been appended.
pub(crate) async fn append(
    node: &Arc<Node>,
    queue: &UnboundedSender<Work>,
    producer: Bytes,
    ops: Vec<Bytes>,
) -> Result<(StreamId, Lsn), String> {
    let stopped = || "this site takes no appends".to_owned();
    let count = ops.len();
    let (accepting, last_lsn) = {
        let session = node.next_session();
        let mut admission = node.admission();
        let (epoch, stream) = admission.accepting().ok_or_else(stopped)?;
        let held = admission.hello(&producer, session).map_err(|_| stopped())?;
        let first_seq = held.seq + 1;
        let places = admission.entries(&producer, session, epoch, first_seq, count).map_err(|_| stopped())?;
        let first_lsn = places.first_lsn;
        let ops = ops.into_iter().collect::<Vec<_>>().into_iter();
        let entries = Admitted { stream, epoch, first_lsn, producer, first_seq, ops, _room: None };
        // Under the lock of the admission, so that the queue is in the order of LSNs.
        queue.send(Work::Append(entries)).map_err(|_| stopped())?;
        ((epoch, stream), places.last_lsn)
    };
    let mut durable = node.signals.durable.subscribe();
    let mut role = node.signals.role.subscribe();
    while node.positions.cursor(accepting.1).durable() < last_lsn {
        if node.admission().accepting() != Some(accepting) {
            return Err(stopped());
        }
        tokio::select! {
            () = durable.changed() => {}
            () = role.changed() => {}
        }
    }
    Ok((accepting.1, last_lsn))
}
