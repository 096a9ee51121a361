//! `cfs __service reload`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cfs_service::reload::{Outcome, outcome_file, told};
use rustix::process::{Pid, Signal, kill_process};

use crate::Context;
use crate::dev::Part;

const POLL: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(20);
/// Where the sockets are when the configuration does not say.
const RUN: &str = "/run/claudefs";

/// Arguments of `cfs __service reload`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which daemon
    #[arg(value_enum, value_name = "PROCESS")]
    part: Part,
    /// Its process number
    #[arg(value_name = "PID")]
    pid: u32,
}

/// Runs the command. Blocks.
///
/// # Errors
/// When the daemon cannot use what it read, or does not say so within 20 s.
pub fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let part = args.part.as_str();
    // What is wrong with the configuration is for the daemon to say.
    let run = context.config().map_or_else(|_| PathBuf::from(RUN), |config| config.paths.run.clone());
    let before = told(&run, part);
    let pid = i32::try_from(args.pid).ok().and_then(Pid::from_raw).context("no process has this number")?;
    kill_process(pid, Signal::HUP).with_context(|| format!("cannot signal process {}", args.pid))?;
    let deadline = Instant::now() + LIMIT;
    loop {
        match told(&run, part) {
            Some(outcome) if outcome.pid == args.pid && Some(&outcome) != before.as_ref() => return report(&outcome),
            _ if Instant::now() > deadline => anyhow::bail!(
                "the {part} process does not tell in {} what it read: journalctl -u claudefs-{part}",
                outcome_file(&run, part).display()
            ),
            _ => std::thread::sleep(POLL),
        }
    }
}

fn report(outcome: &Outcome) -> anyhow::Result<ExitCode> {
    for line in &outcome.said {
        anstream::eprintln!("{line}");
    }
    anyhow::ensure!(outcome.problem.is_empty(), "{}", outcome.problem);
    Ok(ExitCode::SUCCESS)
}
