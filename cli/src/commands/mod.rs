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
pub mod preflight;
pub mod replication;
pub mod service;
pub mod tls;

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
    /// A tour on this machine: two sites and a witness, a real tree, a planned switchover, the loss of the primary, a verdict
    Demo(demo::Args),
    /// Clusters on this machine, for trying things out
    #[command(subcommand)]
    Dev(dev::Command),
    /// Write to and look into the journal
    #[command(subcommand)]
    Journal(journal::Command),
    /// Write manual pages to a directory
    Man(man::Args),
    /// Check what should be so before a site goes into production; exits with 0 PASS, 1 WARN, 2 FAIL
    Preflight(preflight::Args),
    /// The data path's daemon
    #[command(name = "__shipper", hide = true)]
    Shipper(DaemonArgs),
    /// The control process
    #[command(name = "__control", hide = true)]
    Control(DaemonArgs),
    /// The fault proxy of a cluster made by `cfs dev up`
    #[command(name = "__proxy", hide = true)]
    Proxy(ProxyArgs),
    /// What the units of a service manager run beside the daemons
    #[command(name = "__service", hide = true, subcommand)]
    Service(service::Command),
}

/// Arguments of the hidden entries that run daemons.
#[derive(Debug, clap::Args)]
pub struct DaemonArgs {
    /// Leave the session of the terminal
    #[arg(long)]
    pub detach: bool,
}

/// Arguments of the hidden entry that runs the fault proxy.
#[derive(Debug, clap::Args)]
pub struct ProxyArgs {
    /// Leave the session of the terminal
    #[arg(long)]
    pub detach: bool,
    /// The cluster's directory
    #[arg(long, value_name = "DIR")]
    pub dir: std::path::PathBuf,
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
            Self::Service(command) => command.run(context).await,
            Self::Preflight(args) => preflight::run(context, args).await,
            Self::Shipper(_) | Self::Control(_) | Self::Proxy(_) => {
                anyhow::bail!("a daemon needs a process of its own")
            }
        }
    }
}
