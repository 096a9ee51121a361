//! The service through which the control process governs this site. There is no other way to make it accept appends.

use std::sync::Arc;
use std::time::Duration;

use cfs_model::{Level, Lsn, StreamId};
use cfs_rpc::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::audit;
use crate::governed::Error;
use crate::node::Node;
use crate::path::commit::Work;
use crate::report::{Attended, report, waited_for};
use crate::{contested, rebuild, restate, status};

/// Reports are at most so far apart.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);
/// Reports that wait for a control process that does not read.
const REPORTS: usize = 4;

/// The stream that this site appends to.
pub(crate) fn own_stream(node: &Node) -> Option<StreamId> {
    let (incarnation, _) = node.governed.incarnation();
    incarnation.map(|incarnation| StreamId { site: node.id(), incarnation })
}

/// Serves the control process on the local socket.
pub(crate) struct Service {
    pub(crate) node: Arc<Node>,
    pub(crate) queue: mpsc::UnboundedSender<Work>,
}

#[tonic::async_trait]
impl v1::governor_server::Governor for Service {
    type AttendStream = ReceiverStream<Result<v1::ShipperReport, Status>>;

    async fn attend(&self, request: Request<Streaming<v1::Directive>>) -> Result<Response<Self::AttendStream>, Status> {
        let (out, reports) = mpsc::channel(REPORTS);
        let node = self.node.clone();
        let session = node.governed.attended();
        node.signals.role.bump();
        tokio::spawn(async move {
            tracing::info!(session, "a control process attends");
            let end = attend(&node, session, request.into_inner(), &out).await;
            tracing::info!(
                session,
                why = end.message(),
                "a control process is gone; its last directive stays in force"
            );
            // It may be gone already.
            let _ = out.send(Err(end)).await;
        });
        Ok(Response::new(ReceiverStream::new(reports)))
    }

    async fn restate(&self, request: Request<v1::RestateRequest>) -> Result<Response<v1::RestateReply>, Status> {
        let request = request.into_inner();
        let after = request.after.ok_or_else(|| Status::invalid_argument("no position"))?;
        let stream = after.stream().ok_or_else(|| Status::invalid_argument("the position is not one"))?;
        let said = restate::run(&self.node, &self.queue, stream, after.lsn(), Lsn(request.through)).await;
        let entries = said.map_err(Status::failed_precondition)?;
        tracing::info!(%stream, entries, "entries of this site were journalled again");
        Ok(Response::new(v1::RestateReply { entries }))
    }

    async fn contested(&self, request: Request<v1::ContestedRequest>) -> Result<Response<v1::ContestedReply>, Status> {
        Ok(Response::new(contested::answer(&self.node, request.into_inner()).await?))
    }

    async fn rebuild(&self, request: Request<v1::RebuildRequest>) -> Result<Response<v1::RebuildReply>, Status> {
        Ok(Response::new(rebuild::order(&self.node, request.into_inner()).await))
    }

    async fn vouch(&self, request: Request<v1::VouchRequest>) -> Result<Response<v1::VouchReply>, Status> {
        status::vouched(&self.node, &request.into_inner().sites);
        Ok(Response::new(v1::VouchReply {}))
    }

    async fn record_decisions(&self, request: Request<v1::Decisions>) -> Result<Response<v1::DecisionsReply>, Status> {
        let decisions = request.into_inner().decisions;
        if decisions.len() > audit::MAX_DECISIONS {
            return Err(Status::invalid_argument(format!("more than {} decisions", audit::MAX_DECISIONS)));
        }
        let node = self.node.clone();
        let recorded = tokio::task::spawn_blocking(move || audit::record_decisions(&node, decisions)).await;
        let recorded = recorded.map_err(|error| Status::internal(error.to_string()))?;
        let recorded = recorded.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(v1::DecisionsReply { recorded }))
    }
}

/// One session: directives come, reports go, until either ends or a later session begins.
async fn attend(
    node: &Arc<Node>,
    session: u64,
    mut directives: Streaming<v1::Directive>,
    out: &mpsc::Sender<Result<v1::ShipperReport, Status>>,
) -> Status {
    let mut role = node.signals.role.subscribe();
    let mut durable = node.signals.durable.subscribe();
    let mut applied = node.signals.applied.subscribe();
    let mut peers = node.signals.peers.subscribe();
    let mut tick = tokio::time::interval(REPORT_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut attended = Attended::default();
    let mut told = None;
    let mut moving = true;
    loop {
        let confirming = node.is_confirming();
        let at_once = tokio::select! {
            directive = directives.message() => match directive {
                Ok(Some(directive)) => {
                    if let Err(end) = answer(node, session, directive, &mut attended).await {
                        return end;
                    }
                    true
                }
                Ok(None) => return Status::ok("it closed the session"),
                Err(status) => return status,
            },
            _ = tick.tick() => true,
            () = role.changed() => false,
            () = durable.changed(), if moving => false,
            () = applied.changed(), if moving => false,
            () = peers.changed(), if confirming => false,
            () = out.closed() => return Status::cancelled("it is gone"),
        };
        if !node.governed.is_attended_by(session) {
            return Status::aborted(Error::Superseded.to_string());
        }
        // What a leader waits for is told at once; everything else several times a second. Asked before the report is
        // made: what comes true after it is listened for.
        let was_moving = std::mem::replace(&mut moving, is_moving(node));
        let report = report(node, &attended);
        let news = waited_for(&report, moving || was_moving);
        if at_once || told.as_ref() != Some(&news) {
            told = Some(news);
            if out.send(Ok(report)).await.is_err() {
                return Status::cancelled("it is gone");
            }
            tick.reset();
        }
    }
}

/// Whether a leader waits for this site's cursors.
fn is_moving(node: &Node) -> bool {
    node.governed.is_sealed() || node.governed.draining().is_some() || !node.is_caught_up()
}

/// Takes one directive of a session and notes what the next report says of it.
async fn answer(
    node: &Arc<Node>,
    session: u64,
    directive: v1::Directive,
    attended: &mut Attended,
) -> Result<(), Status> {
    let number = directive.number;
    match take(node, session, directive).await {
        Ok(()) => *attended = Attended { taken: number, refused: String::new() },
        Err(end @ Error::Superseded) => return Err(Status::aborted(end.to_string())),
        Err(error) => attended.refused = error.to_string(),
    }
    Ok(())
}

/// Takes a directive; what must survive is on disk on return.
async fn take(node: &Arc<Node>, session: u64, directive: v1::Directive) -> Result<(), Error> {
    let acts_as = node.config.cluster.level;
    acts_as.reaches(Level::told(directive.level), "this shipper").map_err(Error::Refused)?;
    let before = node.governed.directed();
    let taker = node.clone();
    let taken = tokio::task::spawn_blocking(move || {
        let taken = taker.governed.take(taker.id(), Some(session), &directive)?;
        // A site that is not enrolled yet hears nothing of the cluster's settings.
        if !directive.sites.is_empty()
            && let Err(error) = taker.settings.take(&directive.settings)
        {
            taker.metrics.error("settings");
            tracing::warn!(%error, "the cluster's settings are in force and cannot be remembered for the next start");
        }
        Ok(taken)
    });
    let taken = taken.await;
    let taken = taken.unwrap_or_else(|error| Err(Error::Refused(error.to_string())));
    let after = node.governed.directed();
    match &taken {
        // A lease that is renewed wakes nobody, unless somebody waits for one.
        Ok(persisted) if *persisted || !after.differs_by_lease_only(&before) => {
            let (primary, _, epoch) = node.governed.primary();
            tracing::info!(%epoch, %primary, floor = %node.governed.floor(), drain = after.drain_op, "directive taken");
            node.signals.role.bump();
        }
        Ok(_) if after.primary => {
            let left_ms = after.lease_deadline_ns.saturating_sub(node.boot_ns()) / 1_000_000;
            tracing::debug!(epoch = %after.epoch, left_ms, "the lease is renewed");
            if node.admission().accepting().is_none() {
                node.signals.role.bump();
            }
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(%error, "directive refused");
            node.signals.role.bump();
        }
    }
    taken.map(|_| ())
}
