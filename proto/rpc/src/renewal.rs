//! A site's new certificates: the key is made where it is used, only a request for a signature travels.
//!
//! A new key waits as `ROLE.key.new` beside the one in use. Installing renames the certificate into place and then the
//! key; whoever loads a certificate takes whichever of the two keys is its own, so there is no moment at which a crash would
//! leave a pair that cannot be used.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::ca::{CA_CERTIFICATE, certificate_file, key_file};
use crate::endorse;
use crate::identity::{self, Identity, Role};
use crate::private_file;
use crate::tls::{self, Material};
use crate::v1;

/// Name of the file in which a role's new key waits for its certificate.
pub fn next_key_file(role: Role) -> String {
    format!("{role}.key.new")
}

/// Why there are no new certificates. Those in use were not touched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The key or the request could not be made.
    #[error("cannot make a key and a request: {0}")]
    Make(#[from] rcgen::Error),
    /// What came cannot be used here.
    #[error(transparent)]
    Unusable(#[from] tls::Error),
    /// What came is for somebody else.
    #[error("the certificate that came is for {found}, this is {own}")]
    Foreign {
        /// Who it is for.
        found: Box<Identity>,
        /// Who this is.
        own: Box<Identity>,
    },
    /// The authorities that came are vouched for by none that is trusted.
    #[error("the authorities that came are not signed by one that is trusted here ({0})")]
    Authorities(PathBuf),
    /// A certificate came twice, or none for a key that was made.
    #[error("{0}")]
    Malformed(&'static str),
}

/// A request for a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What the holder is to be.
    pub role: Role,
    /// PKCS#10, PEM.
    pub pem: String,
}

impl From<Request> for v1::SigningRequest {
    fn from(request: Request) -> Self {
        Self { role: request.role.to_string(), pem: request.pem }
    }
}

/// What was issued, as [`Delivery`] has it.
///
/// # Errors
/// A role that is none.
pub fn issued(certificates: &[v1::IssuedCertificate]) -> Result<Vec<(Role, String)>, identity::Error> {
    certificates.iter().map(|one| Ok((one.role.parse()?, one.pem.clone()))).collect()
}

/// What is to be installed.
#[derive(Debug, Clone, Default)]
pub struct Delivery {
    /// A certificate for each of these roles, PEM.
    pub certificates: Vec<(Role, String)>,
    /// What `ca.pem` is to hold; empty: it stays as it is.
    pub authorities: String,
    /// Signature of a trusted authority over it.
    pub endorsement: Vec<u8>,
}

/// Roles that a site has certificates of. Blocks.
pub fn roles(dir: &Path) -> Vec<Role> {
    Role::ALL.into_iter().filter(|role| dir.join(certificate_file(*role)).exists()).collect()
}

/// Makes a key for each role, which waits beside the one in use, and a request that proves to have it. On stable storage on
/// return. Making them again replaces keys that wait. Blocks.
///
/// # Errors
/// A file that cannot be written.
pub fn prepare(dir: &Path, own: &Identity, roles: &[Role]) -> Result<Vec<Request>, Error> {
    private_file::create_directory(dir).map_err(file("create", dir))?;
    let request = |role: &Role| {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        // For people: whoever signs decides by itself what the certificate says.
        name.push(DnType::CommonName, format!("{role} {}", own.site));
        params.distinguished_name = name;
        let pem = params.serialize_request(&key)?.pem()?;
        let path = next_key_file(*role);
        private_file::replace(dir, &path, key.serialize_pem().as_bytes()).map_err(file("write", &dir.join(&path)))?;
        Ok(Request { role: *role, pem })
    };
    roles.iter().map(request).collect()
}

/// Checks everything, then installs it; each file in one step, on stable storage on return. Running processes take it over at
/// their next reload. Blocks.
///
/// # Errors
/// Nothing was changed, unless a file could not be written.
pub fn install(dir: &Path, own: &Identity, delivery: &Delivery, now: SystemTime) -> Result<(), Error> {
    let ca_path = dir.join(CA_CERTIFICATE);
    let trusted = private_file::read(&ca_path).map_err(file("read", &ca_path))?;
    let authorities = if delivery.authorities.is_empty() || delivery.authorities.as_bytes() == trusted {
        trusted.clone()
    } else {
        if !endorse::vouched_for(&trusted, delivery.authorities.as_bytes(), &delivery.endorsement) {
            return Err(Error::Authorities(ca_path));
        }
        delivery.authorities.clone().into_bytes()
    };
    put(dir, own, delivery, &authorities, roles(dir), now)
}

/// The same at a site that has none yet: the authorities that come are trusted, because whoever sent them has proven to be the one
/// that was meant. Blocks.
///
/// # Errors
/// Nothing was changed, unless a file could not be written.
pub fn install_first(dir: &Path, own: &Identity, delivery: &Delivery, now: SystemTime) -> Result<(), Error> {
    put(dir, own, delivery, delivery.authorities.as_bytes(), Vec::new(), now)
}

/// Checks and writes. `keep` are roles that are there already.
fn put(
    dir: &Path,
    own: &Identity,
    delivery: &Delivery,
    authorities: &[u8],
    keep: Vec<Role>,
    now: SystemTime,
) -> Result<(), Error> {
    // What stays in use must be trusted by what is to be trusted.
    let mut keys = Vec::new();
    for (role, pem) in &delivery.certificates {
        if keys.iter().any(|(known, _)| known == role) {
            return Err(Error::Malformed("two certificates came for one role"));
        }
        let key_path = dir.join(next_key_file(*role));
        let key = private_file::read(&key_path).map_err(file("read", &key_path))?;
        let material = Material::of(dir, *role, now, authorities, pem.as_bytes(), &key)?;
        let expected = Identity { role: *role, ..own.clone() };
        if *material.identity() != expected {
            return Err(Error::Foreign { found: Box::new(material.identity().clone()), own: Box::new(expected) });
        }
        keys.push((*role, key));
    }
    for role in keep.into_iter().filter(|role| !keys.iter().any(|(new, _)| new == role)) {
        let read = |name: String| private_file::read(&dir.join(&name)).map_err(file("read", &dir.join(&name)));
        Material::of(dir, role, now, authorities, &read(certificate_file(role))?, &read(key_file(role))?)?;
    }
    let write = |name: String, content: &[u8]| {
        private_file::replace(dir, &name, content).map_err(file("write", &dir.join(&name)))
    };
    // On disk already if it is the same.
    if private_file::read(&dir.join(CA_CERTIFICATE)).map_or(true, |known| known != authorities) {
        write(CA_CERTIFICATE.to_owned(), authorities)?;
    }
    for (role, pem) in &delivery.certificates {
        write(certificate_file(*role), pem.as_bytes())?;
        let (next, path) = (dir.join(next_key_file(*role)), dir.join(key_file(*role)));
        std::fs::rename(&next, &path).map_err(file("rename", &next))?;
    }
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(file("sync", dir))
}

/// Authorities in a file, each once, in order. Blocks not; the text is PEM.
///
/// # Errors
/// It is not in PEM form.
pub fn joined(parts: &[&str]) -> Result<String, Error> {
    let mut seen: Vec<Arc<[u8]>> = Vec::new();
    let mut all = String::new();
    for part in parts {
        for block in pem_blocks(part) {
            let der = CertificateDer::from_pem_slice(block.as_bytes())
                .map_err(|_| Error::Malformed("an authority is not in PEM form"))?;
            if !seen.iter().any(|known| **known == *der) {
                seen.push(der.as_ref().into());
                all.push_str(&block);
            }
        }
    }
    Ok(all)
}

/// The certificates of a file as texts of their own.
fn pem_blocks(text: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    text.split_inclusive(END)
        .filter(|block| block.contains(END))
        .filter_map(|block| Some(format!("{}\n", &block[block.find("-----BEGIN")?..])))
        .collect()
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}

#[cfg(test)]
#[path = "renewal_tests.rs"]
mod tests;
