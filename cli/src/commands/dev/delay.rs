//! `cfs dev delay`.

use std::process::ExitCode;

use super::LinkArgs;
use crate::dev::{Cluster, Fault};

/// Longest delay.
const MAX_MS: u64 = 60_000;

/// Arguments of `cfs dev delay`.
#[derive(Debug, clap::Args)]
#[group(id = "fault", required = true, multiple = true, args = ["ms", "bandwidth"])]
pub struct Args {
    #[command(flatten)]
    link: LinkArgs,
    /// What each direction takes longer; 0: nothing
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=MAX_MS))]
    ms: Option<u64>,
    /// Most bytes a second in each direction; 0: as many as come
    #[arg(long, value_name = "BYTES_PER_S")]
    bandwidth: Option<u64>,
}

/// Runs the command. The delay is in force on return.
///
/// # Errors
/// When the fault proxy does not run.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let link = &args.link;
    let cluster = Cluster::look(&link.dir)?;
    cluster.change_link(&link.from, &link.to, link.one_way, |fault| Fault {
        delay_ms: args.ms.unwrap_or(fault.delay_ms),
        bandwidth: args.bandwidth.map_or(fault.bandwidth, |bytes| Some(bytes).filter(|bytes| *bytes > 0)),
        ..fault
    })?;
    anstream::eprintln!("the link of {} is changed", link.shown());
    Ok(ExitCode::SUCCESS)
}
