//! `cfs admin replication rejoin`.

use std::process::ExitCode;

use cfs_model::SiteName;
use cfs_rpc::v1::RejoinRequest;
use cfs_rpc::v1::admin_request::Kind;

use super::change;
use crate::Context;

/// Arguments of `cfs admin replication rejoin`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site that is primary now
    #[arg(long, value_name = "SITE")]
    primary: SiteName,
}

/// Runs the command. A site that has rejoined says so. Nothing that this site holds is discarded.
///
/// # Errors
/// When the control process refuses or cannot be reached.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let request = RejoinRequest { primary: args.primary.to_string() };
    change::make(context, "rejoin", "bring this site back", Kind::Rejoin(request)).await
}
