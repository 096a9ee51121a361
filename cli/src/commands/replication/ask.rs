//! A question to the local control process, and its answer.

use std::time::Duration;

use cfs_rpc::v1::admin_client::AdminClient;
use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{
    AdminReply, AdminRequest, CertificatesAnswer, ConfigAnswer, DiagnosticsAnswer, Done, FailoverPlan, HistoryAnswer,
    InviteAnswer, Progress, SigningRequests, SplitBrainAnswer, StatusAnswer, admin_reply,
};
use tonic::Streaming;
use tonic::transport::Channel;

use super::operator;
use super::refusal::Refusal;
use crate::{Context, client};

/// A question that changes nothing is answered within this time, or not at all.
pub(in crate::commands) const QUERY_DEADLINE: Duration = Duration::from_millis(2800);

/// An answer, and whose it is.
#[derive(Debug, Clone)]
pub(in crate::commands) struct Answer<T> {
    /// The site that answered.
    pub(in crate::commands) by: String,
    /// Sites that it could not ask.
    pub(in crate::commands) unreachable: Vec<String>,
    pub(in crate::commands) body: T,
}

/// What a change led to, or how far it came.
#[derive(Debug)]
pub(in crate::commands) enum Event {
    /// A line for whoever waits.
    Progress(Progress),
    /// It is done.
    Done(Answer<Done>),
}

/// Answers that one message holds as a whole.
pub(in crate::commands) trait Body: Sized {
    /// What is asked, to follow "the control process could not".
    const ACTION: &'static str;
    /// Takes it out of a message; `None` when it holds something else.
    fn of(body: admin_reply::Kind) -> Option<Self>;
}

macro_rules! body {
    ($type:ident, $variant:ident, $action:literal) => {
        impl Body for $type {
            const ACTION: &'static str = $action;
            fn of(body: admin_reply::Kind) -> Option<Self> {
                match body {
                    admin_reply::Kind::$variant(body) => Some(body),
                    _ => None,
                }
            }
        }
    };
}

body!(Done, Done, "do what was asked");
body!(SigningRequests, SigningRequests, "make keys");
body!(InviteAnswer, Invite, "invite the site");
body!(CertificatesAnswer, Certificates, "tell the certificates");
body!(StatusAnswer, Status, "report its status");
body!(FailoverPlan, Plan, "plan the change of primary");
body!(HistoryAnswer, History, "tell the history");
body!(ConfigAnswer, Config, "tell the settings");
body!(DiagnosticsAnswer, Diagnostics, "tell what the site knows");
body!(SplitBrainAnswer, SplitBrain, "tell whether there is a split-brain");

/// Asks something that changes nothing. Returns within [`QUERY_DEADLINE`].
///
/// # Errors
/// [`Refusal`], or why the control process cannot be reached.
pub(in crate::commands) async fn query<T: Body>(context: &Context, kind: Kind) -> anyhow::Result<Answer<T>> {
    let answer = async {
        let mut client = client::control(context).await?;
        let failed = |status: tonic::Status| match status.code() {
            tonic::Code::PermissionDenied => Refusal::may_not_read(status.message()),
            _ => broken_off(T::ACTION, status.message(), 0),
        };
        let mut replies = start(&mut client, kind).await.map_err(failed)?;
        while let Some(reply) = replies.message().await.map_err(failed)? {
            let (by, unreachable) = (reply.answered_by, reply.unreachable);
            match reply.kind {
                Some(admin_reply::Kind::Failed(failed)) => return Err(Refusal::from(failed).into()),
                Some(body) => {
                    if let Some(body) = T::of(body) {
                        return Ok(Answer { by, unreachable, body });
                    }
                }
                None => {}
            }
        }
        Err(broken_off(T::ACTION, "it ended without an answer", 0).into())
    };
    tokio::time::timeout(QUERY_DEADLINE, answer).await.unwrap_or_else(|_| Err(too_slow(T::ACTION).into()))
}

fn too_slow(action: &str) -> Refusal {
    Refusal::new(
        "CFS-E102",
        format!("the control process did not {action}"),
        format!("it did not answer within {:.1} s", QUERY_DEADLINE.as_secs_f64()),
        "journalctl -u claudefs-control -n 50",
    )
}

async fn start(client: &mut AdminClient<Channel>, kind: Kind) -> Result<Streaming<AdminReply>, tonic::Status> {
    let request = AdminRequest { operator: operator::name(), hops: 0, kind: Some(kind) };
    Ok(client.r#do(request).await?.into_inner())
}

/// The error for a status that ended a change.
fn refused(action: &str, status: &tonic::Status) -> Refusal {
    match status.code() {
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Refusal::not_allowed(),
        _ => broken_off(action, status.message(), 0),
    }
}

fn broken_off(action: &str, why: &str, op: u64) -> Refusal {
    let next = "see whether it runs: systemctl status claudefs-control";
    let refusal = Refusal::new("CFS-E103", format!("the control process could not {action}"), why, next);
    Refusal { op, ..refusal }
}

/// A change that is being made.
#[derive(Debug)]
pub(in crate::commands) struct Change {
    replies: Streaming<AdminReply>,
    action: &'static str,
    /// The operation, once it is known; 0: not yet.
    op: u64,
}

impl Change {
    /// Asks for a change on a connection. From here on it may happen.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(in crate::commands) async fn start(
        mut client: AdminClient<Channel>,
        kind: Kind,
        action: &'static str,
    ) -> Result<Self, Refusal> {
        let replies = start(&mut client, kind).await.map_err(|status| refused(action, &status))?;
        Ok(Self { replies, action, op: 0 })
    }

    /// What happens next. Cancelling loses nothing.
    ///
    /// # Errors
    /// [`Refusal`]: by the control process, or because the connection ended, which does not end the change.
    pub(in crate::commands) async fn next(&mut self) -> Result<Event, Refusal> {
        loop {
            let reply = match self.replies.message().await {
                Ok(Some(reply)) => reply,
                Ok(None) => return Err(broken_off(self.action, "it ended without saying how it went", self.op)),
                Err(status) => return Err(Refusal { op: self.op, ..refused(self.action, &status) }),
            };
            match reply.kind {
                Some(admin_reply::Kind::Progress(progress)) => {
                    self.op = self.op.max(progress.op);
                    return Ok(Event::Progress(progress));
                }
                Some(admin_reply::Kind::Done(done)) => {
                    return Ok(Event::Done(Answer {
                        by: reply.answered_by,
                        unreachable: reply.unreachable,
                        body: done,
                    }));
                }
                Some(admin_reply::Kind::Failed(failed)) => return Err(failed.into()),
                _ => {}
            }
        }
    }

    /// The operation, once it is known; 0: not yet.
    pub(in crate::commands) const fn op(&self) -> u64 {
        self.op
    }
}
