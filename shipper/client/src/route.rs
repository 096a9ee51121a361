//! Where sessions take place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cfs_rpc::unix;
use tonic::transport::Channel;

use crate::options::Target;
use crate::sites::Sites;

/// Bound on one attempt to connect to a socket of this machine.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

pub(crate) enum Route {
    /// One shipper, whoever is primary.
    Local(PathBuf),
    /// Whichever site is primary.
    Sites(Sites),
}

impl Route {
    /// `None` if the target names no site. Must be called within a tokio runtime.
    pub(crate) fn new(target: Target, max_pause: Duration) -> Option<Self> {
        match target {
            Target::Unix(path) => Some(Self::Local(path)),
            Target::Tls { sites, .. } if sites.is_empty() => None,
            Target::Tls { dial, cluster, sites } => Some(Self::Sites(Sites::new(dial, cluster, sites, max_pause))),
        }
    }
}

/// Connects to a shipper of this machine.
pub(crate) async fn connect(path: &Path) -> Result<Channel, String> {
    match tokio::time::timeout(CONNECT_LIMIT, unix::connect(path)).await {
        Ok(connected) => connected.map_err(|error| error.to_string()),
        Err(_) => Err(format!("{} did not take the connection within {CONNECT_LIMIT:?}", path.display())),
    }
}
