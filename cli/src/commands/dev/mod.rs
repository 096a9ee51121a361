//! `cfs dev`: clusters on one machine, for trying things out.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::Context;

pub mod down;
pub mod kill;
pub mod restart;
pub mod start;
pub mod status;
pub mod stop;
pub mod up;

/// Verbs of `cfs dev`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a cluster in a directory and start it; harmless when it is there already
    Up(up::Args),
    /// Show what runs
    Status(status::Args),
    /// Start a site's shipper
    Start(SiteArgs),
    /// Stop a site's shipper
    Stop(SiteArgs),
    /// End a site's shipper with SIGKILL
    Kill(SiteArgs),
    /// Stop a site's shipper and start it
    Restart(SiteArgs),
    /// Stop the whole cluster
    Down(down::Args),
}

/// Which site of which cluster.
#[derive(Debug, clap::Args)]
pub struct SiteArgs {
    /// The cluster's directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The site's name
    #[arg(value_name = "SITE")]
    site: String,
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Up(args) => up::run(args).await,
            Self::Status(args) => status::run(context, args).await,
            Self::Start(args) => start::run(args).await,
            Self::Stop(args) => stop::run(&args),
            Self::Kill(args) => kill::run(&args),
            Self::Restart(args) => restart::run(args).await,
            Self::Down(args) => down::run(args),
        }
    }
}
