//! The disk of a replica: batches from other sites go to the journal in groups, one fsync for each group.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cfs_journal::{Writer, write};
use cfs_model::{Lsn, StreamId};
use cfs_shipper_core::batch::Batch;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::bootstrap::Begin;
use crate::fatal::fatal;
use crate::node::Node;

/// Messages that wait for the disk; their bytes are bounded by the credit.
const QUEUE: usize = 256;
/// Bytes in one group.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// A full disk is looked at again so often.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(100);

/// Batches of one stream, checked: they follow each other.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) stream: StreamId,
    pub(crate) batches: Vec<Batch>,
}

/// What the thread does, in order.
#[derive(Debug)]
pub(crate) enum Work {
    /// Writes batches.
    Batches(Received),
    /// Lets streams go on behind a copy of a store.
    Begin(Begin),
}

/// The queue in front of [`persist`].
pub(crate) fn queue() -> (Sender<Work>, Receiver<Work>) {
    channel(QUEUE)
}

/// Runs until the queue is closed. Blocks: give it a thread of its own. A write that fails ends the process.
pub(crate) async fn persist(node: Arc<Node>, mut queue: Receiver<Work>) {
    let mut writers: HashMap<StreamId, Writer> = HashMap::new();
    while let Some(first) = queue.recv().await {
        // What is not written is not acknowledged, and the source waits for credit.
        while node.space.is_read_only() {
            tokio::time::sleep(FULL_DISK_PAUSE).await;
        }
        let mut bytes = 0;
        let mut groups: BTreeMap<StreamId, Vec<Batch>> = BTreeMap::new();
        let (mut next, mut begin) = (Some(first), None);
        while let Some(work) = next {
            let received = match work {
                Work::Batches(received) => received,
                Work::Begin(streams) => {
                    begin = Some(streams);
                    break;
                }
            };
            bytes += received.batches.iter().map(|batch| batch.bytes().len()).sum::<usize>();
            groups.entry(received.stream).or_default().extend(received.batches);
            next = if bytes < GROUP_BYTES { queue.try_recv().ok() } else { None };
        }
        for (stream, batches) in groups {
            write(&node, &mut writers, stream, batches);
        }
        if let Some(begin) = begin {
            for stream in begin.streams() {
                writers.remove(&stream);
            }
            begin.carry_out(&node);
        }
        // A closed stream is given up as a whole once nobody needs it, unless somebody writes it.
        let directed = node.governed.directed();
        writers.retain(|stream, _| !directed.closed.contains_key(stream));
        node.signals.durable.bump();
    }
}

/// Keeps the batches that continue the journal after `held`. Two sessions may bring the same ones when a stream moves from
/// one source to another.
fn keep_what_follows(held: Lsn, batches: &mut Vec<Batch>) {
    let mut end = held;
    batches.retain(|batch| {
        let follows = batch.header().first_lsn == end.next();
        if follows {
            end = batch.header().last_lsn();
        }
        follows
    });
}

fn write(node: &Node, writers: &mut HashMap<StreamId, Writer>, stream: StreamId, mut batches: Vec<Batch>) {
    let held = node.journal.position(stream).map(|position| position.durable).unwrap_or_default();
    let new = batches.last().is_some_and(|batch| batch.header().last_lsn() > held);
    keep_what_follows(held, &mut batches);
    // A seal may have come while they waited for the disk.
    if let Some(limit) = node.governed.limits().of(stream) {
        let before = batches.len();
        batches.retain(|batch| batch.header().last_lsn() <= limit);
        if batches.len() < before {
            node.plan().start_again(stream);
        }
        if batches.is_empty() {
            return;
        }
    }
    let Some(last) = batches.last() else {
        if new {
            // Something before it was dropped: both have to come again.
            node.plan().start_again(stream);
        }
        return;
    };
    let (end, clock) = (last.header().last_lsn(), last.header().stamp(last.header().count - 1).clock);
    let started_ns = node.boot_ns();
    let writer = match writers.entry(stream) {
        std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
        std::collections::hash_map::Entry::Vacant(none) => match node.journal.writer(stream) {
            Ok(writer) => none.insert(writer),
            // The group commit has it: this is the own stream, which goes on here only before it is opened.
            Err(error) => {
                tracing::warn!(%stream, %error, "a stream that was received cannot be written");
                return;
            }
        },
    };
    match writer.append(&batches) {
        Ok(_) => {}
        Err(refused @ write::Error::Refused { .. }) => {
            node.metrics.error("batch_refused");
            tracing::warn!(%refused, "received batches were not written; they are asked for again");
            node.plan().start_again(stream);
            return;
        }
        Err(error) => fatal("the journal cannot be written", &error),
    }
    node.saw_clock(clock);
    let vectors = batches.iter().filter_map(|b| Some((b.header().first_lsn, b.header().vector.clone()?)));
    node.positions.persisted(stream, end, vectors.collect::<Vec<_>>(), node.boot_ms());
    let took_ns = node.boot_ns() - started_ns;
    node.metrics.replicated(took_ns);
    tracing::debug!(%stream, %end, batches = batches.len(), sync_us = took_ns / 1000, "received batches are durable");
    if stream.site == node.id() {
        // Let the group commit have the own stream.
        writers.remove(&stream);
    }
}
