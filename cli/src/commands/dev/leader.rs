//! `cfs dev leader`.

use std::process::ExitCode;
use std::time::Duration;

use super::SiteArgs;
use crate::dev::{self, Cluster};

/// How long the move may take.
const LIMIT: Duration = Duration::from_secs(15);

/// Arguments of `cfs dev leader`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    site: SiteArgs,
    /// Keep it there for so long, although another site would be preferred
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=86_400))]
    hold: u64,
}

/// Runs the command.
///
/// # Errors
/// When no control process answers, or the move fails.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::look(&args.site.dir)?;
    let index = cluster.index(&args.site.site)?;
    let done = dev::lead(&cluster, index, Duration::from_secs(args.hold), LIMIT).await?;
    let text = if done.text.is_empty() { format!("{} leads", args.site.site) } else { done.text };
    anstream::eprintln!("{text}");
    Ok(ExitCode::SUCCESS)
}
