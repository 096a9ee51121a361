//! Connections that show no certificate, on either end.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore};

use super::material::verify;
use crate::{join, look};

/// For an invited site: any certificate is taken at first, and compared with the token before anything is sent.
pub(crate) fn joining_client() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(look::AnyCertificate(provider)))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![join::PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}

/// Whether this authority by itself vouches for a chain at `now`.
pub(crate) fn trusts_alone(
    authority: &CertificateDer<'static>,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    verify(&*verifier, chain, now)
}
