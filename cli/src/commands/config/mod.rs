//! `cfs config`: look at the configuration.

use std::process::ExitCode;

use crate::Context;

pub mod check;
pub mod show;

/// Verbs of `cfs config`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check the configuration and list everything that is wrong with it
    Check,
    /// Show every setting and where it comes from
    Show,
}

impl Command {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check => check::run(context),
            Self::Show => show::run(context),
        }
    }
}
