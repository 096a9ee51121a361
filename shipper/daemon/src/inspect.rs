//! What the operator's command line asks, over the local socket.

mod audit;
pub(crate) mod consistency;
mod list;
pub(crate) mod lookup;
mod node_view;

use std::sync::Arc;
use std::time::Duration;

use cfs_rpc::v1;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::node::Node;
use crate::path::commit::Work;
use crate::{bootstrap, dial, metrics, resync, retention, status};

/// A site that does not answer within this is listed as unreachable.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);
/// Changes are pushed no more often than this, unless the caller wants cursors alone.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);

/// Serves the command line.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Node>, pub(crate) UnboundedSender<Work>);

type Replies<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl v1::inspect_server::Inspect for Service {
    type WatchStatusStream = Replies<v1::StatusReply>;
    type ListStream = Replies<v1::ListReply>;
    type ReadDirectoryStream = Replies<v1::ListReply>;
    type ResyncStream = Replies<v1::ResyncProgress>;
    type ReadAuditStream = Replies<v1::AuditLines>;

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let mut reply = status::local(&self.0);
        if request.into_inner().all_sites {
            add_others(&self.0, &mut reply).await;
        }
        Ok(Response::new(reply))
    }

    async fn watch_status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let v1::StatusRequest { all_sites, cursors_only } = request.into_inner();
        let (out, replies) = mpsc::channel(4);
        let node = self.0.clone();
        tokio::spawn(async move {
            let mut applied = node.signals.applied.subscribe();
            let mut peers = node.signals.peers.subscribe();
            let mut role = node.signals.role.subscribe();
            loop {
                let mut reply = if cursors_only { status::cursors_only(&node) } else { status::local(&node) };
                if all_sites {
                    add_others(&node, &mut reply).await;
                }
                if out.send(Ok(reply)).await.is_err() {
                    return;
                }
                tokio::select! {
                    () = applied.changed() => {}
                    () = peers.changed() => {}
                    () = role.changed() => {}
                    () = out.closed() => return,
                }
                if !cursors_only {
                    tokio::time::sleep(WATCH_INTERVAL).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(replies)))
    }

    async fn metrics(&self, _: Request<v1::MetricsRequest>) -> Result<Response<v1::MetricsReply>, Status> {
        let node = self.0.clone();
        let text = blocking(move || metrics::text(&node).map_err(|e| Status::internal(e.to_string()))).await?;
        Ok(Response::new(v1::MetricsReply { text }))
    }

    async fn lookup(&self, request: Request<v1::LookupRequest>) -> Result<Response<v1::LookupReply>, Status> {
        let v1::LookupRequest { inode, all_sites } = request.into_inner();
        if all_sites {
            return Ok(Response::new(lookup::everywhere(&self.0, inode).await?));
        }
        Ok(Response::new(lookup::here(&self.0, inode).await?))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let store = self.0.store.clone();
        let request = request.into_inner();
        Ok(streamed(move |out| list::tree(&*store, &request.path, request.recursive, out)))
    }

    async fn read_directory(
        &self,
        request: Request<v1::ReadDirectoryRequest>,
    ) -> Result<Response<Self::ReadDirectoryStream>, Status> {
        let request = request.into_inner();
        list::wait_for(&self.0, request.applied.as_ref()).await?;
        let store = self.0.store.clone();
        Ok(streamed(move |out| list::directory(&*store, request.inode, &request.names, out)))
    }

    async fn bootstrap(&self, _: Request<v1::BootstrapRequest>) -> Result<Response<v1::BootstrapReply>, Status> {
        Ok(Response::new(bootstrap::reply(&self.0)))
    }

    async fn resync(&self, request: Request<v1::ResyncRequest>) -> Result<Response<Self::ResyncStream>, Status> {
        let (out, replies) = mpsc::channel(16);
        let node = self.0.clone();
        // It goes on when the caller hangs up: a repair that has begun is brought to its end.
        tokio::spawn(async move {
            if let Err(status) = resync::resync(&node, &request.into_inner(), &out).await {
                let _ = out.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(replies)))
    }

    async fn check_consistency(
        &self,
        request: Request<v1::ConsistencyRequest>,
    ) -> Result<Response<v1::ConsistencyReply>, Status> {
        Ok(Response::new(consistency::check(&self.0, &request.into_inner()).await?))
    }

    async fn read_audit(
        &self,
        request: Request<v1::ReadAuditRequest>,
    ) -> Result<Response<Self::ReadAuditStream>, Status> {
        audit::read(&self.0, &request.into_inner())
    }

    async fn verify_audit(&self, _: Request<v1::VerifyAuditRequest>) -> Result<Response<v1::VerifyAuditReply>, Status> {
        Ok(Response::new(audit::verify(&self.0).await?))
    }

    async fn restore_audit(
        &self,
        request: Request<v1::RestoreAuditRequest>,
    ) -> Result<Response<v1::RestoreAuditReply>, Status> {
        Ok(Response::new(crate::audit::restore(&self.0, &self.1, request.into_inner()).await?))
    }

    async fn prune_audit(&self, _: Request<v1::PruneAuditRequest>) -> Result<Response<v1::PruneAuditReply>, Status> {
        Ok(Response::new(audit::prune(&self.0).await?))
    }

    async fn journal(&self, _: Request<v1::JournalRequest>) -> Result<Response<v1::JournalReply>, Status> {
        Ok(Response::new(retention::report::reply(&self.0)))
    }

    async fn gc(&self, request: Request<v1::GcRequest>) -> Result<Response<v1::GcReply>, Status> {
        let (node, aggressive) = (self.0.clone(), request.into_inner().aggressive);
        let failed = |error: cfs_journal::remove::Error| Status::internal(error.to_string());
        Ok(Response::new(blocking(move || retention::gc(&node, aggressive).map_err(failed)).await?))
    }
}

/// Asks every other site for its status, all at the same time.
async fn add_others(node: &Arc<Node>, reply: &mut v1::StatusReply) {
    let peers = node.data_peers();
    let asked = peers.iter().map(|peer| async move {
        let answer = tokio::time::timeout(PEER_TIMEOUT, async {
            let channel = dial::peer(node, peer).await?;
            let mut client = v1::peer_client::PeerClient::new(channel);
            let answer = client.status(v1::StatusRequest::default()).await;
            answer.map(Response::into_inner).map_err(|status| status.message().to_owned())
        });
        (peer.name.to_string(), answer.await.unwrap_or_else(|_| Err("no answer".to_owned())))
    });
    for (site, answer) in futures::future::join_all(asked).await {
        match answer {
            Ok(status) => reply.others.push(status),
            Err(_) => reply.unreachable.push(site),
        }
    }
}

/// Runs `work`, which blocks, away from the async runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Status> + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Status::internal(e.to_string()))?
}

/// Where blocking work puts what it finds.
pub(crate) type Sink<T> = mpsc::Sender<Result<T, Status>>;

/// Streams what `work` finds; it blocks while the caller does not read.
fn streamed<T: Send + 'static>(
    work: impl FnOnce(&Sink<T>) -> Result<(), Status> + Send + 'static,
) -> Response<Replies<T>> {
    let (out, replies) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        if let Err(status) = work(&out) {
            // The caller may be gone.
            let _ = out.blocking_send(Err(status));
        }
    });
    Response::new(ReceiverStream::new(replies))
}

/// The store's errors as a status.
fn store_error(error: cfs_store::table::Error) -> Status {
    Status::data_loss(format!("the store does not read: {error}"))
}
