//! `cfs dev`: clusters on one machine, for trying things out.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::Context;
use crate::dev::{End, Part};

pub mod delay;
pub mod down;
pub mod heal;
pub mod kill;
pub mod leader;
pub mod partition;
pub mod pause;
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
    /// Show what runs, and which links have faults
    Status(status::Args),
    /// Start a site's processes
    Start(PartArgs),
    /// Stop a site's processes; a primary hands its role over first
    Stop(StopArgs),
    /// End all of a site's processes at once with SIGKILL
    Kill(PartArgs),
    /// Stop a site's processes, a primary handing its role over first, and start them
    Restart(StopArgs),
    /// Stop a site's processes in their tracks (SIGSTOP)
    Pause(SiteArgs),
    /// Let paused processes of a site go on (SIGCONT)
    Resume(SiteArgs),
    /// Cut the link between two sites
    Partition(partition::Args),
    /// Slow down the link between two sites
    Delay(delay::Args),
    /// Heal a link, or all
    Heal(heal::Args),
    /// Move the control plane's leadership to a site
    Leader(leader::Args),
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

/// What of a site.
#[derive(Debug, clap::Args)]
pub struct PartArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Only this process of it
    #[arg(long, value_enum, value_name = "PROCESS")]
    only: Option<Part>,
}

/// What of a site to stop, and how.
#[derive(Debug, clap::Args)]
pub struct StopArgs {
    #[command(flatten)]
    part: PartArgs,
    /// At once: nothing is handed over
    #[arg(long)]
    now: bool,
}

impl StopArgs {
    const fn how(&self) -> End {
        if self.now { End::Now } else { End::HandOver }
    }
}

/// Two sites of a cluster.
#[derive(Debug, clap::Args)]
pub struct LinkArgs {
    /// The cluster's directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The site that sends
    #[arg(value_name = "FROM")]
    from: String,
    /// The site that receives
    #[arg(value_name = "TO")]
    to: String,
    /// Only what travels from FROM to TO, not what travels back
    #[arg(long)]
    one_way: bool,
}

impl LinkArgs {
    /// The link, for people.
    fn shown(&self) -> String {
        format!("{} {} {}", self.from, if self.one_way { "to" } else { "and" }, self.to)
    }
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
            Self::Pause(args) => pause::run(&args, true),
            Self::Resume(args) => pause::run(&args, false),
            Self::Partition(args) => partition::run(&args),
            Self::Delay(args) => delay::run(&args),
            Self::Heal(args) => heal::run(&args),
            Self::Leader(args) => leader::run(args).await,
            Self::Down(args) => down::run(args),
        }
    }
}
