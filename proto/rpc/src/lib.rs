//! What two processes must agree on: the services, the identity in a certificate, and how bytes travel.
//!
//! A process loads its certificate ([`tls::SharedTls`]), accepts ([`serve::incoming`]) and connects
//! ([`connect::Connector`]) over mTLS; on one machine it uses Unix sockets ([`unix`]). Clock, randomness and network are
//! arguments ([`clock`], [`net`]).

pub mod ca;
pub mod certificate;
pub mod clock;
pub mod connect;
mod endorse;
pub mod http2;
pub mod identity;
pub mod io;
pub mod join;
pub mod look;
pub mod net;
pub mod private_file;
pub mod rebuild;
mod refusal;
pub mod renewal;
pub mod serve;
pub mod survey;
#[cfg(test)]
mod test_site;
pub mod tls;
pub mod unix;

/// The services, generated from `proto/cfs/v1/*.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("cfs.v1");
}
