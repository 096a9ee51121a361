//! Sites with real certificates, for tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cfs_model::{ClusterId, SiteName};
use tempfile::TempDir;

use crate::ca::{Authority, Validity, install};
use crate::clock::RealClock;
use crate::identity::{Identity, Role};
use crate::tls::SharedTls;

pub(crate) const CLUSTER: ClusterId = ClusterId([1; 16]);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A directory with an authority and one tls directory for each site.
pub(crate) struct Cluster {
    dir: TempDir,
    pub(crate) authority: Authority,
}

pub(crate) fn identity(site: &str, role: Role) -> Identity {
    Identity { cluster: CLUSTER, site: SiteName::new(site).expect("a name"), role }
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let authority = Authority::create(&dir.path().join("ca"), CLUSTER, SystemTime::now()).expect("an authority");
        Self { dir, authority }
    }

    pub(crate) fn tls_dir(&self, site: &str) -> PathBuf {
        self.dir.path().join(site)
    }

    /// Issues and installs; good for an hour.
    pub(crate) fn install(&self, identity: &Identity) -> PathBuf {
        self.install_for(identity, Validity::lasting(SystemTime::now(), HOUR))
    }

    pub(crate) fn install_for(&self, identity: &Identity, validity: Validity) -> PathBuf {
        let dir = self.tls_dir(identity.site.as_str());
        let issued = self.authority.issue(identity, validity).expect("a certificate");
        install(&dir, identity.role, self.authority.cert_pem(), &issued).expect("installed");
        dir
    }

    /// What a site's process would load.
    pub(crate) fn site(&self, site: &str, role: Role) -> SharedTls {
        load(&self.install(&identity(site, role)), role)
    }

    /// The same with a certificate that expired a minute ago.
    pub(crate) fn expired_site(&self, site: &str, role: Role) -> SharedTls {
        let now = SystemTime::now();
        let validity = Validity { from: now - HOUR, to: now - Duration::from_secs(60) };
        load(&self.install_for(&identity(site, role), validity), role)
    }
}

pub(crate) fn load(dir: &Path, role: Role) -> SharedTls {
    SharedTls::load(dir, role, Arc::new(RealClock)).expect("material loads")
}
