//! What the tour asks of control processes: to move the primary role, and how that went.

use std::path::Path;
use std::time::{Duration, Instant};

use cfs_rpc::v1::admin_client::AdminClient;
use cfs_rpc::v1::admin_reply::Kind as Reply;
use cfs_rpc::v1::admin_request::Kind as Request;
use cfs_rpc::v1::{AdminRequest, Change, Failed, FailoverRequest, HistoryQuery};
use tonic::Streaming;

use super::LIMIT;
use crate::dev;

/// Who asks, for the audit.
const OPERATOR: &str = "cfs demo";
const POLL: Duration = Duration::from_millis(100);
/// How long the history may take to reach a site.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// Changes that are looked at.
const NEWEST: u32 = 5;

/// Waits until the site's control process says that failover is automatic: that all three voters are in place.
///
/// # Errors
/// When it does not within a minute.
pub async fn await_automatic(socket: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let why = match dev::ask(socket).await {
            Ok(status) if status.automatic => return Ok(()),
            Ok(status) => status.why_not_automatic,
            Err(error) => error.to_string(),
        };
        anyhow::ensure!(began.elapsed() < LIMIT, "failover did not become automatic within {LIMIT:?}: {why}");
        tokio::time::sleep(POLL).await;
    }
}

/// Makes `to` the primary as planned. `show` is told of each phase as it begins. Returns the new epoch.
///
/// # Errors
/// When it is refused or takes longer than a minute.
pub async fn switch_over(socket: &Path, to: &str, show: impl Fn(&str)) -> anyhow::Result<u64> {
    let request = FailoverRequest {
        to: to.to_owned(),
        timeout_ms: u64::try_from(LIMIT.as_millis()).unwrap_or(u64::MAX),
        confirmed: true,
        ..FailoverRequest::default()
    };
    let switching = async {
        let mut replies = ask(socket, Request::Failover(request)).await?;
        while let Some(reply) = replies.message().await? {
            match reply.kind {
                Some(Reply::Progress(p)) => {
                    let text = if p.text.is_empty() { String::new() } else { format!(": {}", p.text) };
                    show(&format!("{:>5} ms  {}{text}", p.elapsed_ms, p.phase));
                }
                Some(Reply::Done(done)) => return Ok(done.epoch),
                Some(Reply::Failed(failed)) => return Err(refused(to, &failed)),
                _ => {}
            }
        }
        anyhow::bail!("the control process ended the conversation without an answer")
    };
    let late = || anyhow::anyhow!("{to} did not become primary within {LIMIT:?}");
    tokio::time::timeout(LIMIT + TOLD_WITHIN, switching).await.unwrap_or_else(|_| Err(late()))
}

fn refused(to: &str, failed: &Failed) -> anyhow::Error {
    let parts = [&failed.what, &failed.why, &failed.next].into_iter().filter(|part| !part.is_empty());
    let said: Vec<&str> = parts.map(String::as_str).collect();
    anyhow::anyhow!("{to} could not be made primary: {}", said.join("; "))
}

/// How long each phase of the change that opened `epoch` took, as the site's history has it; empty when it does not.
pub async fn phases(socket: &Path, epoch: u64) -> String {
    let began = Instant::now();
    loop {
        let found = change(socket, epoch).await.ok().flatten();
        if let Some(change) = found {
            let phases = change.phases.iter().map(|phase| format!("{} {} ms", phase.name, phase.ms));
            return phases.collect::<Vec<_>>().join(", ");
        }
        if began.elapsed() > TOLD_WITHIN {
            return String::new();
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn change(socket: &Path, epoch: u64) -> anyhow::Result<Option<Change>> {
    let asking = async {
        let mut replies = ask(socket, Request::History(HistoryQuery { limit: NEWEST, events: false })).await?;
        while let Some(reply) = replies.message().await? {
            if let Some(Reply::History(history)) = reply.kind {
                return Ok(history.changes.into_iter().find(|change| change.epoch_after == epoch));
            }
        }
        Ok(None)
    };
    tokio::time::timeout(TOLD_WITHIN, asking).await?
}

async fn ask(socket: &Path, kind: Request) -> anyhow::Result<Streaming<cfs_rpc::v1::AdminReply>> {
    let mut client = AdminClient::new(cfs_rpc::unix::connect(socket).await?);
    let request = AdminRequest { kind: Some(kind), operator: OPERATOR.to_owned(), hops: 0 };
    Ok(client.r#do(request).await?.into_inner())
}
