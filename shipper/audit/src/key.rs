//! The key that signs a trail's checkpoints and prunings: ed25519, made for this trail, kept beside it.

use std::io;
use std::path::Path;

use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::disk;
use crate::record::{from_hex, hex};

const FILE: &str = "trail.key";
const MAX_FILE_BYTES: u64 = 4096;

/// The private key.
pub(crate) struct Key(Ed25519KeyPair);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.public())
    }
}

impl Key {
    /// The key in `dir`; `None` when there is none.
    pub(crate) fn load(dir: &Path) -> io::Result<Option<Self>> {
        let Some(bytes) = disk::read(&dir.join(FILE), MAX_FILE_BYTES)? else { return Ok(None) };
        Self::parse(&bytes).map(Some)
    }

    /// Makes one and stores it in `dir`, in place of any that is there.
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| io::Error::other("the system gives no random numbers"))?;
        disk::replace(&dir.join(FILE), document.as_ref())?;
        Self::parse(document.as_ref())
    }

    fn parse(bytes: &[u8]) -> io::Result<Self> {
        Ed25519KeyPair::from_pkcs8(bytes)
            .map(Self)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{FILE} holds no ed25519 key")))
    }

    /// The public key in hex.
    pub(crate) fn public(&self) -> String {
        hex(self.0.public_key().as_ref())
    }

    /// Signs a text; in hex.
    pub(crate) fn sign(&self, text: &str) -> String {
        hex(self.0.sign(text.as_bytes()).as_ref())
    }
}

/// Whether `signature` is that of `text` by the holder of `public`; both in hex.
pub(crate) fn is_signed(public: &str, text: &str, signature: &str) -> bool {
    let (Some(public), Some(signature)) = (from_hex(public), from_hex(signature)) else { return false };
    UnparsedPublicKey::new(&ED25519, public).verify(text.as_bytes(), &signature).is_ok()
}
