//! Looking at the certificate that a process serves, whatever it is: a handshake, and nothing after it.
//!
//! The other end learns from the protocol's name ([`PROTOCOL`]) that no call will come, closes quietly, and neither logs nor
//! counts it. So any role may look at any port.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cfs_model::SiteName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use crate::certificate::Certificate;
use crate::connect::Error;
use crate::net::Net;
use crate::refusal;
use crate::tls::Material;

/// What is agreed on instead of HTTP/2 by a connection that only looks.
pub const PROTOCOL: &[u8] = b"claudefs-look";

/// A certificate as served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What it says.
    pub certificate: Certificate,
    /// Why it is not trusted here now; empty: it is.
    pub distrust: String,
}

/// Shakes hands with whoever listens on `addr` (`HOST:PORT`) and returns what they showed, also if it is expired or of another
/// authority. Takes at most `limit`.
///
/// # Errors
/// Nobody answers there, or not as TLS.
pub async fn look(
    net: &dyn Net,
    material: &Material,
    site: &SiteName,
    addr: &str,
    now: SystemTime,
    limit: Duration,
) -> Result<Seen, Error> {
    let distrusted = |reason: String| Error::Distrusted { addr: addr.to_owned(), reason };
    let looking = async {
        let stream = net.connect(addr).await.map_err(|source| Error::Unreachable { addr: addr.to_owned(), source })?;
        let name = ServerName::try_from(site.as_str().to_owned()).map_err(|error| distrusted(error.to_string()))?;
        let mut stream = TlsConnector::from(material.looking_config())
            .connect(name, stream)
            .await
            .map_err(|error| distrusted(refusal::reason(&error)))?;
        let chain: Vec<CertificateDer<'static>> =
            stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
        // What it thinks of our certificate is of no account: we have seen its own.
        let _ = stream.shutdown().await;
        let leaf = chain.first().ok_or_else(|| distrusted("it presented no certificate".to_owned()))?;
        let certificate =
            Certificate::from_der(leaf).map_err(|source| Error::Identity { addr: addr.to_owned(), source })?;
        let distrust = material.trusts(&chain, now).err().map(|error| refusal::tls_reason(&error)).unwrap_or_default();
        Ok(Seen { certificate, distrust })
    };
    let late = |_| Error::Timeout { addr: addr.to_owned(), after: limit };
    tokio::time::timeout(limit, looking).await.map_err(late)?
}

/// Takes any certificate, once its holder has proven to have the key. Only for looking.
#[derive(Debug)]
pub(crate) struct AnyCertificate(pub(crate) Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
