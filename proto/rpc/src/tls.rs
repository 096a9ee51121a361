//! The certificate that a process shows, the authority that it trusts, and changing both while it runs.

mod error;
mod files;
mod joining;
mod material;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

pub use self::error::Error;
use self::files::Files;
pub(crate) use self::joining::{joining_client, trusts_alone};
pub use self::material::{Expiry, Material};
use crate::ca::certificate_file;
use crate::clock::Clock;
use crate::identity::{Identity, Role};

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
        self.current().identity().clone()
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
        if files.fingerprint() == running.fingerprint() {
            return Ok(false);
        }
        let fresh = Material::from_files(dir, *role, clock, &files)?;
        if fresh.identity() != running.identity() {
            return Err(Error::Changed {
                path: dir.join(certificate_file(*role)),
                found: Box::new(fresh.identity().clone()),
                running: Box::new(running.identity().clone()),
            });
        }
        let news = fresh.shown() != running.shown();
        material.store(Arc::new(fresh));
        if news {
            reloads.send_modify(|count| *count += 1);
        }
        Ok(news)
    }

    /// Completes when a connection that is made now should be made anew, beside the old one and without a break: our
    /// certificate was replaced since, or it has lasted for [`MAX_CONNECTION_AGE`]. `spread` (0 to 255) sets connections apart,
    /// so that not all are made at the same moment.
    pub async fn due(&self, spread: u8) {
        let mut reloads = self.inner.reloads.subscribe();
        let part = f64::from(spread) / 256.0;
        // The sender lives in `self`.
        let _ = tokio::time::timeout(MAX_CONNECTION_AGE.mul_f64(0.8 + 0.2 * part), reloads.changed()).await;
        tokio::time::sleep(RENEWAL_SPREAD.mul_f64(part)).await;
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

/// A connection that lasts longer is made anew, so that both ends show their newest certificates.
pub const MAX_CONNECTION_AGE: Duration = Duration::from_secs(3600);
/// Over so long connections are made anew after a certificate was replaced.
const RENEWAL_SPREAD: Duration = Duration::from_secs(2);

/// How often live connections look whether their peer's certificate has expired.
const TRUST_CHECK_INTERVAL: Duration = Duration::from_secs(30);

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
