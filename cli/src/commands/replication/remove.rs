//! `cfs admin replication remove`.

use std::process::ExitCode;

use cfs_model::SiteName;
use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{Done, RemoveRequest};

use super::ask::{self, Answer};
use super::change::{self, Outcome};
use super::confirm;
use super::refusal::Refusal;
use crate::{Context, output};

/// Arguments of `cfs admin replication remove`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site to remove
    #[arg(value_name = "SITE")]
    site: SiteName,
    /// Although it may hold more of its stream than the others: what they lack is lost to them
    #[arg(long)]
    force: bool,
    /// Without a question
    #[arg(long)]
    yes: bool,
}

/// Runs the command.
///
/// # Errors
/// When it is not confirmed, or the control process refuses or cannot be reached.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let site = args.site.to_string();
    let request = RemoveRequest { site: site.clone(), force: args.force };
    // Nobody is asked about what cannot be.
    if let Some(answer) = planned(context, request.clone()).await?.filter(|answer| answer.body.nothing_to_do) {
        output::print(context.format(), &Outcome::of("remove", answer))?;
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes {
        anstream::eprintln!(
            "{site} will be a member no more: its streams are closed, and later entries of it are refused. What only it \
             holds stays there{}.",
            if args.force { ", and the others go on without it" } else { "" }
        );
    }
    let force = if args.force { " --force" } else { "" };
    confirm::on_terminal(args.yes, &site, format!("cfs admin replication remove {site}{force}")).await?;
    change::make(context, "remove", "remove the site", Kind::Remove(request)).await
}

/// What stands against a removal comes as an error; `None`: the control process is of a version that cannot tell beforehand.
///
/// # Errors
/// Why it would be refused, or why the control process cannot be reached.
pub(super) async fn planned(context: &Context, request: RemoveRequest) -> anyhow::Result<Option<Answer<Done>>> {
    match ask::query::<Done>(context, Kind::PlanRemoval(request)).await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.downcast_ref::<Refusal>().is_some_and(|refusal| &*refusal.code == "UNKNOWN") => Ok(None),
        Err(error) => Err(error),
    }
}
