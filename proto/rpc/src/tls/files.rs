//! The three files of a role in a tls directory.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use super::Error;
use crate::ca::{CA_CERTIFICATE, certificate_file, key_file};
use crate::identity::Role;
use crate::private_file;
use crate::renewal::next_key_file;

/// Their content, unchecked but for the key's mode.
pub(super) struct Files {
    pub(super) authority: Vec<u8>,
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
    /// A key that waits for its certificate, or whose certificate has just been put in place.
    pub(super) next_key: Vec<u8>,
}

impl Files {
    pub(super) fn read(dir: &Path, role: Role) -> Result<Self, Error> {
        let read = |name: &str| {
            let path = dir.join(name);
            private_file::read(&path).map_err(|source| Error::Read { path, source })
        };
        // The key that waits first: if it moves into place meanwhile, it is seen there or here.
        let next_path = dir.join(next_key_file(role));
        let next_key = match private_file::read(&next_path) {
            Ok(key) if !private_file::is_exposed(&next_path).unwrap_or(true) => key,
            _ => Vec::new(),
        };
        let key_path = dir.join(key_file(role));
        let key = read(&key_file(role))?;
        match private_file::is_exposed(&key_path) {
            Ok(false) => {}
            Ok(true) => return Err(Error::Exposed(key_path)),
            Err(source) => return Err(Error::Read { path: key_path, source }),
        }
        Ok(Self { authority: read(CA_CERTIFICATE)?, certificate: read(&certificate_file(role))?, key, next_key })
    }

    /// What others see of it, without the keys.
    pub(super) fn shown(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.authority, &self.certificate).hash(&mut hasher);
        hasher.finish()
    }

    /// Tells whether files have changed; nothing more depends on it.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.authority, &self.certificate, &self.key).hash(&mut hasher);
        hasher.finish()
    }
}
