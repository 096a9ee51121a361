//! The cluster's own certificate authority.
//!
//! Its directory holds `ca.pem` and `ca.key`. The key is needed only to issue certificates: keep the directory off
//! the sites' machines if you can.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cfs_model::ClusterId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SigningKey,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::identity::{Identity, Role};
use crate::private_file;

/// File name of the authority's certificate, in its own directory and in every tls directory.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// File name of the authority's key.
pub const CA_KEY: &str = "ca.key";

/// Most authorities of a site that are looked at.
const MAX_AUTHORITIES: usize = 8;
/// Longest request for a signature that is looked at.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Clocks of sites differ: a certificate is valid from a little before it was made.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// What went wrong with the authority.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An authority is there already; a second one would lock every site out.
    #[error("{0} exists: this directory holds an authority already, choose another directory")]
    Exists(PathBuf),
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is there but is not what it should be.
    #[error("{path} is not usable: {reason}; restore it from a copy, there is no way to make it again")]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The period of validity cannot be written into a certificate.
    #[error("the period of validity is outside of what a certificate can state")]
    Validity,
    /// The certificate could not be made.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Not before this moment.
    pub from: SystemTime,
    /// Not after this moment; whole seconds, rounded down.
    pub to: SystemTime,
}

impl Validity {
    /// How long a certificate of a site lasts unless said otherwise.
    pub const LEAF: Duration = DAY.saturating_mul(365);
    /// How long an authority lasts.
    pub const AUTHORITY: Duration = DAY.saturating_mul(3650);

    /// From a little before `now`, because clocks differ, until `length` after `now`.
    pub fn lasting(now: SystemTime, length: Duration) -> Self {
        Self { from: now - BACKDATE, to: now + length }
    }
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// The private key; keep it secret.
    pub key_pem: String,
}

/// An authority that can issue certificates.
pub struct Authority {
    cluster: ClusterId,
    cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes the key (ECDSA P-256) and a self-signed certificate for ten years from `now`, and writes both to `dir`
    /// (0700, files 0600); they are on stable storage when this returns. Blocks.
    ///
    /// # Errors
    /// [`Error::Exists`] if `dir` holds an authority already.
    pub fn create(dir: &Path, cluster: ClusterId, now: SystemTime) -> Result<Self, Error> {
        for name in [CA_CERTIFICATE, CA_KEY] {
            if dir.join(name).exists() {
                return Err(Error::Exists(dir.join(name)));
            }
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&authority_name(cluster));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, Validity::lasting(now, Validity::AUTHORITY))?;
        let cert_pem = params.self_signed(&key)?.pem();

        let file = |action, path: &Path| move_error(action, path.to_owned());
        private_file::create_directory(dir).map_err(file("create", dir))?;
        // The key first: a certificate without its key would look like a finished authority.
        private_file::replace(dir, CA_KEY, key.serialize_pem().as_bytes()).map_err(file("write", &dir.join(CA_KEY)))?;
        private_file::replace(dir, CA_CERTIFICATE, cert_pem.as_bytes())
            .map_err(file("write", &dir.join(CA_CERTIFICATE)))?;
        Ok(Self { cluster, cert_pem, issuer: Issuer::new(params, key) })
    }

    /// Reads the authority back from `dir`. Blocks.
    ///
    /// # Errors
    /// When a file is missing or damaged, or when key and certificate do not belong together.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let (cert_path, key_path) = (dir.join(CA_CERTIFICATE), dir.join(CA_KEY));
        let cert_pem = read_text(&cert_path)?;
        let unusable = |path: &Path, reason: &str| Error::Unusable { path: path.to_owned(), reason: reason.to_owned() };
        let key = KeyPair::from_pem(&read_text(&key_path)?)
            .map_err(|_| unusable(&key_path, "it holds no private key in PEM form"))?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes())
            .map_err(|_| unusable(&cert_path, "it holds no certificate in PEM form"))?;
        let certificate = pem.parse_x509().map_err(|_| unusable(&cert_path, "its certificate cannot be parsed"))?;
        let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let cluster = name
            .and_then(|name| name.strip_prefix(AUTHORITY_PREFIX)?.parse().ok())
            .ok_or_else(|| unusable(&cert_path, "its subject names no cluster"))?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(unusable(&key_path, "it is not the key of the certificate beside it"));
        }
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key)?;
        Ok(Self { cluster, cert_pem, issuer })
    }

    /// The cluster that this authority speaks for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The authority's certificate, which every site needs.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Whether this authority is among those of a site's `ca.pem` (PEM): only then the site takes what it signs.
    pub fn is_among(&self, authorities_pem: &[u8]) -> bool {
        let own = self.issuer.key().public_key_raw();
        let ders = CertificateDer::pem_slice_iter(authorities_pem).take(MAX_AUTHORITIES).filter_map(Result::ok);
        ders.into_iter().any(|der| {
            let parsed = x509_parser::parse_x509_certificate(&der);
            parsed.is_ok_and(|(_, authority)| authority.public_key().subject_public_key.data.as_ref() == own)
        })
    }

    /// Issues a certificate with a fresh key. The identity's cluster is written as it is given; certificates for
    /// another cluster than [`Authority::cluster`] are refused by every site.
    ///
    /// # Errors
    /// When the period of validity cannot be stated or the key cannot be made.
    pub fn issue(&self, identity: &Identity, validity: Validity) -> Result<Issued, Error> {
        let names = names_of(identity)?;
        self.issue_with_names(&subject_of(identity), names, identity.role.serves(), validity)
    }

    /// Signs a request (PKCS#10, PEM) that proves to have its key. What the certificate says is decided here alone: whatever the
    /// request asks for beside its key is of no account. Returns the certificate, PEM.
    ///
    /// # Errors
    /// It is no request, or its signature is wrong.
    pub fn sign(&self, request_pem: &str, identity: &Identity, validity: Validity) -> Result<String, Error> {
        if request_pem.len() > MAX_REQUEST_BYTES {
            return Err(Error::Make(rcgen::Error::CouldNotParseCertificationRequest));
        }
        let request = CertificateSigningRequestParams::from_pem(request_pem)?;
        let names = names_of(identity)?;
        let params = leaf(&subject_of(identity), names, identity.role.serves(), validity)?;
        Ok(params.signed_by(&request.public_key, &self.issuer)?.pem())
    }

    /// This authority's word that sites may trust exactly these authorities (PEM).
    ///
    /// # Errors
    /// When the key does not sign.
    pub fn endorse(&self, authorities_pem: &str) -> Result<Vec<u8>, Error> {
        Ok(self.issuer.key().sign(&crate::endorse::message(authorities_pem.as_bytes()))?)
    }

    /// Issues a certificate with any subject alternative names.
    pub(crate) fn issue_with_names(
        &self,
        subject: &str,
        names: Vec<SanType>,
        serves: bool,
        validity: Validity,
    ) -> Result<Issued, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = leaf(subject, names, serves, validity)?.signed_by(&key, &self.issuer)?;
        Ok(Issued { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn subject_of(identity: &Identity) -> String {
    format!("{} {}", identity.role, identity.site)
}

fn names_of(identity: &Identity) -> Result<Vec<SanType>, Error> {
    Ok(vec![SanType::DnsName(identity.site.as_str().try_into()?), SanType::URI(identity.uri().as_str().try_into()?)])
}

/// A certificate of a process.
fn leaf(subject: &str, names: Vec<SanType>, serves: bool, validity: Validity) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(subject);
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if serves {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, validity)?;
    Ok(params)
}

/// Writes `ca.pem`, `ROLE.pem` and `ROLE.key` to a process's tls directory (0700, files 0600), each in one step and
/// the certificate last; a running process picks them up at its next reload. On stable storage on return. Blocks.
///
/// # Errors
/// [`Error::File`] with the file that could not be written.
pub fn install(tls_dir: &Path, role: Role, ca_pem: &str, issued: &Issued) -> Result<(), Error> {
    private_file::create_directory(tls_dir).map_err(move_error("create", tls_dir.to_owned()))?;
    let files = [
        (CA_CERTIFICATE.to_owned(), ca_pem),
        (key_file(role), issued.key_pem.as_str()),
        (certificate_file(role), issued.cert_pem.as_str()),
    ];
    for (name, content) in files {
        private_file::replace(tls_dir, &name, content.as_bytes()).map_err(move_error("write", tls_dir.join(&name)))?;
    }
    Ok(())
}

/// Name of a role's certificate file in a tls directory.
pub fn certificate_file(role: Role) -> String {
    format!("{role}.pem")
}

/// Name of a role's key file in a tls directory.
pub fn key_file(role: Role) -> String {
    format!("{role}.key")
}

const AUTHORITY_PREFIX: &str = "ClaudeFS cluster ";

fn authority_name(cluster: ClusterId) -> String {
    format!("{AUTHORITY_PREFIX}{cluster}")
}

fn common_name(name: &str) -> DistinguishedName {
    let mut full = DistinguishedName::new();
    full.push(DnType::CommonName, name);
    full
}

fn set_validity(params: &mut CertificateParams, validity: Validity) -> Result<(), Error> {
    let convert = |moment: SystemTime| {
        let seconds = moment.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| Error::Validity)?.as_secs();
        let seconds = i64::try_from(seconds).map_err(|_| Error::Validity)?;
        time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| Error::Validity)
    };
    params.not_before = convert(validity.from)?;
    params.not_after = convert(validity.to)?;
    Ok(())
}

fn read_text(path: &Path) -> Result<String, Error> {
    let bytes = private_file::read(path).map_err(move_error("read", path.to_owned()))?;
    String::from_utf8(bytes).map_err(|_| Error::Unusable { path: path.to_owned(), reason: "it is not text".to_owned() })
}

fn move_error(action: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { action, path, source }
}

#[cfg(test)]
#[path = "ca_tests.rs"]
mod tests;
