//! Asking the local shipper what an operator would ask it, over its own socket.

use std::time::Duration;

use cfs_model::Vector;
use cfs_model::op::StreamPosition;
use cfs_rpc::v1;
use cfs_rpc::v1::inspect_client::InspectClient;

use crate::control::Control;

/// The local shipper answers within this, or counts as silent.
const SHIPPER_LIMIT: Duration = Duration::from_millis(1500);
const MAX_REPLY_BYTES: usize = 64 * 1024 * 1024;

/// What the local shipper says.
pub(crate) async fn shipper(control: &Control) -> Result<v1::StatusReply, String> {
    let asking = async {
        let channel =
            cfs_rpc::unix::connect(&control.config.shipper_socket()).await.map_err(|error| error.to_string())?;
        let mut client = InspectClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES);
        let reply = client.status(v1::StatusRequest::default()).await;
        reply.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    };
    tokio::time::timeout(SHIPPER_LIMIT, asking).await.unwrap_or_else(|_| Err("the shipper does not answer".into()))
}

/// How far each stream goes, as far as this site's shipper has heard.
pub(crate) async fn sources(control: &Control) -> Vector {
    let Ok(reply) = shipper(control).await else { return Vector::new() };
    let cursors = reply.cursors.iter().take(Vector::MAX_STREAMS);
    let read = |cursor: &v1::StreamCursor| {
        let position = StreamPosition { site: cursor.site, incarnation: cursor.incarnation, lsn: cursor.source };
        Some((position.stream()?, position.lsn()))
    };
    cursors.filter_map(read).collect()
}
