//! Reaches a site's shipper and its control process.

use std::path::PathBuf;

use cfs_rpc::v1::admin_client::AdminClient;
use cfs_rpc::v1::inspect_client::InspectClient;
use tonic::transport::Channel;

use crate::Context;

/// Longest message that a shipper sends to an operator.
const MAX_REPLY_BYTES: usize = 64 * 1024 * 1024;
/// Longest message that a control process sends to an operator: 1000 events of 2 KiB each fit.
const MAX_CONTROL_REPLY_BYTES: usize = 16 * 1024 * 1024;

/// Why a shipper was not reached, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no shipper at this site, by its configuration.
    #[error("{site} is a witness and stores no data: run it on a site that does{}", named(.data_sites))]
    Witness {
        /// The witness.
        site: String,
        /// Sites of its configuration that store data.
        data_sites: Vec<String>,
    },
    /// Nothing usable listens there.
    #[error(
        "{source}\n  start it with `systemctl start claudefs-shipper`, or `cfs dev start` in a cluster made by `cfs dev up`; \
         `--config` chooses the site, here {config}"
    )]
    Unreachable {
        /// The configuration that names the socket.
        config: PathBuf,
        /// What the attempt ended with; names the socket.
        source: cfs_rpc::unix::Error,
    },
    /// The control process does not listen.
    #[error(
        "{source}\n  start it with `systemctl start claudefs-control`, or `cfs dev start` in a cluster made by `cfs dev up`; \
         `--config` chooses the site, here {config}"
    )]
    NoControl {
        /// The configuration that names the socket.
        config: PathBuf,
        /// What the attempt ended with; names the socket.
        source: cfs_rpc::unix::Error,
    },
    /// The control process's socket is closed to this user.
    #[error("may not connect to {0}: members of the group `claudefs` may read and root may change; run it with sudo")]
    Forbidden(PathBuf),
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

fn named(sites: &[String]) -> String {
    if sites.is_empty() { String::new() } else { format!(", {}", sites.join(" or ")) }
}

/// Connects to the operator's service of the site that `context` names.
///
/// # Errors
/// When the configuration cannot be read or says that there is no shipper, or nothing answers.
pub async fn inspect(context: &Context) -> anyhow::Result<InspectClient<Channel>> {
    let config = context.config()?;
    if config.site.witness {
        let data_sites = config.data_peers().map(|peer| peer.name.to_string()).collect();
        return Err(Error::Witness { site: config.site.name.to_string(), data_sites }.into());
    }
    let channel = cfs_rpc::unix::connect(&config.shipper_socket()).await;
    let unreachable = |source| Error::Unreachable { config: context.config_path().to_owned(), source };
    Ok(inspect_on(channel.map_err(unreachable)?))
}

/// Connects to the control process of the site that `context` names.
///
/// # Errors
/// When the configuration cannot be read or nothing answers.
pub async fn control(context: &Context) -> anyhow::Result<AdminClient<Channel>> {
    let config = context.config()?;
    let channel = cfs_rpc::unix::connect(&config.control_socket()).await.map_err(|source| match source {
        cfs_rpc::unix::Error::Forbidden(path) => Error::Forbidden(path),
        source => Error::NoControl { config: context.config_path().to_owned(), source },
    })?;
    Ok(AdminClient::new(channel).max_decoding_message_size(MAX_CONTROL_REPLY_BYTES))
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
