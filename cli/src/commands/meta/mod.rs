//! `cfs admin meta`: look into a site's metadata store.

use std::process::ExitCode;

use crate::Context;

pub mod consistency_check;
pub mod lookup;
pub mod ls;
mod node;
mod repair;

/// Verbs of `cfs admin meta`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show one inode: attributes, paths, extended attributes
    Lookup(lookup::Args),
    /// List a directory, or a whole tree
    Ls(ls::Args),
    /// Compare this site's metadata with every other site's, and check its structure
    ConsistencyCheck(consistency_check::Args),
}

/// Reads the number of an inode.
pub(super) fn inode_number(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| {
        "it is no inode number: those are whole numbers, in decimal; `cfs admin meta ls / -R` shows them beside the paths".into()
    })
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Lookup(args) => lookup::run(context, args).await,
            Self::Ls(args) => ls::run(context, args).await,
            Self::ConsistencyCheck(args) => consistency_check::run(context, args).await,
        }
    }
}
