//! Group commit: whatever queued while the last fsync ran becomes the next batch.

use std::sync::Arc;

use bytes::Bytes;
use cfs_journal::Writer;
use cfs_model::{Epoch, Lsn, StreamId, Vector};
use cfs_shipper_core::batch::{Batch, ChainHash, Header};
use cfs_shipper_core::caps::MAX_BATCH_RAW_BYTES;
use cfs_shipper_core::clock::HybridClock;
use cfs_shipper_core::payload::Builder;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::fatal::fatal;
use crate::node::Node;
use crate::probe::Disk;

/// A batch is closed when it would grow past this, so that a few large entries do not make it wait for long.
const SOFT_RAW_BYTES: usize = 1024 * 1024;

/// Entries of one message, admitted: they have consecutive LSNs from `first_lsn`, and the queue is in the order of
/// LSNs. Its length is bounded by the permits.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) stream: StreamId,
    pub(crate) epoch: Epoch,
    pub(crate) first_lsn: Lsn,
    pub(crate) producer: Bytes,
    pub(crate) first_seq: u64,
    pub(crate) ops: std::vec::IntoIter<Bytes>,
    /// Its places in the queue, by entries and by bytes; the shipper's own few entries need none.
    pub(crate) _room: Option<[OwnedSemaphorePermit; 2]>,
}

/// What queues for the group commit.
#[derive(Debug)]
pub(crate) enum Work {
    Append(Admitted),
    /// Prove that this thread and its disk work.
    Prove,
}

/// Runs until the queue is closed. Blocks: give it a thread of its own. A write that fails ends the process.
pub(crate) async fn group_commit(node: Arc<Node>, mut queue: UnboundedReceiver<Work>) {
    let mut commit = Commit {
        clock: HybridClock::new(0, node.wall_ns(), node.boot_ns()),
        stream: None,
        builder: Builder::default(),
        scratch: Vec::new(),
        disk: Disk::default(),
        node,
    };
    let mut carried: Option<Admitted> = None;
    loop {
        let first = match carried.take() {
            Some(first) => first,
            None => match queue.recv().await {
                Some(Work::Append(first)) => first,
                Some(Work::Prove) => {
                    commit.node.proof.arrived();
                    commit.disk.prove(&commit.node);
                    continue;
                }
                None => return,
            },
        };
        let (stream, epoch, first_lsn) = (first.stream, first.epoch, first.first_lsn);
        // What queued is gathered, never waited for; the time-out bounds gathering from a queue that never runs dry.
        let close_at_ms = commit.node.boot_ms() + commit.node.settings.now().batch_timeout_ms;
        carried = commit.fill(first);
        while carried.is_none() && commit.node.boot_ms() <= close_at_ms {
            match queue.try_recv() {
                // One batch has one stream and one epoch.
                Ok(Work::Append(next)) if (next.stream, next.epoch) != (stream, epoch) => carried = Some(next),
                Ok(Work::Append(next)) => carried = commit.fill(next),
                // The commit that follows proves more.
                Ok(Work::Prove) => commit.node.proof.arrived(),
                Err(_) => break,
            }
        }
        // Appends of an epoch whose lease has ended would only be late entries of it: nobody was told that they are
        // there, and their producers ask the next primary.
        if commit.node.governed.may_acknowledge(commit.node.boot_ns()) == Some(epoch) {
            commit.write(stream, epoch, first_lsn);
        } else {
            carried = None;
            commit.drop_all(stream, &mut queue);
        }
    }
}

struct Commit {
    node: Arc<Node>,
    clock: HybridClock,
    stream: Option<Open>,
    builder: Builder,
    scratch: Vec<u8>,
    disk: Disk,
}

struct Open {
    id: StreamId,
    writer: Writer,
    end: Lsn,
    chain: ChainHash,
    /// What the last batch's reader knows of other streams.
    vector: Vector,
}

impl Commit {
    /// Moves entries into the batch; returns what is left of `from` when the batch is full.
    fn fill(&mut self, mut from: Admitted) -> Option<Admitted> {
        let most = self.node.settings.now().batch_size;
        loop {
            let full = self.builder.count() >= most || self.builder.len() >= SOFT_RAW_BYTES;
            match from.ops.as_slice().first() {
                None => return None,
                Some(op)
                    if full
                        || (!self.builder.is_empty() && self.builder.len() + op.len() > MAX_BATCH_RAW_BYTES / 2) =>
                {
                    return Some(from);
                }
                Some(_) => {}
            }
            if let Some(op) = from.ops.next() {
                self.builder.push(&from.producer, from.first_seq, &op);
                from.first_seq += 1;
                from.first_lsn = from.first_lsn.next();
            }
        }
    }

    /// Drops what is gathered and queued, unwritten, and takes its LSNs back. All of it is of one opening: the stream is
    /// not opened again before what was handed out is written or taken back.
    fn drop_all(&mut self, stream: StreamId, queue: &mut UnboundedReceiver<Work>) {
        let mut dropped = u64::from(self.builder.count());
        self.builder.finish();
        // Closed, nothing more is queued.
        self.node.admission().close();
        while let Ok(work) = queue.try_recv() {
            match work {
                Work::Append(admitted) => dropped += admitted.ops.len() as u64,
                Work::Prove => self.node.proof.arrived(),
            }
        }
        let end = self.node.positions.cursor(stream).durable();
        self.node.admission().take_back(stream, end);
        tracing::warn!(%stream, %end, dropped, "entries of an epoch that ended were dropped before they were written");
        self.node.signals.role.bump();
    }

    fn write(&mut self, stream: StreamId, epoch: Epoch, first_lsn: Lsn) {
        let count = self.builder.count();
        let raw = self.builder.finish();
        let started_ns = self.node.boot_ns();
        self.open(stream);
        let Some(open) = &mut self.stream else { fatal("the own stream is not open", &stream) };
        if open.end.next() != first_lsn {
            fatal("the journal's end does not fit the entries admitted", &format!("{} and {first_lsn}", open.end));
        }
        let position = self.node.store.position();
        self.clock.absorb(position.highest_clock.max(self.node.seen_clock()));
        let first_clock = match self.clock.take(started_ns, count) {
            Ok(clock) => clock,
            Err(skew) => fatal("no stamp can be given", &skew),
        };
        let mut seen = position.applied;
        seen.set(stream, Lsn::ZERO);
        let vector = (seen != open.vector).then(|| seen.clone());
        let header = Header {
            stream,
            epoch,
            first_lsn,
            count,
            first_clock,
            durable_lsn: open.end,
            vector,
            codec: self.node.settings.now().compression,
            raw_len: 0,
            encoded_len: 0,
            payload_checksum: 0,
            chain: open.chain,
        };
        let batch = match Batch::build(header, &raw, &mut self.scratch) {
            Ok(batch) => batch,
            Err(error) => fatal("a batch cannot be made", &error),
        };
        let encoded_ns = self.node.boot_ns();
        if let Err(error) = open.writer.append(std::slice::from_ref(&batch)) {
            fatal("the journal cannot be written", &error);
        }
        open.end = batch.header().last_lsn();
        open.chain = batch.chain_after();
        open.vector = seen;
        let vectors = batch.header().vector.clone().map(|vector| (first_lsn, vector));
        self.node.positions.persisted(stream, open.end, vectors, self.node.boot_ms());
        self.node.unshared.written(stream, open.end, batch.bytes().len() as u64);
        self.node.proof.given(self.node.boot_ms());
        let written_ns = self.node.boot_ns() - encoded_ns;
        self.node.metrics.committed(&batch, encoded_ns - started_ns, written_ns);
        let (bytes, sync_us) = (batch.bytes().len(), written_ns / 1000);
        tracing::debug!(%stream, %epoch, first = %first_lsn, count, bytes, sync_us, "a batch is durable");
        self.node.signals.durable.bump();
    }

    fn open(&mut self, stream: StreamId) {
        if self.stream.as_ref().is_some_and(|open| open.id == stream) {
            return;
        }
        let writer = match self.node.journal.writer(stream) {
            Ok(writer) => writer,
            Err(error) => fatal("the own stream cannot be opened for writing", &error),
        };
        let position = self.node.journal.position(stream);
        self.stream = Some(Open {
            id: stream,
            writer,
            end: position.as_ref().map_or(Lsn::ZERO, |p| p.durable),
            chain: position.map_or_else(|| ChainHash::start(stream), |p| p.chain),
            vector: self.node.store.vector_in_effect(stream),
        });
    }
}
