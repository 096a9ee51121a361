//! What `cfs dev` asks of control processes.

use std::path::Path;
use std::time::Duration;

use cfs_rpc::v1::admin_client::AdminClient;
use cfs_rpc::v1::admin_reply::Kind as Reply;
use cfs_rpc::v1::admin_request::Kind as Request;
use cfs_rpc::v1::{AdminRequest, Done, EnrollRequest, Failed, LeadRequest, StatusAnswer, StatusQuery};
use tokio::time::timeout;

use super::cluster::Cluster;
use super::record::Part;

/// Who asks, for the audit.
const OPERATOR: &str = "cfs dev";
/// How long a look may take.
const STATUS_LIMIT: Duration = Duration::from_secs(3);
const MAX_REPLY_BYTES: usize = 64 * 1024 * 1024;

/// Why a control process did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was not reached, or went away.
    #[error("{0}")]
    Unreachable(String),
    /// It did not come to an end in time.
    #[error("its control process did not answer within {0:?}")]
    Slow(Duration),
    /// It refused, and changed nothing.
    #[error("{}", said(.0))]
    Failed(Box<Failed>),
    /// It said something else.
    #[error("its control process gave an answer that does not fit the question: is it of another version?")]
    Unexpected,
}

fn said(failed: &Failed) -> String {
    let parts = [&failed.what, &failed.why, &failed.next];
    parts.into_iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("; ")
}

/// What a control process knows.
///
/// # Errors
/// Those of [`Error`].
pub async fn ask(socket: &Path) -> Result<StatusAnswer, Error> {
    let request = Request::Status(StatusQuery { all_sites: false });
    match call(socket, request, STATUS_LIMIT).await? {
        Reply::Status(status) => Ok(status),
        _ => Err(Error::Unexpected),
    }
}

/// Asks a site's control process to join the group of another site.
pub(super) async fn enroll(socket: &Path, primary: &str, witness: bool, limit: Duration) -> Result<(), Error> {
    let request = Request::Enroll(EnrollRequest { primary: primary.to_owned(), witness, force_rebuild: false });
    match call(socket, request, limit).await? {
        Reply::Done(_) => Ok(()),
        _ => Err(Error::Unexpected),
    }
}

/// Moves the group's leadership to a site and holds it there for a while. Any control process that runs is asked, the
/// site's own first.
///
/// # Errors
/// When no control process answers, or the move fails.
pub async fn lead(cluster: &Cluster, index: usize, hold: Duration, limit: Duration) -> Result<Done, Error> {
    let target = &cluster.sites()[index];
    let others = cluster.sites().iter().filter(|site| site.id != target.id);
    let mut last = Error::Unreachable("no control process runs".to_owned());
    for site in std::iter::once(target).chain(others).filter(|site| site.runs(Part::Control)) {
        let hold_ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Lead(LeadRequest { site: target.name.to_string(), hold_ms });
        match call(&cluster.control_socket(site), request, limit).await {
            Ok(Reply::Done(done)) => return Ok(done),
            Ok(_) => last = Error::Unexpected,
            // Another one may reach more.
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Asks, and returns what is no progress.
async fn call(socket: &Path, kind: Request, limit: Duration) -> Result<Reply, Error> {
    let lost = |status: tonic::Status| Error::Unreachable(format!("its control process: {}", status.message()));
    let asking = async {
        let channel = cfs_rpc::unix::connect(socket).await.map_err(|e| Error::Unreachable(e.to_string()))?;
        let mut client = AdminClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES);
        let request = AdminRequest { kind: Some(kind), operator: OPERATOR.to_owned(), hops: 0 };
        let mut replies = client.r#do(request).await.map_err(lost)?.into_inner();
        while let Some(reply) = replies.message().await.map_err(lost)? {
            match reply.kind {
                None => return Err(Error::Unexpected),
                Some(Reply::Progress(progress)) => tracing::info!(phase = progress.phase, "{}", progress.text),
                Some(Reply::Failed(failed)) => return Err(Error::Failed(Box::new(failed))),
                Some(other) => return Ok(other),
            }
        }
        Err(Error::Unreachable("its control process ended the conversation without an answer".to_owned()))
    };
    timeout(limit, asking).await.unwrap_or(Err(Error::Slow(limit)))
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
