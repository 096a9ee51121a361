//! Why a handshake failed, in words that tell an operator what to look at.

use std::io;

use rustls::{CertificateError, Error as Tls};

/// What the TLS library said about the other end.
pub(crate) fn reason(error: &io::Error) -> String {
    match tls_error(error) {
        Some(error) => tls_reason(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "it went away during the handshake".to_owned(),
        None => error.to_string(),
    }
}

/// The same for an error of the TLS library.
pub(crate) fn tls_reason(error: &Tls) -> String {
    match error {
        Tls::InvalidCertificate(error) => certificate_reason(error),
        Tls::NoCertificatesPresented => "it presented no certificate".to_owned(),
        Tls::AlertReceived(alert) => format!("it refused our certificate or our TLS ({alert:?})"),
        Tls::PeerIncompatible(what) => format!("it does not speak TLS 1.3 as we do ({what:?})"),
        Tls::InvalidMessage(_) | Tls::InappropriateMessage { .. } | Tls::InappropriateHandshakeMessage { .. } => {
            "it does not speak TLS".to_owned()
        }
        other => other.to_string(),
    }
}

fn certificate_reason(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate was not issued by our cluster's authority".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: compare the clocks".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not meant for this end of a connection".to_owned()
        }
        other => format!("its certificate is not usable: {other}"),
    }
}

/// The TLS library's error inside an error of a stream.
pub(crate) fn tls_error(error: &io::Error) -> Option<&Tls> {
    error.get_ref()?.downcast_ref()
}
