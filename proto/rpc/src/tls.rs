//! The certificate that a process shows, the authority that it trusts, and changing both while it runs.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::sync::watch;

use crate::ca::{CA_CERTIFICATE, certificate_file, key_file};
use crate::clock::Clock;
use crate::identity::{self, Identity, Role};
use crate::private_file;

/// Most certificates in `ca.pem`: the authority, and its successor while one replaces the other.
const MAX_AUTHORITIES: usize = 8;
/// Most certificates in a role's file: its own, and intermediates.
const MAX_CHAIN: usize = 4;

/// Why certificates in a tls directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing or unreadable.
    #[error("cannot read {path}: {source}; `cfs admin tls` issues and installs certificates")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody else may read the key.
    #[error("{0} may be read by others: run `chmod 600 {0}`, and replace the key if it may have been copied")]
    Exposed(PathBuf),
    /// A file does not hold what it should.
    #[error("{path} is not usable: {reason}; install it again")]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error("{key} is not the key of {certificate}: install both again, as they were issued")]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The certificate was issued by somebody else.
    #[error(
        "{certificate} was not issued by an authority in {authority} ({reason}): install both from the same authority"
    )]
    WrongAuthority {
        /// The certificate's file.
        certificate: PathBuf,
        /// The authorities' file.
        authority: PathBuf,
        /// What the check said.
        reason: String,
    },
    /// The certificate names nobody, or cannot be read.
    #[error("{path}: {source}; issue it with `cfs admin tls`")]
    Identity {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong with its names.
        source: identity::Error,
    },
    /// The certificate names another role than its file does.
    #[error("{path} is a certificate for {found}, a {expected} is needed: install the right one under this name")]
    Role {
        /// The certificate's file.
        path: PathBuf,
        /// The role that was asked for.
        expected: Role,
        /// Whose certificate it is.
        found: Box<Identity>,
    },
    /// A running process never becomes somebody else.
    #[error("{path} names {found}, but this process runs as {running}: install a certificate for that, or restart")]
    Changed {
        /// The certificate's file.
        path: PathBuf,
        /// Whose certificate it is.
        found: Box<Identity>,
        /// Whose certificate is in use.
        running: Box<Identity>,
    },
    /// The TLS library refused the material.
    #[error("the certificates in {dir} cannot be used: {reason}")]
    Library {
        /// The tls directory.
        dir: PathBuf,
        /// What the library said.
        reason: String,
    },
}

/// Certificate, key and trusted authorities of one process, checked against each other.
pub struct Material {
    identity: Identity,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
    expiry: Expiry,
    fingerprint: u64,
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

    fn from_files(dir: &Path, role: Role, clock: &Arc<dyn Clock>, files: &Files) -> Result<Self, Error> {
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
        let expires = authorities.iter().filter_map(|der| Some(validity(der)?.1)).max();
        let authority = expires.ok_or_else(|| unusable(&ca_path, "its dates cannot be read"))?;
        let key = PrivateKeyDer::from_pem_slice(&files.key)
            .map_err(|_| unusable(&dir.join(key_file(role)), "it holds no private key in PEM form"))?;

        let library = |error: rustls::Error| Error::Library { dir: dir.to_owned(), reason: error.to_string() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                Error::KeyMismatch { key: dir.join(key_file(role)), certificate: cert_path.clone() }
            }
            other => library(other),
        })?;
        let roots = Arc::new(trusted(&authorities, &ca_path)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| unusable(&ca_path, &error.to_string()))?;
        // At a moment when the certificate is valid: expiry is reported apart, it is not a wrong authority.
        let moment = UnixTime::since_unix_epoch(since_epoch(clock.wall().clamp(from, to)));
        verifier.verify_client_cert(leaf, chain.get(1..).unwrap_or_default(), moment).map_err(|error| {
            Error::WrongAuthority {
                certificate: cert_path.clone(),
                authority: ca_path.clone(),
                reason: error.to_string(),
            }
        })?;

        let time = Arc::new(WallTime(clock.clone()));
        let tls13 = &[&rustls::version::TLS13];
        let mut server = ServerConfig::builder_with_details(provider.clone(), time.clone())
            .with_protocol_versions(tls13)
            .map_err(library)?
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(library)?;
        // A resumed session would bring the client's identity back unverified.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        server.alpn_protocols = vec![ALPN.to_vec()];
        let mut client = ClientConfig::builder_with_details(provider, time)
            .with_protocol_versions(tls13)
            .map_err(library)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.clone(), key)
            .map_err(library)?;
        client.resumption = rustls::client::Resumption::disabled();
        client.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            identity,
            server: Arc::new(server),
            client: Arc::new(client),
            verifier,
            expiry: Expiry { certificate: to, authority },
            fingerprint: files.fingerprint(),
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

    /// Whether a peer's chain is good at `now`: issued by a trusted authority and not expired.
    pub(crate) fn trusts(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), rustls::Error> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        let now = UnixTime::since_unix_epoch(since_epoch(now));
        self.verifier.verify_client_cert(leaf, intermediates, now).map(|_| ())
    }
}

const ALPN: &[u8] = b"h2";

/// The material in use, which a reload replaces. New connections take the newest; live ones stay up unless their
/// peer's certificate is no longer trusted.
#[derive(Clone)]
pub struct SharedTls {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    role: Role,
    clock: Arc<dyn Clock>,
    material: ArcSwap<Material>,
    reloads: watch::Sender<u64>,
}

impl SharedTls {
    /// Loads the material of `role` from `dir`. Blocks.
    ///
    /// # Errors
    /// Those of [`Material::load`].
    pub fn load(dir: &Path, role: Role, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let material = ArcSwap::from_pointee(Material::load(dir, role, &clock)?);
        let inner = Inner { dir: dir.to_owned(), role, clock, material, reloads: watch::Sender::new(0) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The material in use.
    pub fn current(&self) -> Arc<Material> {
        self.inner.material.load_full()
    }

    /// Who this process is; a reload never changes it.
    pub fn identity(&self) -> Identity {
        self.current().identity.clone()
    }

    /// Looks whether the files have changed and takes them over if so; returns whether it did. Meant to be called every
    /// few seconds. Blocks.
    ///
    /// # Errors
    /// The new files are not usable (or are just being replaced); the old material stays in use.
    pub fn reload(&self) -> Result<bool, Error> {
        let Inner { dir, role, clock, material, reloads } = &*self.inner;
        let files = Files::read(dir, *role)?;
        let running = material.load_full();
        if files.fingerprint() == running.fingerprint {
            return Ok(false);
        }
        let fresh = Material::from_files(dir, *role, clock, &files)?;
        if fresh.identity != running.identity {
            return Err(Error::Changed {
                path: dir.join(certificate_file(*role)),
                found: Box::new(fresh.identity),
                running: Box::new(running.identity.clone()),
            });
        }
        material.store(Arc::new(fresh));
        reloads.send_modify(|count| *count += 1);
        Ok(true)
    }

    /// Completes when `chain` is not trusted any more: it expired, or a reload withdrew its authority.
    pub(crate) async fn distrusted(self, chain: Vec<CertificateDer<'static>>) -> rustls::Error {
        let mut reloads = self.inner.reloads.subscribe();
        loop {
            if let Err(reason) = self.current().trusts(&chain, self.inner.clock.wall()) {
                return reason;
            }
            // The sender lives in `self`, so waiting ends by a reload or by the pause.
            let _ = tokio::time::timeout(TRUST_CHECK_INTERVAL, reloads.changed()).await;
        }
    }
}

/// How often live connections look whether their peer's certificate has expired.
const TRUST_CHECK_INTERVAL: Duration = Duration::from_secs(30);

struct Files {
    authority: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(dir: &Path, role: Role) -> Result<Self, Error> {
        let read = |name: &str| {
            let path = dir.join(name);
            private_file::read(&path).map_err(|source| Error::Read { path, source })
        };
        let key_path = dir.join(key_file(role));
        let key = read(&key_file(role))?;
        match private_file::is_exposed(&key_path) {
            Ok(false) => {}
            Ok(true) => return Err(Error::Exposed(key_path)),
            Err(source) => return Err(Error::Read { path: key_path, source }),
        }
        Ok(Self { authority: read(CA_CERTIFICATE)?, certificate: read(&certificate_file(role))?, key })
    }

    /// Tells whether files have changed; nothing more depends on it.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.authority, &self.certificate, &self.key).hash(&mut hasher);
        hasher.finish()
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

fn certificates(pem: &[u8], limit: usize, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
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

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
