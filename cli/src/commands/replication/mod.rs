//! `cfs admin replication`: how replication goes.

use std::process::ExitCode;

use crate::Context;

pub mod cursor;
pub mod lag;
pub mod metrics;
pub mod status;
pub mod watch;

/// Verbs of `cfs admin replication`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show this site's role, lag and peers
    Status(status::Args),
    /// Show how far each site is behind, and on whose word
    Lag(lag::Args),
    /// Show how far each stream has come
    #[command(subcommand)]
    Cursor(cursor::Command),
    /// Print this site's metrics
    Metrics(metrics::Args),
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Status(args) => status::run(context, args).await,
            Self::Lag(args) => lag::run(context, args).await,
            Self::Cursor(command) => command.run(context).await,
            Self::Metrics(args) => metrics::run(context, args).await,
        }
    }
}
