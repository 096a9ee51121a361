//! What this site's store holds, register by register: for itself, and for other sites that compare theirs with it.

use std::sync::Arc;
use std::time::Duration;

use cfs_model::Vector;
use cfs_rpc::v1;
use cfs_shipper_core::caps::REPAIR_PART_BYTES;
use cfs_store::digest::BUCKETS;
use cfs_store::repair;
use cfs_store::verify::{Content, Contents, MAX_PLACES, Place, Verified};
use tonic::Status;

use crate::digests::wait_applied;
use crate::node::Node;

/// Inodes that do not decode, in one answer.
const MAX_UNREADABLE: usize = 100;
/// A caller never waits for longer.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Bytes of a sum in a message.
const SUM_BYTES: usize = 16;

/// Reads all registers. Checks wait for each other: they cost a pass over the store each.
pub(crate) async fn verify(node: &Arc<Node>) -> Result<Verified, Status> {
    let Ok(_turn) = node.checking.acquire().await else { return Err(Status::unavailable("it stops")) };
    let store = node.store.clone();
    blocking(move || store.verify(MAX_UNREADABLE)).await
}

/// Answers another site's `Verify`.
pub(crate) async fn answer_verify(node: &Arc<Node>, request: v1::VerifyRequest) -> Result<v1::VerifyReply, Status> {
    wait(node, &request.wanted, request.wait_ms).await?;
    let comparable = node.store.position().comparable;
    let verified = verify(node).await?;
    Ok(v1::VerifyReply {
        applied: verified.applied.to_wire(),
        buckets: sums_to_wire(verified.buckets.iter().copied()),
        wrong: verified.wrong.iter().map(|bucket| u32::from(*bucket)).collect(),
        unreadable: verified.unreadable,
        unreadable_count: verified.unreadable_count,
        rows: verified.rows,
        comparable,
        misplaced: verified.misplaced,
    })
}

/// Answers another site's `Descend`.
pub(crate) async fn answer_descend(node: &Arc<Node>, request: v1::DescendRequest) -> Result<v1::DescendReply, Status> {
    let bucket = u16::try_from(request.bucket).ok().filter(|bucket| usize::from(*bucket) < BUCKETS);
    let bucket = bucket.ok_or_else(|| Status::invalid_argument("there is no such bucket"))?;
    if request.places.len() > MAX_PLACES {
        return Err(Status::invalid_argument(format!("more than {MAX_PLACES} places are asked for")));
    }
    let places: Option<Vec<Place>> = request.places.iter().map(|levels| Place::new(levels)).collect();
    let places = places.ok_or_else(|| Status::invalid_argument("there is no such place"))?;
    wait(node, &request.wanted, request.wait_ms).await?;
    let contents = contents(node, bucket, places).await?;
    Ok(v1::DescendReply {
        applied: contents.applied.to_wire(),
        comparable: contents.comparable,
        places: contents.places.iter().map(content_to_wire).collect(),
    })
}

/// Answers another site's `ReadRegisters`.
pub(crate) async fn answer_registers(
    node: &Arc<Node>,
    request: v1::RegistersRequest,
) -> Result<v1::RegistersReply, Status> {
    wait(node, &request.wanted, request.wait_ms).await?;
    let store = node.store.clone();
    let read = move || store.read_registers(request.inode, &request.from, REPAIR_PART_BYTES);
    let part = tokio::task::spawn_blocking(read).await.map_err(|e| Status::internal(e.to_string()))?;
    let part = part.map_err(|error| match error {
        repair::Error::Damaged(_) => Status::invalid_argument(error.to_string()),
        repair::Error::Busy | repair::Error::Behind { .. } => Status::failed_precondition(error.to_string()),
        repair::Error::Tables(_) => Status::data_loss(error.to_string()),
    })?;
    Ok(v1::RegistersReply {
        applied: part.applied.to_wire(),
        part: part.bytes,
        registers: part.registers,
        next: part.next.unwrap_or_default(),
    })
}

/// What is in places of a bucket here.
pub(crate) async fn contents(node: &Arc<Node>, bucket: u16, places: Vec<Place>) -> Result<Contents, Status> {
    let store = node.store.clone();
    blocking(move || store.contents(bucket, &places)).await
}

async fn wait(node: &Arc<Node>, wanted: &[cfs_model::op::StreamPosition], wait_ms: u64) -> Result<(), Status> {
    let wanted = Vector::from_wire(wanted).ok_or_else(|| Status::invalid_argument("the position is not one"))?;
    wait_applied(node, &wanted, Duration::from_millis(wait_ms).min(MAX_WAIT)).await;
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, cfs_store::table::Error> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|e| Status::internal(e.to_string()))?;
    done.map_err(|error| Status::data_loss(format!("the store does not read: {error}")))
}

fn sums_to_wire(sums: impl Iterator<Item = u128>) -> bytes::Bytes {
    sums.flat_map(u128::to_be_bytes).collect::<Vec<u8>>().into()
}

/// The sums in a message; `None` if they are not `count`.
pub(crate) fn sums_from_wire(bytes: &[u8], count: usize) -> Option<Vec<u128>> {
    let (chunks, rest) = bytes.as_chunks::<SUM_BYTES>();
    (rest.is_empty() && chunks.len() == count).then(|| chunks.iter().map(|chunk| u128::from_be_bytes(*chunk)).collect())
}

fn content_to_wire(content: &Content) -> v1::PlaceContent {
    match content {
        Content::Children(children) => v1::PlaceContent {
            listed: false,
            numbers: children.iter().map(|(child, _)| u64::from(*child)).collect(),
            sums: sums_to_wire(children.iter().map(|(_, sum)| *sum)),
        },
        Content::Inodes(inodes) => v1::PlaceContent {
            listed: true,
            numbers: inodes.iter().map(|(inode, _)| *inode).collect(),
            sums: sums_to_wire(inodes.iter().map(|(_, sum)| *sum)),
        },
    }
}

/// A place in a message; `None` if it is not what was promised.
pub(crate) fn content_from_wire(content: &v1::PlaceContent) -> Option<Content> {
    let sums = sums_from_wire(&content.sums, content.numbers.len())?;
    let numbers = content.numbers.iter().copied().zip(sums);
    if content.listed {
        return Some(Content::Inodes(numbers.collect()));
    }
    numbers.map(|(child, sum)| Some((u8::try_from(child).ok()?, sum))).collect::<Option<_>>().map(Content::Children)
}
