//! Certificate, key and authorities, checked against each other.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::Error;
use super::files::Files;
use super::joining::trusts_alone;
use crate::ca::{CA_CERTIFICATE, certificate_file, key_file};
use crate::clock::Clock;
use crate::identity::{Identity, Role};
use crate::{join, look};

/// Most certificates in `ca.pem`: the authority, and its successor while one replaces the other.
const MAX_AUTHORITIES: usize = 8;
/// Most certificates in a role's file: its own, and intermediates.
const MAX_CHAIN: usize = 4;
/// What both ends speak inside of TLS.
const ALPN: &[u8] = b"h2";

/// Certificate, key and trusted authorities of one process, checked against each other.
pub struct Material {
    identity: Identity,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    looking: Arc<ClientConfig>,
    joining: Arc<ServerConfig>,
    authority_pin: Option<String>,
    verifier: Arc<dyn ClientCertVerifier>,
    expiry: Expiry,
    fingerprint: u64,
    shown: u64,
}

/// When certificates stop being valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// The process's own certificate.
    pub certificate: SystemTime,
    /// The authority that lasts longest among those trusted.
    pub authority: SystemTime,
}

impl Expiry {
    /// Time left at `now` until the first of them expires; zero when one has.
    pub fn left(&self, now: SystemTime) -> Duration {
        self.certificate.min(self.authority).duration_since(now).unwrap_or_default()
    }

    /// Seconds from `now` until the certificate expires; negative: since then.
    pub fn certificate_in_s(&self, now: SystemTime) -> f64 {
        seconds_until(self.certificate, now)
    }

    /// The same of the authority.
    pub fn authority_in_s(&self, now: SystemTime) -> f64 {
        seconds_until(self.authority, now)
    }
}

fn seconds_until(moment: SystemTime, now: SystemTime) -> f64 {
    match moment.duration_since(now) {
        Ok(left) => left.as_secs_f64(),
        Err(since) => -since.duration().as_secs_f64(),
    }
}

impl Material {
    /// Reads `ca.pem`, `ROLE.pem` and `ROLE.key` from `dir` and checks that the key is the certificate's, that a trusted
    /// authority issued it, and that it names this role. An expired certificate loads, because local work goes on
    /// without peers: look at [`Material::expiry`]. Blocks.
    ///
    /// # Errors
    /// Each names the file and what to do.
    pub fn load(dir: &Path, role: Role, clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        Self::from_files(dir, role, clock, &Files::read(dir, role)?)
    }

    /// The same of files that are not in place yet; `now` is of account for nothing but dates.
    pub(crate) fn of(
        dir: &Path,
        role: Role,
        now: SystemTime,
        authority: &[u8],
        certificate: &[u8],
        key: &[u8],
    ) -> Result<Self, Error> {
        let files = Files {
            authority: authority.to_vec(),
            certificate: certificate.to_vec(),
            key: key.to_vec(),
            next_key: Vec::new(),
        };
        Self::from_files(dir, role, &(Arc::new(FixedClock(now)) as Arc<dyn Clock>), &files)
    }

    pub(super) fn from_files(dir: &Path, role: Role, clock: &Arc<dyn Clock>, files: &Files) -> Result<Self, Error> {
        let (ca_path, cert_path) = (dir.join(CA_CERTIFICATE), dir.join(certificate_file(role)));
        let authorities = certificates(&files.authority, MAX_AUTHORITIES, &ca_path)?;
        let chain = certificates(&files.certificate, MAX_CHAIN, &cert_path)?;
        let leaf = chain.first().ok_or_else(|| unusable(&cert_path, "it holds no certificate in PEM form"))?;
        let identity =
            Identity::from_certificate(leaf).map_err(|source| Error::Identity { path: cert_path.clone(), source })?;
        if identity.role != role {
            return Err(Error::Role { path: cert_path, expected: role, found: Box::new(identity) });
        }
        let (from, to) = validity(leaf).ok_or_else(|| unusable(&cert_path, "its dates cannot be read"))?;
        let last = authorities.iter().filter_map(|der| Some(validity(der)?.1)).max();
        let authority = last.ok_or_else(|| unusable(&ca_path, "its dates cannot be read"))?;

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(trusted(&authorities, &ca_path)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| unusable(&ca_path, &error.to_string()))?;
        let key = matching_key(dir, role, files, &chain, &provider)?;
        // At a moment when the certificate is valid: expiry is reported apart, it is not a wrong authority.
        verify(&*verifier, &chain, clock.wall().clamp(from, to)).map_err(|error| Error::WrongAuthority {
            certificate: cert_path,
            authority: ca_path,
            reason: error.to_string(),
        })?;

        let now = clock.wall().clamp(from, to);
        let issuer = authorities.iter().find(|authority| trusts_alone(authority, &chain, now).is_ok());
        let authority_pin = issuer.and_then(|authority| join::pin(authority));
        let configs = Configs { provider, time: Arc::new(WallTime(clock.clone())), chain, key };
        let library = |error: rustls::Error| Error::Library { dir: dir.to_owned(), reason: error.to_string() };
        Ok(Self {
            identity,
            server: Arc::new(configs.server(verifier.clone()).map_err(library)?),
            client: Arc::new(configs.client(roots).map_err(library)?),
            looking: Arc::new(configs.looking().map_err(library)?),
            joining: Arc::new(configs.joining().map_err(library)?),
            authority_pin,
            verifier,
            expiry: Expiry { certificate: to, authority },
            fingerprint: files.fingerprint(),
            shown: files.shown(),
        })
    }

    /// Who this process is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// When the certificates stop being valid.
    pub fn expiry(&self) -> Expiry {
        self.expiry
    }

    /// For accepting: TLS 1.3, a client certificate is required, no session is ever resumed.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For connecting: TLS 1.3, showing the certificate.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    /// For accepting those who have no certificate yet. Whoever comes this way is a stranger.
    pub(crate) fn joining_config(&self) -> Arc<ServerConfig> {
        self.joining.clone()
    }

    /// The pin of the authority that issued the certificate in use.
    pub fn authority_pin(&self) -> Option<String> {
        self.authority_pin.clone()
    }

    /// For looking at what others serve, and nothing else: any certificate is taken.
    pub(crate) fn looking_config(&self) -> Arc<ClientConfig> {
        self.looking.clone()
    }

    pub(super) const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Tells whether what others see has changed.
    pub(super) const fn shown(&self) -> u64 {
        self.shown
    }

    /// Whether a peer's chain is good at `now`: issued by a trusted authority and not expired.
    pub(crate) fn trusts(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), rustls::Error> {
        verify(&*self.verifier, chain, now)
    }
}

/// What both configurations are made of.
struct Configs {
    provider: Arc<CryptoProvider>,
    time: Arc<WallTime>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Configs {
    fn server(&self, verifier: Arc<dyn ClientCertVerifier>) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_details(self.provider.clone(), self.time.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        // A resumed session would bring the client's identity back unverified.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.alpn_protocols = vec![look::PROTOCOL.to_vec(), ALPN.to_vec()];
        Ok(config)
    }

    fn joining(&self) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_details(self.provider.clone(), self.time.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.alpn_protocols = vec![join::PROTOCOL.to_vec()];
        Ok(config)
    }

    fn client(&self, roots: Arc<RootCertStore>) -> Result<ClientConfig, rustls::Error> {
        let mut config = ClientConfig::builder_with_details(self.provider.clone(), self.time.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    fn looking(&self) -> Result<ClientConfig, rustls::Error> {
        let mut config = ClientConfig::builder_with_details(self.provider.clone(), self.time.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(look::AnyCertificate(self.provider.clone())))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.resumption = rustls::client::Resumption::disabled();
        // One that does not know the first takes it for an ordinary connection.
        config.alpn_protocols = vec![look::PROTOCOL.to_vec(), ALPN.to_vec()];
        Ok(config)
    }
}

/// The private key, if it is the certificate's.
fn matching_key(
    dir: &Path,
    role: Role,
    files: &Files,
    chain: &[CertificateDer<'static>],
    provider: &CryptoProvider,
) -> Result<PrivateKeyDer<'static>, Error> {
    let path = dir.join(key_file(role));
    let key = PrivateKeyDer::from_pem_slice(&files.key)
        .map_err(|_| unusable(&path, "it holds no private key in PEM form"))?;
    match CertifiedKey::from_der(chain.to_vec(), key.clone_key(), provider) {
        Ok(_) => Ok(key),
        Err(rustls::Error::InconsistentKeys(_)) => {
            // A crash came between certificate and key.
            let next = PrivateKeyDer::from_pem_slice(&files.next_key).ok();
            let fits = |key: &PrivateKeyDer<'static>| {
                CertifiedKey::from_der(chain.to_vec(), key.clone_key(), provider).is_ok()
            };
            if let Some(next) = next.filter(fits) {
                return Ok(next);
            }
            Err(Error::KeyMismatch { key: path, certificate: dir.join(certificate_file(role)) })
        }
        Err(other) => Err(unusable(&path, &other.to_string())),
    }
}

pub(super) fn verify(
    verifier: &dyn ClientCertVerifier,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(), rustls::Error> {
    let (leaf, intermediates) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
    verifier.verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(since_epoch(now))).map(|_| ())
}

/// For checks at one moment.
struct FixedClock(SystemTime);

impl Clock for FixedClock {
    fn boot(&self) -> Duration {
        Duration::ZERO
    }
    fn wall(&self) -> SystemTime {
        self.0
    }
}

struct WallTime(Arc<dyn Clock>);

impl std::fmt::Debug for WallTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WallTime")
    }
}

impl rustls::time_provider::TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(since_epoch(self.0.wall())))
    }
}

fn since_epoch(moment: SystemTime) -> Duration {
    moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn unusable(path: &Path, reason: &str) -> Error {
    Error::Unusable { path: path.to_owned(), reason: reason.to_owned() }
}

pub(super) fn certificates(pem: &[u8], limit: usize, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(limit + 1).collect();
    let found = found.map_err(|_| unusable(path, "it is not in PEM form"))?;
    match found.len() {
        0 => Err(unusable(path, "it holds no certificate in PEM form")),
        n if n > limit => Err(unusable(path, &format!("it holds more than {limit} certificates"))),
        _ => Ok(found),
    }
}

fn trusted(authorities: &[CertificateDer<'static>], path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|error| unusable(path, &error.to_string()))?;
    }
    Ok(roots)
}

/// First and last moment of a certificate's validity.
fn validity(der: &CertificateDer<'_>) -> Option<(SystemTime, SystemTime)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let moment = |time: x509_parser::time::ASN1Time| {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(time.timestamp()).ok()?))
    };
    let (from, to) = (moment(certificate.validity().not_before)?, moment(certificate.validity().not_after)?);
    (from <= to).then_some((from, to))
}
