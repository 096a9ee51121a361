//! `cfs admin replication enroll`.

use std::process::ExitCode;

use cfs_model::SiteName;
use cfs_rpc::v1::EnrollRequest;
use cfs_rpc::v1::admin_request::Kind;

use super::{change, redeem};
use crate::Context;

/// Arguments of `cfs admin replication enroll`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A site that is enrolled: the primary, or any other
    #[arg(long, value_name = "SITE")]
    primary: SiteName,
    /// As a witness: it votes, stores nothing and never becomes primary
    #[arg(long)]
    witness: bool,
    /// A token that `invite` printed for this site, which has no certificates yet
    #[arg(long, value_name = "TOKEN", env = "CFS_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Also if this site is enrolled: journal and store are put aside, and another site's store is copied anew
    #[arg(long, conflicts_with = "witness")]
    force_rebuild: bool,
}

/// Runs the command. A site that is enrolled already says so.
///
/// # Errors
/// When the control process refuses or cannot be reached.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let flag = match (args.witness, args.force_rebuild) {
        (true, _) => " --witness",
        (false, true) => " --force-rebuild",
        (false, false) => "",
    };
    match &args.token {
        Some(token) => {
            let again = format!("cfs admin replication enroll --primary {}{flag}", args.primary);
            redeem::redeem(context, token, &again).await?;
        }
        None => redeem::check_certificates(context, &args.primary).await?,
    }
    let request =
        EnrollRequest { primary: args.primary.to_string(), witness: args.witness, force_rebuild: args.force_rebuild };
    let action = if args.force_rebuild { "rebuild this site" } else { "enrol this site" };
    change::make(context, "enroll", action, Kind::Enroll(request)).await
}
