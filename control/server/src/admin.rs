//! What an operator asks, on the local socket or forwarded by another control process.

mod certificates;
mod config;
mod diagnostics;
mod failover;
mod force;
mod handing;
mod history;
mod invitation;
mod members;
mod mode;
mod rebuild;
mod renewal;
mod split_brain;

use std::sync::Arc;

use cfs_rpc::unix::LocalPeer;
use cfs_rpc::v1;
use cfs_rpc::v1::admin_reply::Kind as Reply;
use cfs_rpc::v1::admin_request::Kind as Ask;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use self::handing::{FORWARD_LIMIT, Leaders, forward, forward_to_leader, leader_known};
use crate::control::Control;
use crate::status;

pub(crate) use config::durability;
pub(crate) use invitation::redeem;

/// What the caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// Look.
    Read,
    /// Change.
    Change,
}

/// Serves the local socket: whoever reaches it may look; root and this process's own user may change.
pub(crate) struct Service(pub(crate) Arc<Control>);

type Stream = ReceiverStream<Result<v1::AdminReply, Status>>;

#[tonic::async_trait]
impl v1::admin_server::Admin for Service {
    type DoStream = Stream;

    async fn r#do(&self, request: Request<v1::AdminRequest>) -> Result<Response<Stream>, Status> {
        let own = rustix::process::geteuid().as_raw();
        let uid = LocalPeer::of(&request).map(|peer| peer.uid);
        let right = if uid.is_some_and(|uid| uid == 0 || uid == own) { Right::Change } else { Right::Read };
        Ok(Response::new(serve(self.0.clone(), request.into_inner(), right)))
    }
}

/// Where answers go.
pub(crate) struct Out {
    site: String,
    replies: mpsc::Sender<Result<v1::AdminReply, Status>>,
}

impl Out {
    async fn send(&self, kind: Reply) {
        self.send_with(kind, Vec::new()).await;
    }

    async fn send_with(&self, kind: Reply, unreachable: Vec<String>) {
        let reply = v1::AdminReply { answered_by: self.site.clone(), unreachable, kind: Some(kind) };
        // The caller may be gone; what was begun goes on.
        let _ = self.replies.send(Ok(reply)).await;
    }

    async fn progress(&self, phase: &str, text: impl Into<String>, op: u64, elapsed_ms: u64) {
        let progress = v1::Progress { phase: phase.into(), text: text.into(), op, elapsed_ms };
        self.send(Reply::Progress(progress)).await;
    }

    async fn done(&self, done: v1::Done) {
        self.send(Reply::Done(done)).await;
    }

    async fn failed(&self, failed: v1::Failed) {
        self.send(Reply::Failed(failed)).await;
    }
}

/// A refusal that changed nothing.
pub(crate) fn failure(code: &str, what: &str, why: impl Into<String>, next: impl Into<String>) -> v1::Failed {
    v1::Failed { code: code.into(), what: what.into(), why: why.into(), next: next.into(), ..v1::Failed::default() }
}

/// Does what is asked; the answers come in the stream.
pub(crate) fn serve(control: Arc<Control>, request: v1::AdminRequest, right: Right) -> Stream {
    let (replies, stream) = mpsc::channel(16);
    let out = Out { site: control.site().to_string(), replies };
    tokio::spawn(async move { answer(&control, request, right, &out).await });
    ReceiverStream::new(stream)
}

async fn answer(control: &Arc<Control>, request: v1::AdminRequest, right: Right, out: &Out) {
    let Some(ask) = request.kind.clone() else {
        return out
            .failed(failure("UNKNOWN", "the request", "this version does not know it", "upgrade claudefs-control"))
            .await;
    };
    let looks = match &ask {
        Ask::Status(_) | Ask::History(_) | Ask::SplitBrain(_) | Ask::Follow(_) | Ask::Certificates(_) => true,
        Ask::Diagnostics(_) => true,
        Ask::Failover(failover) => failover.dry_run,
        Ask::Config(config) => config::looks(config),
        _ => false,
    };
    if !looks && right == Right::Read {
        let why = "only root or the service's own user may change anything";
        return out.failed(failure("NOT_PERMITTED", "the command", why, "run it with sudo")).await;
    }
    if (acts(&ask) || changes_members(&ask) && !looks) && status::was_removed(control, &control.state()) {
        let here = status::here(control);
        return out.failed(failure("REMOVED", "the command", here.why, here.next)).await;
    }
    if changes_members(&ask) && control.local().is_fenced() {
        // What this site would change is an older generation's.
        return out.failed(members::fenced(control, "the command")).await;
    }
    match ask {
        Ask::Status(query) => {
            let (answer, unreachable) = status::answer(control, query.all_sites).await;
            out.send_with(Reply::Status(answer), unreachable).await;
            out.done(v1::Done::default()).await;
        }
        Ask::Failover(failover) => failover::run(control, &request, failover, out).await,
        Ask::Enroll(enroll) => members::enroll(control, &enroll, out).await,
        Ask::Rejoin(rejoin) => members::rejoin(control, &request, &rejoin, out).await,
        Ask::Remove(remove) => members::remove(control, &request, &remove, false, out).await,
        Ask::PlanRemoval(remove) => members::remove(control, &request, &remove, true, out).await,
        Ask::History(query) => history::show(control, &query, out).await,
        Ask::SplitBrain(_) => split_brain::show(control, out).await,
        Ask::Follow(follow) => history::follow(control, follow.op, out).await,
        Ask::Invite(invite) => invitation::invite(control, &request, &invite, out).await,
        Ask::UseInvitation(used) => invitation::note(control, &request, &used, out).await,
        Ask::Sign(sign) => invitation::sign(control, &request, &sign, out).await,
        Ask::Renewal(renewal) => renewal::prepare(control, &request, &renewal, out).await,
        Ask::Install(install) => renewal::install(control, &request, &install, out).await,
        Ask::Certificates(_) => certificates::show(control, out).await,
        Ask::Config(config) => config::run(control, &request, &config, out).await,
        Ask::Diagnostics(query) => diagnostics::show(control, &request, &query, out).await,
        Ask::Lead(lead) => members::lead(control, &request, &lead, out).await,
    }
}

/// Whether it concerns what the cluster does, which a site that was removed has no say in, also if it is only looked at.
const fn acts(ask: &Ask) -> bool {
    matches!(ask, Ask::Failover(_) | Ask::PlanRemoval(_))
}

/// Whether it would change who belongs to the cluster, or what all go by. A fenced site must not; what ends that goes on.
const fn changes_members(ask: &Ask) -> bool {
    matches!(
        ask,
        Ask::Remove(_) | Ask::PlanRemoval(_) | Ask::Invite(_) | Ask::UseInvitation(_) | Ask::Config(_) | Ask::Lead(_)
    )
}
