//! What an operator wants to know of a certificate.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::identity::{self, Identity, MAX_CERTIFICATE_BYTES};

/// A certificate, read but not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Who it says its holder is; an authority's names nobody.
    pub identity: Result<Identity, identity::Error>,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// Not valid before this moment.
    pub from: SystemTime,
    /// Not valid after this moment.
    pub to: SystemTime,
}

impl Certificate {
    /// Reads one in DER.
    ///
    /// # Errors
    /// When it cannot be parsed, or is larger than any of ours.
    pub fn from_der(der: &[u8]) -> Result<Self, identity::Error> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(identity::Error::TooLarge(der.len()));
        }
        let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|_| identity::Error::Malformed)?;
        let moment = |time: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).ok()?;
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
        };
        let validity = parsed.validity();
        let (Some(from), Some(to)) = (moment(validity.not_before), moment(validity.not_after)) else {
            return Err(identity::Error::Malformed);
        };
        // A leading zero byte only says that the number is not negative.
        let digits = parsed.raw_serial().iter().skip_while(|byte| **byte == 0);
        let serial = digits.fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        Ok(Self { identity: Identity::from_certificate(der), serial, from, to })
    }

    /// Reads every certificate of a file in PEM form, at most `limit`.
    ///
    /// # Errors
    /// [`identity::Error::Malformed`] when there is none, or one of them cannot be parsed.
    pub fn all_from_pem(pem: &[u8], limit: usize) -> Result<Vec<Self>, identity::Error> {
        let ders: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(limit).collect();
        let ders = ders.map_err(|_| identity::Error::Malformed)?;
        if ders.is_empty() {
            return Err(identity::Error::Malformed);
        }
        ders.iter().map(|der| Self::from_der(der)).collect()
    }
}
