//! Connecting to another process over mTLS, and making sure that it is the one that was meant.

use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::http2;
use crate::identity::{self, Identity};
use crate::io::Io;
use crate::net::Net;
use crate::refusal;
use crate::tls::SharedTls;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens there, or the name is unknown.
    #[error("cannot connect to {addr}: {source}")]
    Unreachable {
        /// The address.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{addr} did not answer within {after:?}")]
    Timeout {
        /// The address.
        addr: String,
        /// The limit.
        after: Duration,
    },
    /// What answers cannot prove that it belongs to our cluster.
    #[error("refused {addr}: {reason}")]
    Distrusted {
        /// The address.
        addr: String,
        /// Which check failed.
        reason: String,
    },
    /// A member of a cluster of ours answers, but not the one that was meant.
    #[error("{addr} is the {found}, but the {expected} was expected: check the addresses of the peers")]
    WrongPeer {
        /// The address.
        addr: String,
        /// Who was expected.
        expected: Box<Identity>,
        /// What the certificate there says.
        found: String,
    },
    /// The certificate there names nobody.
    #[error("refused {addr}: {source}")]
    Identity {
        /// The address.
        addr: String,
        /// What is wrong with the names.
        source: identity::Error,
    },
    /// The other end closed the connection as soon as it saw our certificate.
    #[error("{addr} refused the {own}: {reason}; its log says why")]
    Refused {
        /// The address.
        addr: String,
        /// As whom we connected.
        own: Box<Identity>,
        /// What it let us know.
        reason: String,
    },
    /// The connection stands but speaks no gRPC.
    #[error("{addr} does not answer as gRPC: {reason}")]
    Protocol {
        /// The address.
        addr: String,
        /// What the library said.
        reason: String,
    },
}

/// Opens channels to peers; a simulation supplies its own.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// Connects to `addr` (`HOST:PORT`) and returns once the peer has proven to be `expected` and has accepted us. A channel
    /// whose connection broke connects again at its next call, with the same checks.
    async fn dial(&self, addr: &str, expected: &Identity) -> Result<Channel, Error>;
}

/// Connects with the certificate in use at that moment.
#[derive(Clone)]
pub struct Connector {
    net: Arc<dyn Net>,
    tls: SharedTls,
    timeout: Duration,
}

/// Bound on connecting, shaking hands and being accepted, each.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection whose peer is not trusted any more ends so much later: when certificates are replaced at both ends another one is made
/// by then, and nothing breaks.
const REPLACED_WITHIN: Duration = Duration::from_secs(5);

impl Connector {
    /// Connects over `net` as who `tls` says we are.
    pub fn new(net: Arc<dyn Net>, tls: SharedTls) -> Self {
        Self { net, tls, timeout: DEFAULT_TIMEOUT }
    }

    /// Replaces the bound on each step.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A verified connection, without gRPC.
    async fn open(&self, addr: &str, expected: &Identity) -> Result<Io<()>, Error> {
        let late = |_| Error::Timeout { addr: addr.to_owned(), after: self.timeout };
        let stream = tokio::time::timeout(self.timeout, self.net.connect(addr))
            .await
            .map_err(late)?
            .map_err(|source| Error::Unreachable { addr: addr.to_owned(), source })?;
        let material = self.tls.current();
        let name = ServerName::try_from(expected.site.as_str().to_owned())
            .map_err(|error| Error::Distrusted { addr: addr.to_owned(), reason: error.to_string() })?;
        let handshake = TlsConnector::from(material.client_config()).connect(name, stream);
        let mut stream = tokio::time::timeout(self.timeout, handshake)
            .await
            .map_err(late)?
            .map_err(|error| handshake_error(addr, expected, material.identity(), &error))?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Vec<CertificateDer<'static>> = shown.iter().map(|der| der.clone().into_owned()).collect();
        let Some(leaf) = chain.first() else {
            let reason = "it presented no certificate".to_owned();
            return Err(Error::Distrusted { addr: addr.to_owned(), reason });
        };
        let found =
            Identity::from_certificate(leaf).map_err(|source| Error::Identity { addr: addr.to_owned(), source })?;
        if found != *expected {
            return Err(wrong_peer(addr, expected, found.to_string()));
        }
        // In TLS 1.3 our side is done before the other has looked at our certificate. It speaks first in HTTP/2, so its
        // first bytes show that we were accepted, and an alert or the end says here, not at some later call, that not.
        let mut early = vec![0; 64];
        let read = tokio::time::timeout(self.timeout, stream.read(&mut early)).await.map_err(late)?;
        let refused =
            |reason| Error::Refused { addr: addr.to_owned(), own: Box::new(material.identity().clone()), reason };
        match read {
            Ok(0) => return Err(refused("it closed the connection".to_owned())),
            Ok(n) => early.truncate(n),
            Err(error) => return Err(refused(refusal::reason(&error))),
        }
        let (tls, addr) = (self.tls.clone(), addr.to_owned());
        let distrusted = async move {
            let reason = refusal::tls_reason(&tls.distrusted(chain).await);
            // One that shows a newer certificate stands by then, if there is one.
            tokio::time::sleep(REPLACED_WITHIN).await;
            tracing::warn!(addr, reason, "closed a connection to a peer that is not trusted any more");
            io::Error::new(io::ErrorKind::PermissionDenied, reason)
        };
        Ok(Io::new(Box::new(stream) as crate::net::BoxStream, ()).with_early(early).with_ending(Box::pin(distrusted)))
    }
}

#[async_trait]
impl Dial for Connector {
    async fn dial(&self, addr: &str, expected: &Identity) -> Result<Channel, Error> {
        let protocol = |reason: String| Error::Protocol { addr: addr.to_owned(), reason };
        let endpoint = Endpoint::from_shared(format!("http://{}", expected.site)).map_err(|e| protocol(full(&e)))?;
        let failure = Arc::new(Mutex::new(None));
        let connect = {
            let (connector, addr, expected, failure) =
                (self.clone(), addr.to_owned(), expected.clone(), failure.clone());
            tower::service_fn(move |_: Uri| {
                let (connector, addr, expected, failure) =
                    (connector.clone(), addr.clone(), expected.clone(), failure.clone());
                async move {
                    let opened = connector.open(&addr, &expected).await.map_err(|error| {
                        let text = error.to_string();
                        // tonic wraps errors of a connector so that their text is lost.
                        *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        io::Error::other(text)
                    });
                    opened.map(TokioIo::new)
                }
            })
        };
        http2::client(endpoint).connect_with_connector(connect).await.map_err(|error| {
            let known = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            known.unwrap_or_else(|| protocol(full(&error)))
        })
    }
}

fn wrong_peer(addr: &str, expected: &Identity, found: String) -> Error {
    Error::WrongPeer { addr: addr.to_owned(), expected: Box::new(expected.clone()), found }
}

fn handshake_error(addr: &str, expected: &Identity, own: &Identity, error: &io::Error) -> Error {
    use rustls::{CertificateError::NotValidForNameContext, Error as Tls};
    match refusal::tls_error(error) {
        Some(Tls::InvalidCertificate(NotValidForNameContext { presented, .. })) => {
            wrong_peer(addr, expected, format!("holder of a certificate for {}", presented.join(", ")))
        }
        Some(Tls::AlertReceived(_)) => {
            Error::Refused { addr: addr.to_owned(), own: Box::new(own.clone()), reason: refusal::reason(error) }
        }
        _ => Error::Distrusted { addr: addr.to_owned(), reason: refusal::reason(error) },
    }
}

/// An error with everything behind it.
fn full(error: &tonic::transport::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
