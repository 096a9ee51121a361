//! Which address to connect to next.

use std::sync::Arc;
use std::time::Duration;

use cfs_model::{ClusterId, SiteName};
use cfs_rpc::connect::Dial;
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::unix;
use tonic::transport::Channel;

use crate::options::Target;

/// Bound on one attempt to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// Sites that are remembered; a cluster has fewer.
const MAX_SITES: usize = 256;

pub(crate) struct Route {
    target: Target,
    next: usize,
}

impl Route {
    /// `None` if the target names no site.
    pub(crate) fn new(target: Target) -> Option<Self> {
        let usable = !matches!(&target, Target::Tls { sites, .. } if sites.is_empty());
        usable.then_some(Self { target, next: 0 })
    }

    /// Whether the shipper reads the same boot clock as this process.
    pub(crate) const fn is_local(&self) -> bool {
        matches!(self.target, Target::Unix(_))
    }

    /// Who is connected to next, for messages.
    pub(crate) fn describe(&self) -> String {
        match &self.target {
            Target::Unix(path) => path.display().to_string(),
            Target::Tls { sites, .. } => {
                let (site, address) = &sites[self.next % sites.len()];
                format!("{site} at {address}")
            }
        }
    }

    pub(crate) async fn connect(&self) -> Result<Channel, String> {
        let connecting = async {
            match &self.target {
                Target::Unix(path) => unix::connect(path).await.map_err(|error| error.to_string()),
                Target::Tls { dial, cluster, sites } => {
                    dial_site(dial, *cluster, &sites[self.next % sites.len()]).await
                }
            }
        };
        let late = |_| format!("{} did not take the connection within {CONNECT_LIMIT:?}", self.describe());
        tokio::time::timeout(CONNECT_LIMIT, connecting).await.map_err(late)?
    }

    /// The next site's turn.
    pub(crate) fn turn(&mut self) {
        self.next = self.next.wrapping_add(1);
    }

    /// Goes to `site` next, at `address` if that is known. `false` if this target does not lead there.
    pub(crate) fn follow(&mut self, site: &str, address: &str) -> bool {
        let Target::Tls { sites, .. } = &mut self.target else { return false };
        let Ok(name) = SiteName::new(site) else { return false };
        let known = sites.iter().position(|(known, _)| *known == name);
        match known {
            Some(at) if !address.is_empty() => sites[at].1 = address.to_owned(),
            Some(_) => {}
            None if address.is_empty() || sites.len() >= MAX_SITES => return false,
            None => sites.push((name, address.to_owned())),
        }
        self.next = known.unwrap_or(sites.len() - 1);
        true
    }
}

async fn dial_site(dial: &Arc<dyn Dial>, cluster: ClusterId, site: &(SiteName, String)) -> Result<Channel, String> {
    let expected = Identity { cluster, site: site.0.clone(), role: Role::Shipper };
    dial.dial(&site.1, &expected).await.map_err(|error| error.to_string())
}
