//! Why certificates in a tls directory cannot be used.

use std::path::PathBuf;

use crate::identity::{self, Identity, Role};

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
