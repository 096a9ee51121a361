//! Connecting to another site's shipper.

use cfs_config::Peer;
use cfs_rpc::connect::{Connector, Dial};
use cfs_rpc::identity::{Identity, Role};
use tonic::transport::Channel;

use crate::node::Node;

/// A channel to the shipper of `site`, which has proven that it is. An error tells which check failed.
pub(crate) async fn peer(node: &Node, site: &Peer) -> Result<Channel, String> {
    let expected = Identity { cluster: node.config.cluster.id, site: site.name.clone(), role: Role::Shipper };
    let connector = Connector::new(node.world.net.clone(), (*node.tls).clone());
    connector.dial(&site.peer, &expected).await.map_err(|error| error.to_string())
}
