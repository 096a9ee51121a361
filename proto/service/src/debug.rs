//! The service that both daemons have on their Unix sockets.

use std::pin::Pin;
use std::time::UNIX_EPOCH;

use cfs_rpc::unix::LocalPeer;
use cfs_rpc::v1::debug_server::{Debug, DebugServer};
use cfs_rpc::v1::{TraceLine, TraceRequest};
use futures::Stream;
use tonic::{Request, Response, Status};

use crate::trace::{Heard, Listener, Wanted, taps};

/// What is traced unless a level is asked for.
pub const DEFAULT_LEVEL: &str = "debug";

/// The service, to be added to a server on a Unix socket.
pub fn server() -> DebugServer<impl Debug> {
    DebugServer::new(Service)
}

struct Service;

type Lines = Pin<Box<dyn Stream<Item = Result<TraceLine, Status>> + Send>>;

#[tonic::async_trait]
impl Debug for Service {
    type TraceStream = Lines;

    async fn trace(&self, request: Request<TraceRequest>) -> Result<Response<Lines>, Status> {
        let own = rustix::process::geteuid().as_raw();
        may_trace(LocalPeer::of(&request).map(|peer| peer.uid), own)?;
        let TraceRequest { modules, level } = request.into_inner();
        let level = if level.is_empty() { DEFAULT_LEVEL } else { &level };
        let wanted = Wanted::parse(&modules, level).map_err(Status::invalid_argument)?;
        let listener = taps().listen(wanted).map_err(|full| Status::resource_exhausted(full.to_string()))?;
        Ok(Response::new(Box::pin(lines(listener))))
    }
}

/// Root and the service's own user, as for every change: lines name producers, paths and addresses.
fn may_trace(uid: Option<u32>, own: u32) -> Result<(), Status> {
    match uid {
        Some(uid) if uid == 0 || uid == own => Ok(()),
        _ => Err(Status::permission_denied("only root or the service's own user may trace: run it with sudo")),
    }
}

/// Ends the listening when it is dropped, as it is when the caller goes away.
fn lines(listener: Listener) -> impl Stream<Item = Result<TraceLine, Status>> + Send {
    futures::stream::unfold(listener, |mut listener| async move {
        let line = match listener.next().await {
            Heard::Lost(lost) => TraceLine { lost, ..TraceLine::default() },
            Heard::Line(line) => TraceLine {
                at_ns: line
                    .at
                    .duration_since(UNIX_EPOCH)
                    .ok()
                    .and_then(|since| i64::try_from(since.as_nanos()).ok())
                    .unwrap_or_default(),
                level: line.level.to_string(),
                target: line.target.to_owned(),
                text: line.text,
                lost: 0,
            },
        };
        Some((Ok(line), listener))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_the_group_may_not_trace() {
        assert!(may_trace(Some(0), 998).is_ok() && may_trace(Some(998), 998).is_ok());
        for uid in [Some(1000), None] {
            let refused = may_trace(uid, 998).expect_err("refused");
            assert_eq!(refused.code(), tonic::Code::PermissionDenied);
            assert!(refused.message().contains("sudo"));
        }
    }
}
