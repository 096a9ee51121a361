//! One module for each noun, one file for each verb.

use std::process::ExitCode;

use crate::Context;

pub mod admin;
pub mod bench;
pub mod completions;
pub mod config;
pub mod demo;
pub mod dev;
pub mod journal;
pub mod man;
pub mod meta;
pub mod replication;

/// What `cfs` can do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Look into a running cluster and steer it
    #[command(subcommand)]
    Admin(admin::Command),
    /// Measure
    #[command(subcommand)]
    Bench(bench::Command),
    /// Print a script that completes command lines
    Completions(completions::Args),
    /// Look at the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Replicate a real tree between two sites on this machine, and compare every path
    Demo(demo::Args),
    /// Clusters on this machine, for trying things out
    #[command(subcommand)]
    Dev(dev::Command),
    /// Write to and look into the journal
    #[command(subcommand)]
    Journal(journal::Command),
    /// Write manual pages to a directory
    Man(man::Args),
    /// The daemon
    #[command(name = "__shipper", hide = true)]
    Shipper(ShipperArgs),
}

/// Arguments of the hidden entry that runs the daemon.
#[derive(Debug, clap::Args)]
pub struct ShipperArgs {
    /// Leave the session of the terminal
    #[arg(long)]
    pub detach: bool,
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// What happened, to what, and what to do next.
    pub async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Admin(command) => command.run(context).await,
            Self::Bench(command) => command.run(context).await,
            Self::Completions(args) => completions::run(&args),
            Self::Config(command) => command.run(context),
            Self::Demo(args) => demo::run(context, args).await,
            Self::Dev(command) => command.run(context).await,
            Self::Journal(command) => command.run(context).await,
            Self::Man(args) => man::run(&args),
            Self::Shipper(_) => anyhow::bail!("the daemon needs a process of its own"),
        }
    }
}
