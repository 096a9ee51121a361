//! What other sites' shippers ask of this one. Every answer is for the site that the caller's certificate names.

use std::sync::Arc;

use cfs_rpc::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::bootstrap::give;
use crate::inspect::lookup;
use crate::node::Node;
use crate::path::frames::caller;
use crate::path::ship;
use crate::{audit, contested, digests, status, verify};

/// Serves other sites' shippers.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Node>);

#[tonic::async_trait]
impl v1::peer_server::Peer for Service {
    type SubscribeStream = ReceiverStream<Result<v1::SourceFrame, Status>>;
    type CopyStream = ReceiverStream<Result<v1::CopyPart, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::ReceiverFrame>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let site = caller(&self.0, &request)?;
        Ok(Response::new(ship::subscribed(&self.0, site, request.into_inner())))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        caller(&self.0, &request)?;
        Ok(Response::new(status::local(&self.0)))
    }

    async fn offer(&self, request: Request<v1::OfferRequest>) -> Result<Response<v1::OfferReply>, Status> {
        caller(&self.0, &request)?;
        let node = self.0.clone();
        let request = request.into_inner();
        let offer = tokio::task::spawn_blocking(move || give::offer(&node, &request)).await;
        Ok(Response::new(offer.map_err(|e| Status::internal(e.to_string()))??))
    }

    async fn copy(&self, request: Request<Streaming<v1::CopyFrame>>) -> Result<Response<Self::CopyStream>, Status> {
        let site = caller(&self.0, &request)?;
        let (out, parts) = mpsc::channel(1);
        let node = self.0.clone();
        tokio::spawn(async move {
            if let Err(status) = give::copy(node, &site, request.into_inner(), &out).await {
                tracing::info!(%site, why = status.message(), "a copy of the store ended early");
                // The receiver may be gone.
                let _ = out.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(parts)))
    }

    async fn digests(&self, request: Request<v1::DigestsRequest>) -> Result<Response<v1::DigestsReply>, Status> {
        caller(&self.0, &request)?;
        Ok(Response::new(digests::recent(&self.0, request.into_inner()).await?))
    }

    async fn verify(&self, request: Request<v1::VerifyRequest>) -> Result<Response<v1::VerifyReply>, Status> {
        caller(&self.0, &request)?;
        Ok(Response::new(verify::answer_verify(&self.0, request.into_inner()).await?))
    }

    async fn descend(&self, request: Request<v1::DescendRequest>) -> Result<Response<v1::DescendReply>, Status> {
        caller(&self.0, &request)?;
        Ok(Response::new(verify::answer_descend(&self.0, request.into_inner()).await?))
    }

    async fn lookup(&self, request: Request<v1::PeerLookupRequest>) -> Result<Response<v1::LookupReply>, Status> {
        caller(&self.0, &request)?;
        Ok(Response::new(lookup::answer(&self.0, request.into_inner()).await?))
    }

    async fn losing(&self, request: Request<v1::LosingRequest>) -> Result<Response<v1::LosingReply>, Status> {
        caller(&self.0, &request)?;
        Ok(Response::new(contested::answer_losing(&self.0, request.into_inner()).await?))
    }

    async fn read_registers(
        &self,
        request: Request<v1::RegistersRequest>,
    ) -> Result<Response<v1::RegistersReply>, Status> {
        caller(&self.0, &request)?;
        Ok(Response::new(verify::answer_registers(&self.0, request.into_inner()).await?))
    }

    async fn hold_checkpoint(
        &self,
        request: Request<v1::AuditCheckpoint>,
    ) -> Result<Response<v1::HoldCheckpointReply>, Status> {
        let site = caller(&self.0, &request)?;
        Ok(Response::new(audit::hold(&self.0, site, request.into_inner()).await?))
    }

    async fn held_checkpoints(
        &self,
        request: Request<v1::HeldCheckpointsRequest>,
    ) -> Result<Response<v1::HeldCheckpointsReply>, Status> {
        let site = caller(&self.0, &request)?;
        Ok(Response::new(audit::held_here(&self.0, site).await?))
    }
}
