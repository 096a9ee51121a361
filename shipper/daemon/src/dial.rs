//! Connecting to another site's shipper.

use std::time::Duration;

use cfs_config::Peer;
use cfs_rpc::connect::{Connector, Dial};
use cfs_rpc::identity::{Identity, Role};
use tonic::transport::Channel;

use crate::node::Node;

/// When a connection cannot be made anew it is tried again after this.
const AGAIN_PAUSE: Duration = Duration::from_secs(30);

/// A channel to the shipper of `site`, which has proven that it is. An error tells which check failed.
pub(crate) async fn peer(node: &Node, site: &Peer) -> Result<Channel, String> {
    let expected = Identity { cluster: node.config.cluster.id, site: site.name.clone(), role: Role::Shipper };
    let connector = Connector::new(node.world.net.clone(), (*node.tls).clone());
    connector.dial(&site.peer, &expected).await.map_err(|error| error.to_string())
}

/// Another connection to a site that is connected, once it is due (certificates were replaced, or it is old): it stands before the
/// one in use is let go.
pub(crate) async fn again(node: &Node, site: &Peer) -> Channel {
    node.tls.due(site.id.0.wrapping_mul(83)).await;
    loop {
        match peer(node, site).await {
            Ok(channel) => return channel,
            Err(error) => tracing::debug!(site = %site.name, error, "not connected anew; the old connection stays"),
        }
        tokio::time::sleep(AGAIN_PAUSE).await;
    }
}
