//! `cfs dev partition`.

use std::process::ExitCode;

use super::LinkArgs;
use crate::dev::{Cluster, Fault};

/// Arguments of `cfs dev partition`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    link: LinkArgs,
}

/// Runs the command. Nothing passes the cut any more on return.
///
/// # Errors
/// When the fault proxy does not run.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let link = &args.link;
    let cluster = Cluster::look(&link.dir)?;
    cluster.change_link(&link.from, &link.to, link.one_way, |fault| Fault { cut: true, ..fault })?;
    anstream::eprintln!("the link of {} is cut", link.shown());
    Ok(ExitCode::SUCCESS)
}
