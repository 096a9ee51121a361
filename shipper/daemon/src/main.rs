//! `cfs-shipper`: the data path of one site.

use std::path::PathBuf;

use clap::Parser;

/// Group-commits the journal, streams it between sites and applies it to the metadata store.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file
    #[arg(long, env = "CFS_CONFIG", default_value = cfs_config::DEFAULT_FILE)]
    config: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    cfs_shipper::main_with(cfs_config::Config::load(Some(&args.config), &[])?)
}
