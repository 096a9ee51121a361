//! The command line's grammar.

use std::path::PathBuf;

use clap::{ArgAction, Parser};

use crate::commands::Command;
use crate::output::Format;

/// Where help lists the flags that every command takes.
const HEADING: &str = "Options of every command";

/// Replicates a file system's metadata journal between sites.
#[derive(Debug, Parser)]
#[command(name = "cfs", version, about, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Flags that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// The site's configuration file
    #[arg(long, global = true, help_heading = HEADING, value_name = "PATH", env = "CFS_CONFIG", default_value = cfs_config::DEFAULT_FILE)]
    pub config: PathBuf,
    /// How to print data; a table unless the command says otherwise
    #[arg(short, long, global = true, help_heading = HEADING, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Print without colours; so does the variable NO_COLOR
    #[arg(long, global = true, help_heading = HEADING)]
    pub no_color: bool,
    /// Say more on standard error; twice: still more
    #[arg(short, long, global = true, help_heading = HEADING, action = ArgAction::Count)]
    pub verbose: u8,
}
