//! `cfs admin replication health`.

use std::process::ExitCode;

use super::gather::{Gathered, gather};
use super::picture::Picture;
use super::watch::{self, Watch};
use crate::Context;
use crate::output::{self, Document};

mod certificates;
mod checks;
mod cluster;
mod finding;
mod journal;
mod report;
mod rows;

pub(super) use checks::findings;
pub(super) use cluster::is_fenced_off;
use report::Health;

/// Exit code when nothing is known.
const EXIT_UNKNOWN: u8 = 3;

/// Arguments of `cfs admin replication health`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Ask every site, and show what was checked and found in order, the figures behind it, and who hears whom
    #[arg(long)]
    detailed: bool,
    /// Again and again
    #[command(flatten)]
    watch: Watch,
}

/// Runs the command. Exits with 0 for OK, 1 for WARNING, 2 for CRITICAL, 3 for UNKNOWN. Answers within three seconds.
///
/// # Errors
/// Those of standard output. That nothing answers is UNKNOWN.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let look = async || -> anyhow::Result<Health> {
        Ok(match gather(context, args.detailed).await {
            Ok(gathered) => health_of(&gathered, args.detailed),
            Err(error) => {
                let site = context.config().map(|config| config.site.name.to_string()).ok();
                Health::unknown(site.as_deref(), &format!("{error:#}"), own_certificates(context).await)
            }
        })
    };
    if args.watch.is_on() {
        return watch::show(context, &args.watch, look).await;
    }
    let health = look().await?;
    output::print(context.format(), &health)?;
    Ok(health.exit_code())
}

/// Everything that was checked, as `--detailed` shows it.
pub(super) fn document(gathered: &Gathered) -> impl Document + use<> {
    health_of(gathered, true)
}

/// What is wrong with this site's own certificates, while none of its processes answers: that may be why.
async fn own_certificates(context: &Context) -> Option<finding::Finding> {
    let config = context.config().ok()?;
    certificates::own(config.site.name.as_str(), &super::certificates::useless(&config, false).await)
}

fn health_of(gathered: &Gathered, detailed: bool) -> Health {
    let picture = Picture::of(gathered);
    Health::of(gathered, &picture, findings(gathered, &picture), detailed)
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
