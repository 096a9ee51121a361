//! The source's side: gives a copy of this site's store, in parts, while it goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cfs_model::{Lsn, SiteName, Vector};
use cfs_rpc::v1;
use cfs_rpc::v1::copy_frame::Kind as Incoming;
use cfs_shipper_core::caps::{COPY_PART_BYTES, MAX_COPIES_GIVEN, MAX_COPY_PARTS_AHEAD};
use cfs_store::snapshot::{self, Chunk, Resume, Snapshot};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::node::Node;
use crate::worker;

/// A primary rests after each part as long as the part took to read, at most this: producers come first.
const MAX_REST: Duration = Duration::from_millis(100);
/// A receiver that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);

/// The copies under way from here, and what each still needs of the journal.
#[derive(Debug, Default)]
pub(crate) struct Copies(Mutex<BTreeMap<u64, Vector>>);

impl Copies {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Vector>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// From where on each stream is needed by some copy under way: what lies past it must stay in the journal. A session
    /// that ends needs nothing more.
    pub(crate) fn needed(&self) -> Vector {
        let copies = self.lock();
        let mut out = Vector::new();
        for (stream, lsn) in copies.values().flat_map(Vector::iter) {
            let known = out.get(stream);
            out.set(stream, if known == Lsn::ZERO { lsn } else { known.min(lsn) });
        }
        out
    }
}

/// One copy under way; ends with it.
struct Session {
    node: Arc<Node>,
    number: u64,
}

impl Session {
    fn begin(node: Arc<Node>, needs: Vector) -> Result<Self, Status> {
        let number = node.next_session();
        {
            let mut copies = node.copies.lock();
            if copies.len() >= MAX_COPIES_GIVEN {
                return Err(Status::resource_exhausted(format!("{MAX_COPIES_GIVEN} copies are under way from here")));
            }
            copies.insert(number, needs);
        }
        Ok(Self { node, number })
    }

    /// The receiver's journal holds what lies before `durable`.
    fn holds(&self, durable: &Vector) {
        if let Some(needs) = self.node.copies.lock().get_mut(&self.number) {
            for (stream, lsn) in durable.iter() {
                needs.advance(stream, lsn);
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.node.copies.lock().remove(&self.number);
    }
}

/// Why no copy can be had from here now; empty: it can.
fn refusal(node: &Node) -> String {
    let phase = node.bootstrap.phase();
    if node.bootstrap.is_under_way() {
        return format!("{} is being enrolled itself, phase {}", node.site(), phase.word());
    }
    if !node.store.position().comparable {
        return format!("the store of {} is not complete at the moment", node.site());
    }
    if node.copies.count() >= MAX_COPIES_GIVEN {
        return format!("{MAX_COPIES_GIVEN} copies are under way from {}", node.site());
    }
    String::new()
}

/// What a copy from here would cost.
pub(crate) fn offer(node: &Node, request: &v1::OfferRequest) -> Result<v1::OfferReply, Status> {
    let after = Vector::from_wire(&request.after).ok_or_else(|| Status::invalid_argument("a position is not one"))?;
    let applied = node.store.position().applied;
    let usage = node.journal.usage();
    let first = |stream| usage.streams.iter().find(|s| s.stream == stream).map(|s| s.first);
    let reaches_back = applied
        .iter()
        .all(|(stream, lsn)| after.get(stream) >= lsn || first(stream).is_some_and(|f| f <= after.get(stream).next()));
    let store = node.store.usage().map_err(|error| Status::data_loss(error.to_string()))?;
    Ok(v1::OfferReply {
        refused: refusal(node),
        reaches_back,
        journal_bytes: usage.streams.iter().map(|stream| stream.bytes).sum(),
        rows: store.inodes + store.dentries,
        giving: node.copies.count() as u32,
        primary: node.admission().accepting().is_some(),
        applied: applied.to_wire(),
        store_bytes: store.used_bytes,
    })
}

fn status(error: &snapshot::Error) -> Status {
    match error {
        snapshot::Error::Stale => Status::aborted(error.to_string()),
        snapshot::Error::Behind | snapshot::Error::Incomplete => Status::failed_precondition(error.to_string()),
        _ => Status::data_loss(error.to_string()),
    }
}

pub(crate) type Out = mpsc::Sender<Result<v1::CopyPart, Status>>;

/// Gives one copy. In memory are the parts that wait for the network, and one that is read.
pub(crate) async fn copy(
    node: Arc<Node>,
    site: &SiteName,
    mut incoming: Streaming<v1::CopyFrame>,
    out: &Out,
) -> Result<(), Status> {
    let Some(v1::CopyFrame { kind: Some(Incoming::Begin(begin)) }) = incoming.message().await? else {
        return Err(Status::invalid_argument("the first frame must begin the copy"));
    };
    let refused = refusal(&node);
    if !refused.is_empty() {
        return Err(Status::failed_precondition(refused));
    }
    let bad = |error: snapshot::Error| Status::invalid_argument(error.to_string());
    let covers = Vector::from_wire(&begin.covers).ok_or_else(|| Status::invalid_argument("a position is not one"))?;
    if !node.store.position().applied.covers(&covers) {
        return Err(status(&snapshot::Error::Behind));
    }
    let snapshot = if begin.snapshot.is_empty() {
        node.store.snapshot_begin().map_err(|error| status(&error))?
    } else {
        Snapshot::decode(&begin.snapshot).map_err(bad)?
    };
    let mut from = if begin.next.is_empty() { Resume::START } else { Resume::decode(&begin.next).map_err(bad)? };
    let session = Session::begin(node.clone(), snapshot.applied.clone())?;
    let snapshot = Arc::new(snapshot);
    tracing::info!(%site, resumed = !begin.snapshot.is_empty(), at = %snapshot.applied, "giving a copy of the store");
    let (mut sent, mut installed, mut done) = (0, 0, false);
    loop {
        if done || sent - installed >= MAX_COPY_PARTS_AHEAD {
            let said = tokio::time::timeout(SILENCE, incoming.message()).await;
            let Some(frame) = said.map_err(|_| Status::deadline_exceeded("nothing was heard"))?? else {
                tracing::info!(%site, done, parts = sent, "the copy's receiver has what it wanted, or is gone");
                return Ok(());
            };
            let Some(Incoming::Installed(news)) = frame.kind else {
                return Err(Status::invalid_argument("this frame does not come here"));
            };
            installed = installed.max(news.parts.min(sent));
            if let Some(durable) = Vector::from_wire(&news.durable) {
                session.holds(&durable);
            }
            continue;
        }
        let began = node.boot_ns();
        let (reader, head) = (node.clone(), snapshot.clone());
        let read = worker::behind(move || {
            let chunk = reader.store.snapshot_chunk(&head, &from, COPY_PART_BYTES)?;
            let usage = reader.store.usage()?;
            Ok::<_, snapshot::Error>((chunk, usage.inodes + usage.dentries))
        });
        let read = read.await.map_err(|e| Status::internal(e.to_string()))?;
        let (Chunk { bytes, next }, rows) = read.map_err(|error| status(&error))?;
        let took = Duration::from_nanos(node.boot_ns() - began);
        node.metrics.sent(bytes.len() as u64);
        sent += 1;
        let part = v1::CopyPart { part: bytes.into(), rows };
        out.send(Ok(part)).await.map_err(|_| Status::cancelled("the receiver is gone"))?;
        done = next.is_none();
        from = next.unwrap_or(Resume::START);
        if node.governed.is_told_primary() {
            tokio::time::sleep(took.min(MAX_REST)).await;
        }
    }
}
