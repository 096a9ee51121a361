//! What two processes must agree on: the services, the identity in a certificate, and how bytes travel.

/// The services, generated from `proto/cfs/v1/*.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("cfs.v1");
}
