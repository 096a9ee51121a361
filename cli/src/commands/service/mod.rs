//! `cfs __service`: what the units of deploy/systemd run beside the daemons.

use std::process::ExitCode;

use crate::Context;

pub mod await_reload;
pub mod relay;
pub mod reload;
pub mod stores_data;

/// Verbs of `cfs __service`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print the log lines of units for as long as they run
    Relay(relay::Args),
    /// Let a daemon read its configuration again, and wait until it has
    Reload(reload::Args),
    /// Wait until units have read their configuration again
    AwaitReload(await_reload::Args),
    /// End with 1 if this site is a witness, and so has no shipper
    StoresData,
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Relay(args) => relay::run(args).await,
            Self::Reload(args) => reload::run(context, &args),
            Self::AwaitReload(args) => await_reload::run(&args).await,
            Self::StoresData => Ok(stores_data::run(context)),
        }
    }
}
