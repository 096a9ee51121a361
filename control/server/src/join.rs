//! What a site without certificates may ask, on port 9501. Connections that show none reach this service alone, and those
//! between control processes never do.

use std::sync::Arc;

use cfs_rpc::ca::CA_CERTIFICATE;
use cfs_rpc::private_file;
use cfs_rpc::v1::{self, enrollment_server};
use tonic::{Request, Response, Status};

use crate::admin;
use crate::control::{Control, blocking};

/// Serves strangers.
pub(crate) struct Service(pub(crate) Arc<Control>);

#[tonic::async_trait]
impl enrollment_server::Enrollment for Service {
    async fn authorities(&self, _: Request<v1::AuthoritiesRequest>) -> Result<Response<v1::AuthoritiesReply>, Status> {
        let path = self.0.config.tls_dir().join(CA_CERTIFICATE);
        let read = blocking(move || private_file::read(&path)).await;
        match read {
            Ok(Ok(pem)) => {
                let authorities = String::from_utf8_lossy(&pem).into_owned();
                Ok(Response::new(v1::AuthoritiesReply { authorities }))
            }
            _ => Err(Status::unavailable("the authorities cannot be read here")),
        }
    }

    async fn redeem(&self, request: Request<v1::RedeemRequest>) -> Result<Response<v1::RedeemReply>, Status> {
        let asked = request.into_inner();
        let site = asked.site.clone();
        match admin::redeem(&self.0, asked).await {
            Ok(reply) => {
                tracing::info!(site, "a site that was invited got certificates");
                Ok(Response::new(reply))
            }
            Err(why) => {
                tracing::warn!(site, why, "refused a token");
                Err(Status::failed_precondition(why))
            }
        }
    }
}
