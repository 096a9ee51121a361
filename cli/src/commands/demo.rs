//! `cfs demo`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use cfs_model::SiteName;
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::dev::up::look_around;
use crate::demo::IDENTICAL;
use crate::dev::{Cluster, Plan};
use crate::{Context, output};

mod tour;

use tour::Tour;

const WITNESS: &str = "site-w";

/// Arguments of `cfs demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tree whose metadata is replicated; it is only read
    #[arg(long, value_name = "PATH", default_value = "/usr/share")]
    tree: PathBuf,
    /// Leave the cluster running, and say how to look around
    #[arg(long)]
    keep: bool,
    /// Leave out the pauses for reading, the live changes and the check of every register
    #[arg(long)]
    fast: bool,
    /// Damage one value at the second site, to see the comparison fail
    #[arg(long)]
    tamper: bool,
}

/// Runs the command. Exits with 1 if anything differs or is missing. What it started is ended, however it ends.
///
/// # Errors
/// When the sites cannot be started, the tree cannot be imported, the primary does not move, or the run is interrupted.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let tree = std::fs::canonicalize(&args.tree).with_context(|| format!("cannot read {}", args.tree.display()))?;
    anyhow::ensure!(tree.is_dir(), "{} is no directory: choose another --tree", tree.display());
    // From here on a signal waits until what was started can be ended.
    let mut signals = Signals::register()?;
    let place = tempfile::Builder::new().prefix("cfs-demo-").tempdir()?;
    let mut cluster = open(place.path())?;
    let outcome = tokio::select! {
        outcome = Tour::new(&mut cluster, &tree, &args).run() => outcome,
        name = signals.next() => Err(anyhow::anyhow!("interrupted by {name}")),
    };
    if args.keep && outcome.is_ok() {
        look_around(&cluster);
        let _kept = place.keep();
    } else {
        end(cluster, place)?;
    }
    let outcome = outcome?;
    output::print(context.format(), &outcome)?;
    Ok(if outcome.verdict == IDENTICAL { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn open(dir: &Path) -> anyhow::Result<Cluster> {
    let plan = Plan { witness: Some(SiteName::new(WITNESS)?), ..Plan::default() };
    Ok(Cluster::open_or_create(dir, &plan)?)
}

/// Ends every process and removes the directory, unless one is left whose record it holds.
fn end(cluster: Cluster, place: TempDir) -> anyhow::Result<()> {
    cluster.down(true).or_else(|error| {
        let dir = place.keep();
        Err(error).with_context(|| format!("something is left: end it with `cfs dev down --dir {}`", dir.display()))
    })
}

/// What asks a command to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn register() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
