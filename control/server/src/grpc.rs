//! What other control processes ask, on port 9501.

use std::sync::Arc;

use cfs_control_core::Command;
use cfs_model::SiteName;
use cfs_rpc::identity::Role;
use cfs_rpc::io::PeerIdentity;
use cfs_rpc::v1::{self, control_server};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::control::Control;
use crate::member::Node;
use crate::{admin, contact, hears, membership, orders, wire};

/// Serves other control processes.
pub(crate) struct Service(pub(crate) Arc<Control>);

/// The caller's site, proven by a certificate of the control role (invariant 9).
fn caller<T>(request: &Request<T>) -> Result<SiteName, Status> {
    let peer = PeerIdentity::of(request).ok_or_else(|| Status::unauthenticated("no certificate"))?;
    if peer.identity.role != Role::Control {
        let role = peer.identity.role;
        return Err(Status::permission_denied(format!("a certificate of the role {role} may not ask this")));
    }
    Ok(peer.identity.site.clone())
}

impl Service {
    fn node(&self) -> Result<Arc<Node>, Status> {
        self.0.node().ok_or_else(|| {
            Status::failed_precondition(format!("{} is not enrolled: {}", self.0.site(), self.0.waiting()))
        })
    }
}

#[tonic::async_trait]
impl control_server::Control for Service {
    type AdminStream = ReceiverStream<Result<v1::AdminReply, Status>>;

    async fn raft(&self, request: Request<v1::RaftRequest>) -> Result<Response<v1::RaftReply>, Status> {
        let site = caller(&request)?;
        Ok(Response::new(self.node()?.handle_raft(request.into_inner(), &site, &self.0).await?))
    }

    async fn pre_vote(&self, request: Request<v1::PreVoteRequest>) -> Result<Response<v1::PreVoteReply>, Status> {
        let site = caller(&request)?;
        Ok(Response::new(self.node()?.handle_pre_vote(request.into_inner(), &site, &self.0).await?))
    }

    async fn take_over(&self, request: Request<v1::TakeOverRequest>) -> Result<Response<v1::TakeOverReply>, Status> {
        let site = caller(&request)?;
        Ok(Response::new(self.node()?.handle_take_over(request.into_inner(), &site, &self.0).await?))
    }

    async fn report(&self, request: Request<v1::SiteReport>) -> Result<Response<v1::SiteReportReply>, Status> {
        let site = caller(&request)?;
        let node = self.node()?;
        let report = request.into_inner();
        node.check(report.envelope.as_ref(), &site, &self.0)?;
        let claims = wire::site_id(report.site).and_then(|id| self.0.state().site(id).map(|site| site.name.clone()));
        if claims.as_ref() != Some(&site) {
            return Err(Status::permission_denied(format!("{site} reports as site number {}", report.site)));
        }
        let reply = match self.0.lead() {
            Some(lead) => lead.report(report).await,
            None => v1::SiteReportReply { term: node.term(), ..v1::SiteReportReply::default() },
        };
        Ok(Response::new(reply))
    }

    async fn order(&self, request: Request<v1::OrderRequest>) -> Result<Response<v1::OrderReply>, Status> {
        let site = caller(&request)?;
        let order = request.into_inner();
        self.node()?.check(order.envelope.as_ref(), &site, &self.0)?;
        Ok(Response::new(orders::carry_out(&self.0, order).await))
    }

    async fn propose(&self, request: Request<v1::ProposeRequest>) -> Result<Response<v1::ProposeReply>, Status> {
        let site = caller(&request)?;
        let asked = request.into_inner();
        let node = self.node()?;
        node.check(asked.envelope.as_ref(), &site, &self.0)?;
        let lead = self.0.lead().ok_or_else(|| Status::aborted(format!("{} does not lead", self.0.site())))?;
        let command: Command = serde_json::from_slice(&asked.command)
            .map_err(|error| Status::invalid_argument(format!("the command does not read: {error}")))?;
        let why = match lead.commit(&command.by, command.kind).await {
            Ok(_) => None,
            // Nothing was done: whoever asks may ask another leader.
            Err(undone) if undone.moved => return Err(Status::aborted(undone.why)),
            Err(undone) => Some(undone.why),
        };
        lead.wake();
        let applied_index = node.applied().borrow().index();
        Ok(Response::new(v1::ProposeReply { done: why.is_none(), why: why.unwrap_or_default(), applied_index }))
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        let site = caller(&request)?;
        Ok(Response::new(membership::admit(&self.0, &site, request.into_inner()).await))
    }

    async fn contact(&self, request: Request<v1::ContactRequest>) -> Result<Response<v1::ContactReply>, Status> {
        let site = caller(&request)?;
        let asked = request.into_inner();
        if asked.site != site.as_str() {
            return Err(Status::permission_denied(format!("{site} asks as {}", asked.site)));
        }
        let hears = !asked.hears.is_empty() && hears::from_here(&self.0, &asked.hears).await;
        Ok(Response::new(v1::ContactReply { hears, ..contact::reply(&self.0, &asked) }))
    }

    async fn admin(&self, request: Request<v1::AdminRequest>) -> Result<Response<Self::AdminStream>, Status> {
        caller(&request)?;
        Ok(Response::new(admin::serve(self.0.clone(), request.into_inner(), admin::Right::Change)))
    }
}
