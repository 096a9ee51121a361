//! Reaches a site's shipper.

use std::path::PathBuf;

use cfs_rpc::v1::inspect_client::InspectClient;
use tonic::transport::Channel;

use crate::Context;

/// Longest message that a shipper sends to an operator.
const MAX_REPLY_BYTES: usize = 64 * 1024 * 1024;
/// Why a shipper was not reached, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing usable listens there.
    #[error(
        "{source}\n  start it with `systemctl start claudefs-repl`, or `cfs dev start` in a cluster made by `cfs dev up`; \
         `--config` chooses the site, here {config}"
    )]
    Unreachable {
        /// The configuration that names the socket.
        config: PathBuf,
        /// What the attempt ended with; names the socket.
        source: cfs_rpc::unix::Error,
    },
    /// It answered with an error.
    #[error("the shipper could not {action}: {message}")]
    Refused {
        /// What was asked.
        action: String,
        /// What it said.
        message: String,
    },
    /// The connection ended.
    #[error(
        "the shipper went away while it was to {action}: {message}; see whether it runs with `cfs admin replication status`"
    )]
    Lost {
        /// What was asked.
        action: String,
        /// What the transport said.
        message: String,
    },
}

/// Connects to the operator's service of the site that `context` names.
///
/// # Errors
/// When the configuration cannot be read or nothing answers.
pub async fn inspect(context: &Context) -> anyhow::Result<InspectClient<Channel>> {
    let config = context.config()?;
    let channel = cfs_rpc::unix::connect(&config.shipper_socket()).await;
    let unreachable = |source| Error::Unreachable { config: context.config_path().to_owned(), source };
    Ok(inspect_on(channel.map_err(unreachable)?))
}

/// The operator's service on a connection.
pub fn inspect_on(channel: Channel) -> InspectClient<Channel> {
    InspectClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES)
}

/// The error for a status that a shipper answered with when asked to `action`.
pub fn failed(action: impl Into<String>) -> impl FnOnce(tonic::Status) -> Error {
    let action = action.into();
    move |status| {
        let message = status.message().to_owned();
        match status.code() {
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled => Error::Lost { action, message },
            _ => Error::Refused { action, message },
        }
    }
}
