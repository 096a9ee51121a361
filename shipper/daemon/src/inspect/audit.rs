//! The audit trail, as operators ask for it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use cfs_audit::read::{Filter, Query, Reader};
use cfs_audit::{Problem, Report};
use cfs_rpc::v1;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::{Replies, Sink};
use crate::audit;
use crate::node::Node;

/// Records in one message.
const LINES: usize = 128;
/// Bytes of records after which a message is sent.
const BYTES: usize = 256 * 1024;
/// Who follows is told of new records at most so often.
const PAUSE: Duration = Duration::from_millis(50);

/// What a request asks for.
fn query(request: &v1::ReadAuditRequest) -> Result<Query, Status> {
    let time = |ms: i64| match ms {
        0 => Ok(None),
        ms => Timestamp::from_millisecond(ms).map(Some).map_err(|_| Status::invalid_argument("the time is not one")),
    };
    let filter = (!request.filter.is_empty()).then(|| Filter::parse(&request.filter));
    let tail = (request.tail > 0).then(|| usize::try_from(request.tail).unwrap_or(usize::MAX));
    Ok(Query { since: time(request.since_ms)?, until: time(request.until_ms)?, filter, tail, oldest: request.oldest })
}

/// Streams records; it waits while the caller does not read.
pub(super) fn read(
    node: &Arc<Node>,
    request: &v1::ReadAuditRequest,
) -> Result<Response<Replies<v1::AuditLines>>, Status> {
    let mut reader = Reader::new(node.audit.dir.clone(), query(request)?);
    let follow = request.follow;
    let node = node.clone();
    let (out, replies) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut grew = node.audit.grew.subscribe();
        loop {
            let sink = out.clone();
            let pass = tokio::task::spawn_blocking(move || {
                let outcome = pass(&mut reader, &sink);
                (reader, outcome)
            });
            let Ok((again, outcome)) = pass.await else { return };
            reader = again;
            if let Err(status) = outcome {
                // The caller may be gone.
                let _ = out.send(Err(status)).await;
                return;
            }
            if !follow {
                return;
            }
            tokio::select! {
                () = grew.changed() => tokio::time::sleep(PAUSE).await,
                () = out.closed() => return,
            }
        }
    });
    Ok(Response::new(ReceiverStream::new(replies)))
}

/// Hands over what there is now. Blocks.
fn pass(reader: &mut Reader, out: &Sink<v1::AuditLines>) -> Result<(), Status> {
    let (mut lines, mut bytes, mut gone) = (Vec::new(), 0, false);
    let read = reader.read(&mut |line| {
        bytes += line.len();
        lines.push(bytes::Bytes::copy_from_slice(line));
        if lines.len() >= LINES || bytes >= BYTES {
            bytes = 0;
            gone = out.blocking_send(Ok(v1::AuditLines { lines: std::mem::take(&mut lines) })).is_err();
        }
        if gone { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    read.map_err(|error| Status::data_loss(format!("the audit trail does not read: {error}")))?;
    if !lines.is_empty() && !gone {
        let _ = out.blocking_send(Ok(v1::AuditLines { lines }));
    }
    Ok(())
}

/// Checks the trail, with what other sites hold of it.
pub(super) async fn verify(node: &Arc<Node>) -> Result<v1::VerifyAuditReply, Status> {
    let (held, unreachable) = audit::held_by_others(node).await;
    let asked = node.clone();
    let report = super::blocking(move || {
        let _here = asked.audit.keep_segments();
        let live = asked.audit.trail().as_ref().map(cfs_audit::Trail::head);
        let report = cfs_audit::verify(&asked.audit.dir, &held, live);
        report.map_err(|error| Status::data_loss(format!("the audit trail cannot be read: {error}")))
    });
    Ok(reply(node.site().to_string(), report.await?, unreachable))
}

fn reply(site: String, report: Report, unreachable: Vec<String>) -> v1::VerifyAuditReply {
    let problem = |Problem { what, seq, file, text }| v1::AuditProblem { what, seq, file, text };
    v1::VerifyAuditReply {
        site,
        trail: report.trail,
        key: report.key,
        records: report.records,
        first: report.first,
        last: report.last,
        own_checkpoints: report.own_checkpoints,
        held: report.held.into_iter().map(|(site, checkpoints)| v1::HeldCount { site, checkpoints }).collect(),
        unreachable,
        problems: report.problems.into_iter().map(problem).collect(),
        more_problems: report.more_problems,
        notes: report.notes,
    }
}

/// Removes what is beyond the retention.
pub(super) async fn prune(node: &Arc<Node>) -> Result<v1::PruneAuditReply, Status> {
    let node = node.clone();
    super::blocking(move || {
        let (pruned, bytes_left) =
            node.audit.prune(&node).map_err(|error| Status::failed_precondition(error.to_string()))?;
        let (retention_s, retention_bytes) = audit::retention(&node.settings);
        let cfs_audit::Pruned { segments, records, bytes } = pruned;
        Ok(v1::PruneAuditReply { segments, records, bytes, bytes_left, retention_s, retention_bytes })
    })
    .await
}
