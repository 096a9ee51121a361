//! `cfs dev heal`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::dev::{Cluster, Fault};

/// Arguments of `cfs dev heal`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster's directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The site that sends; without sites every link is healed
    #[arg(value_name = "FROM", requires = "to")]
    from: Option<String>,
    /// The site that receives
    #[arg(value_name = "TO")]
    to: Option<String>,
    /// Only what travels from FROM to TO, not what travels back
    #[arg(long, requires = "to")]
    one_way: bool,
}

/// Runs the command. Cuts and delays are gone on return; what they held up goes on.
///
/// # Errors
/// When the fault proxy does not run.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::look(&args.dir)?;
    match (&args.from, &args.to) {
        (Some(from), Some(to)) => {
            cluster.change_link(from, to, args.one_way, |_| Fault::default())?;
            anstream::eprintln!("the link of {from} {} {to} is healed", if args.one_way { "to" } else { "and" });
        }
        _ => {
            cluster.heal()?;
            anstream::eprintln!("every link is healed");
        }
    }
    Ok(ExitCode::SUCCESS)
}
