//! The control process's program.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "cfs-control", version, about = "Owns membership, epochs, leases and the primary role of one cluster")]
struct Args {
    /// The site's configuration file
    #[arg(long, value_name = "PATH", env = "CFS_CONFIG", default_value = cfs_config::DEFAULT_FILE)]
    config: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    cfs_control::main_with(cfs_config::Config::load(Some(&args.config), &[])?)?;
    Ok(ExitCode::SUCCESS)
}
