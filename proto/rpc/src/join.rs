//! How a site without certificates finds out that it speaks to its cluster: by the pin of an authority's key in its token.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cfs_model::{ClusterId, SiteName};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::connect::{self, DEFAULT_TIMEOUT};
use crate::http2;
use crate::identity::{Identity, Role};
use crate::net::Net;
use crate::refusal;
use crate::tls::{self, trusts_alone};
use crate::v1::enrollment_client::EnrollmentClient;
use crate::v1::{AuthoritiesRequest, RedeemReply, RedeemRequest};

/// What is agreed on instead of HTTP/2 by a connection that shows no certificate: it reaches one service and no other.
pub const PROTOCOL: &[u8] = b"claudefs-join";
/// Longest token that is looked at.
const MAX_TOKEN_BYTES: usize = 1024;
/// What a token begins with.
const PREFIX: &str = "cfs1.";
/// Bytes of a secret.
const SECRET_BYTES: usize = 32;
/// Bound on the last step, for which other sites are asked.
const REDEEM_LIMIT: Duration = Duration::from_secs(15);
/// Longest message either way.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// Who connected without a certificate: an address, and nothing that was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stranger(pub SocketAddr);

/// SHA-256 of the public key in a certificate, in hexadecimal digits. `None`: it does not parse.
pub fn pin(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(digest(certificate.public_key().raw))
}

/// SHA-256 in hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An invitation as the invited site gets it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The cluster.
    #[serde(rename = "c")]
    pub cluster: String,
    /// Whom it invites.
    #[serde(rename = "s")]
    pub site: String,
    /// The site that is to be asked.
    #[serde(rename = "v")]
    pub via: String,
    /// Where it listens; the invited site's own configuration goes first.
    #[serde(rename = "a")]
    pub address: String,
    /// The pin of the authority that vouches for that site.
    #[serde(rename = "p")]
    pub pin: String,
    /// What proves the invitation.
    #[serde(rename = "k")]
    pub secret: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} via {})", self.site, self.via)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }
}

/// The text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no token: copy it whole, as `cfs admin replication invite` printed it")]
pub struct NoToken;

impl FromStr for Token {
    type Err = NoToken;
    fn from_str(text: &str) -> Result<Self, NoToken> {
        let text = text.trim();
        if text.len() > MAX_TOKEN_BYTES {
            return Err(NoToken);
        }
        let json = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX).ok_or(NoToken)?).map_err(|_| NoToken)?;
        let token: Self = serde_json::from_slice(&json).map_err(|_| NoToken)?;
        let sound = SiteName::new(&token.site).is_ok()
            && SiteName::new(&token.via).is_ok()
            && token.cluster.parse::<ClusterId>().is_ok()
            && token.secret_bytes().is_some();
        if sound { Ok(token) } else { Err(NoToken) }
    }
}

impl Token {
    /// A fresh secret as it stands in a token.
    ///
    /// # Errors
    /// When there are no random bytes.
    pub fn new_secret(randomness: &dyn crate::clock::Randomness) -> io::Result<String> {
        let mut secret = [0; SECRET_BYTES];
        randomness.fill(&mut secret)?;
        Ok(URL_SAFE_NO_PAD.encode(secret))
    }

    /// The secret's bytes; `None`: it cannot be one.
    pub fn secret_bytes(&self) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(&self.secret).ok().filter(|bytes| bytes.len() == SECRET_BYTES)
    }
}

/// Why no certificates came.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers, or not in time.
    #[error(transparent)]
    Unanswered(#[from] connect::Error),
    /// What answers is not the cluster that invited. Nothing was sent to it.
    #[error("refused {addr}: {reason}; the token was not sent to it")]
    Distrusted {
        /// The address.
        addr: String,
        /// Which check failed.
        reason: String,
    },
    /// The cluster refuses.
    #[error("{0}")]
    Refused(String),
}

/// Finds the cluster that invited at `addr`, proves by the token's pin that it is, and only then hands over the token. Each
/// step takes 5 s at most, the last one 15.
///
/// # Errors
/// Nothing was changed at this site; the token may be used up if the answer was lost.
pub async fn redeem(
    net: Arc<dyn Net>,
    token: &Token,
    addr: &str,
    request: RedeemRequest,
    now: SystemTime,
) -> Result<RedeemReply, Error> {
    let distrusted = |reason: &str| Error::Distrusted { addr: addr.to_owned(), reason: reason.to_owned() };
    let late = |after| connect::Error::Timeout { addr: addr.to_owned(), after };
    let connected = tokio::time::timeout(DEFAULT_TIMEOUT, stranger(net, &token.via, addr));
    let (channel, chain) = connected.await.map_err(|_| late(DEFAULT_TIMEOUT))??;
    let mut client = EnrollmentClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let refused = |status: tonic::Status| Error::Refused(status.message().to_owned());
    let asked = tokio::time::timeout(DEFAULT_TIMEOUT, client.authorities(AuthoritiesRequest {}));
    let told = asked.await.map_err(|_| late(DEFAULT_TIMEOUT))?.map_err(refused)?.into_inner();
    let authorities = CertificateDer::pem_slice_iter(told.authorities.as_bytes()).take(8).filter_map(Result::ok);
    let pinned = authorities.into_iter().find(|der| pin(der).as_deref() == Some(&*token.pin));
    let pinned = pinned.ok_or_else(|| distrusted("its authority is not the one that the token names"))?;
    trusts_alone(&pinned, &chain, now).map_err(|error| distrusted(&refusal::tls_reason(&error)))?;
    let leaf = chain.first().and_then(|leaf| Identity::from_certificate(leaf).ok());
    let is_via = leaf.is_some_and(|leaf| {
        leaf.role == Role::Control && leaf.site.as_str() == token.via && leaf.cluster.to_string() == token.cluster
    });
    if !is_via {
        return Err(distrusted("it is not the control process that the token names"));
    }
    let asked = tokio::time::timeout(REDEEM_LIMIT, client.redeem(request));
    Ok(asked.await.map_err(|_| late(REDEEM_LIMIT))?.map_err(refused)?.into_inner())
}

/// Connects without a certificate; what the other end showed is returned, and **not verified yet**.
///
/// # Errors
/// Nobody answers there, or it takes no strangers.
pub async fn stranger(
    net: Arc<dyn Net>,
    via: &str,
    addr: &str,
) -> Result<(Channel, Vec<CertificateDer<'static>>), Error> {
    let distrusted = |reason: String| Error::Distrusted { addr: addr.to_owned(), reason };
    let connected = net.connect(addr).await;
    let stream = connected.map_err(|source| connect::Error::Unreachable { addr: addr.to_owned(), source })?;
    let name = ServerName::try_from(via.to_owned()).map_err(|error| distrusted(error.to_string()))?;
    let config = tls::joining_client().map_err(|error| distrusted(error.to_string()))?;
    let stream =
        TlsConnector::from(config).connect(name, stream).await.map_err(|error| distrusted(refusal::reason(&error)))?;
    if stream.get_ref().1.alpn_protocol() != Some(PROTOCOL) {
        return Err(distrusted("it takes no invitations: it may be of an older version".to_owned()));
    }
    let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
    let stream = Mutex::new(Some(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.lock().ok().and_then(|mut stream| stream.take());
        std::future::ready(stream.map(TokioIo::new).ok_or_else(|| io::Error::other("the connection broke")))
    });
    let endpoint = Endpoint::from_shared(format!("http://{via}")).map_err(|e| distrusted(e.to_string()))?;
    let channel = http2::client(endpoint).connect_with_connector(connector).await;
    Ok((channel.map_err(|e| distrusted(e.to_string()))?, chain))
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
