//! Who a certificate says its holder is.
//!
//! The subject alternative names of every certificate hold the site's name as a DNS name, so that ordinary TLS
//! verification ties a connection to a site, and exactly one URI, `claudefs://CLUSTER/ROLE/SITE`.

use std::fmt;
use std::str::FromStr;

use cfs_model::{ClusterId, SiteName};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest certificate that is looked at.
pub const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
/// Most subject alternative names in a certificate.
pub const MAX_NAMES: usize = 8;
/// Longest identity URI: scheme, cluster id, longest role and longest site name.
pub const MAX_URI_BYTES: usize = SCHEME.len() + 36 + 1 + 8 + 1 + 63;

const SCHEME: &str = "claudefs://";

/// What a process may do, as its certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A site's shipper: serves and pulls streams.
    Shipper,
    /// A site's control process: votes, decides, hands out leases.
    Control,
    /// Appends entries to the journal.
    Producer,
    /// A person's shell: reads status and gives orders.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Shipper, Self::Control, Self::Producer, Self::Operator];

    /// The role as it stands in certificates and file names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shipper => "shipper",
            Self::Control => "control",
            Self::Producer => "producer",
            Self::Operator => "operator",
        }
    }

    /// Whether others connect to holders of this role; only their certificates are good for serving.
    pub const fn serves(self) -> bool {
        matches!(self, Self::Shipper | Self::Control)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| Error::Role(shorten(text)))
    }
}

/// Why a certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More bytes than any certificate of ours has.
    #[error("the certificate has {0} bytes, the limit is {MAX_CERTIFICATE_BYTES}")]
    TooLarge(usize),
    /// Not a DER-encoded X.509 certificate.
    #[error("the certificate cannot be parsed")]
    Malformed,
    /// No subject alternative names at all, or an unreadable extension.
    #[error("the certificate has no subject alternative names: it was not issued for this product")]
    NoNames,
    /// More names than any certificate of ours has.
    #[error("the certificate has {0} subject alternative names, the limit is {MAX_NAMES}")]
    TooManyNames(usize),
    /// There must be exactly one URI.
    #[error("the certificate has {0} URIs among its subject alternative names, exactly one is needed")]
    UriCount(usize),
    /// The URI is not of the form that is written.
    #[error("identity {0:?} is not of the form claudefs://CLUSTER/ROLE/SITE")]
    Uri(String),
    /// The URI names an unknown role.
    #[error("role {0:?} is unknown: use shipper, control, producer or operator")]
    Role(String),
    /// The site's name must also be the only DNS name.
    #[error("the certificate's DNS names do not say {0} and nothing else")]
    DnsName(SiteName),
}

/// Who holds a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster whose authority issued it.
    pub cluster: ClusterId,
    /// The site that the holder acts for, and no other.
    pub site: SiteName,
    /// What the holder may do.
    pub role: Role,
}

impl Identity {
    /// The identity as it stands in the certificate.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}/{}/{}", self.cluster, self.role, self.site)
    }

    /// Reads an identity URI. Only what [`Identity::uri`] writes is accepted, byte for byte.
    ///
    /// # Errors
    /// [`Error::Uri`] or [`Error::Role`]; the text is shortened to a bound.
    pub fn from_uri(uri: &str) -> Result<Self, Error> {
        let bad = || Error::Uri(shorten(uri));
        if uri.len() > MAX_URI_BYTES {
            return Err(bad());
        }
        let mut parts = uri.strip_prefix(SCHEME).ok_or_else(bad)?.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(cluster), Some(role), Some(site), None) => Ok(Self {
                cluster: cluster.parse().map_err(|_| bad())?,
                role: role.parse()?,
                site: site.parse().map_err(|_| bad())?,
            }),
            _ => Err(bad()),
        }
    }

    /// Reads the identity in a DER-encoded certificate. Says nothing about who issued it: verify the chain first.
    ///
    /// # Errors
    /// Whatever is missing, doubled or malformed; nothing is guessed.
    pub fn from_certificate(der: &[u8]) -> Result<Self, Error> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(Error::TooLarge(der.len()));
        }
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| Error::Malformed)?;
        if !rest.is_empty() {
            return Err(Error::Malformed);
        }
        let names = match certificate.subject_alternative_name() {
            Ok(Some(extension)) => &extension.value.general_names,
            Ok(None) | Err(_) => return Err(Error::NoNames),
        };
        if names.len() > MAX_NAMES {
            return Err(Error::TooManyNames(names.len()));
        }
        let uris: Vec<&str> = names.iter().filter_map(uri_of).collect();
        let [uri] = uris.as_slice() else { return Err(Error::UriCount(uris.len())) };
        let identity = Self::from_uri(uri)?;
        let mut others = names.iter().filter(|name| uri_of(name).is_none());
        match (others.next(), others.next()) {
            (Some(GeneralName::DNSName(name)), None) if *name == identity.site.as_str() => Ok(identity),
            _ => Err(Error::DnsName(identity.site)),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} (cluster {})", self.role, self.site, self.cluster)
    }
}

fn uri_of<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::URI(uri) => Some(uri),
        _ => None,
    }
}

/// Text from outside, at a length that fits an error message.
fn shorten(text: &str) -> String {
    text.chars().take(160).collect()
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
