//! What every command is given.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cfs_config::Config;

use crate::args::Global;
use crate::output::Format;

/// The global flags, and what they lead to.
#[derive(Debug, Clone)]
pub struct Context {
    config_path: PathBuf,
    format: Option<Format>,
    verbose: bool,
}

impl Context {
    /// Takes the global flags.
    pub fn new(global: &Global) -> Self {
        Self { config_path: global.config.clone(), format: global.output, verbose: global.verbose > 0 }
    }

    /// The same flags with another configuration file.
    #[must_use]
    pub fn with_config(&self, path: impl Into<PathBuf>) -> Self {
        Self { config_path: path.into(), ..self.clone() }
    }

    /// The configuration file that commands of this run read.
    pub fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// How data is to be printed: a table unless another format was asked for.
    pub const fn format(&self) -> Format {
        match self.format {
            Some(format) => format,
            None => Format::Table,
        }
    }

    /// How data is to be printed, if that was asked for.
    pub const fn chosen_format(&self) -> Option<Format> {
        self.format
    }

    /// Whether more may be said on standard error.
    pub const fn verbose(&self) -> bool {
        self.verbose
    }

    /// Reads the configuration. Blocks.
    ///
    /// # Errors
    /// Names the file and everything that is wrong with it.
    pub fn config(&self) -> anyhow::Result<Config> {
        Config::load(Some(&self.config_path), &[])
            .with_context(|| format!("the configuration {} cannot be used", self.config_path.display()))
    }
}
