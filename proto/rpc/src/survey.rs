//! Looks at the certificates of every site at once: as served, and as they lie on disk here.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cfs_model::SiteName;

use crate::ca::{CA_CERTIFICATE, certificate_file};
use crate::certificate::Certificate;
use crate::clock::Clock;
use crate::identity::{self, Identity, Role};
use crate::look::look;
use crate::net::Net;
use crate::private_file;
use crate::tls::Material;
use crate::v1::{CertificateFile, ServedCertificate};

/// Longest that one port is waited for.
const LIMIT: Duration = Duration::from_millis(1800);
/// The role under which files of authorities are told.
pub const AUTHORITY: &str = "authority";
/// Most certificates that are told of `ca.pem`.
const MAX_AUTHORITIES: usize = 8;

/// A port whose certificate is to be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The site that should answer there.
    pub site: SiteName,
    /// In which role.
    pub role: Role,
    /// `HOST:PORT`.
    pub address: String,
}

impl Target {
    /// What listens on `listen` on this machine; an address that stands for all of them is reached by the loopback.
    pub fn here(site: &SiteName, role: Role, listen: &str) -> Self {
        let address = match listen.rsplit_once(':') {
            Some(("0.0.0.0" | "*", port)) => format!("127.0.0.1:{port}"),
            Some(("[::]", port)) => format!("[::1]:{port}"),
            _ => listen.to_owned(),
        };
        Self { site: site.clone(), role, address }
    }
}

/// Shakes hands with all of them at the same time; takes two seconds at most. The answers are in the order of the targets.
pub async fn served(
    net: &Arc<dyn Net>,
    material: &Material,
    now: SystemTime,
    targets: &[Target],
) -> Vec<ServedCertificate> {
    futures::future::join_all(targets.iter().map(async |target| {
        let mut told = ServedCertificate {
            site: target.site.to_string(),
            role: target.role.to_string(),
            address: target.address.clone(),
            ..ServedCertificate::default()
        };
        match look(&**net, material, &target.site, &target.address, now, LIMIT).await {
            Ok(seen) => {
                told.reached = true;
                told.trusted = seen.distrust.is_empty();
                told.error = seen.distrust;
                told.holder = seen.certificate.identity.map(|holder| holder.uri()).unwrap_or_default();
                told.serial = seen.certificate.serial;
                told.not_before = unix_s(seen.certificate.from);
                told.not_after = unix_s(seen.certificate.to);
            }
            Err(error) => told.error = error.to_string(),
        }
        told
    }))
    .await
}

/// What lies in a tls directory: each role's certificate, and the authorities. Whatever cannot be read or used says why,
/// and which file it is. Roles that only connect are told only if they are there. Blocks.
pub fn files(dir: &Path, clock: &Arc<dyn Clock>) -> Vec<CertificateFile> {
    let mut found: Vec<CertificateFile> = Role::ALL
        .into_iter()
        .map(|role| role_file(dir, role, clock))
        .filter(|file| !file.absent || file.role == Role::Shipper.as_str() || file.role == Role::Control.as_str())
        .collect();
    let path = dir.join(CA_CERTIFICATE);
    let file = || CertificateFile {
        role: AUTHORITY.to_owned(),
        path: path.display().to_string(),
        ..CertificateFile::default()
    };
    let failed = |error: String, absent| CertificateFile { error, absent, ..file() };
    match private_file::read(&path) {
        Ok(pem) => match Certificate::all_from_pem(&pem, MAX_AUTHORITIES) {
            Ok(all) => found.extend(all.iter().map(|certificate| told(file(), certificate))),
            Err(error) => found.push(failed(unparsed(&path, &error), false)),
        },
        Err(error) => found.push(failed(unread(&path, &error), error.kind() == std::io::ErrorKind::NotFound)),
    }
    found
}

/// Why others take nothing from a process of `own` that has this certificate at `now` (seconds since the Unix epoch); `None`: they
/// may.
pub fn useless(file: &CertificateFile, own: &Identity, now: i64) -> Option<String> {
    let path = &file.path;
    match () {
        () if !file.error.is_empty() => Some(file.error.clone()),
        () if file.holder != own.uri() => {
            Some(format!("{path} is a certificate for {:?}, and not for {own}", file.holder))
        }
        () if has_expired(file, now) => Some(format!("{path} has expired")),
        () if file.not_before > now => Some(format!("{path} is not valid yet, by the clock of {}", own.site)),
        () => None,
    }
}

/// Whether there is a certificate, and it has expired at `now`.
pub fn has_expired(file: &CertificateFile, now: i64) -> bool {
    !file.serial.is_empty() && file.not_after <= now
}

/// The certificate of one role in a tls directory, or why it cannot be read or used. Blocks.
pub fn role_file(dir: &Path, role: Role, clock: &Arc<dyn Clock>) -> CertificateFile {
    let path = dir.join(certificate_file(role));
    let file =
        CertificateFile { role: role.to_string(), path: path.display().to_string(), ..CertificateFile::default() };
    let pem = match private_file::read(&path) {
        Ok(pem) => pem,
        Err(error) => {
            let absent = error.kind() == std::io::ErrorKind::NotFound;
            return CertificateFile { error: unread(&path, &error), absent, ..file };
        }
    };
    match Certificate::all_from_pem(&pem, 1) {
        Ok(all) => {
            let error = Material::load(dir, role, clock).err().map(|error| error.to_string()).unwrap_or_default();
            all.first().map_or(file.clone(), |certificate| CertificateFile { error, ..told(file, certificate) })
        }
        Err(error) => CertificateFile { error: unparsed(&path, &error), ..file },
    }
}

fn unread(path: &Path, error: &std::io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

fn unparsed(path: &Path, error: &identity::Error) -> String {
    format!("{}: {error}", path.display())
}

fn told(file: CertificateFile, certificate: &Certificate) -> CertificateFile {
    CertificateFile {
        serial: certificate.serial.clone(),
        holder: certificate.identity.as_ref().map(|holder| holder.uri()).unwrap_or_default(),
        not_before: unix_s(certificate.from),
        not_after: unix_s(certificate.to),
        ..file
    }
}

/// Seconds since the Unix epoch.
pub fn unix_s(moment: SystemTime) -> i64 {
    let seconds = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "survey_tests.rs"]
mod tests;
