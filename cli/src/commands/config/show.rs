//! `cfs config show`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use cfs_config::Config;
use serde::Serialize;

use crate::Context;
use crate::output::{self, Document, Table};

/// Every key as it is in force.
#[derive(Debug, Serialize)]
pub(in crate::commands) struct Settings {
    file: PathBuf,
    settings: Vec<Setting>,
}

#[derive(Debug, Serialize)]
struct Setting {
    key: String,
    value: String,
    /// `default`, `file`, `env NAME` or `flag`.
    origin: String,
}

impl Settings {
    pub(in crate::commands) fn of(config: &Config) -> Self {
        let settings = config.settings().iter().map(|s| Setting {
            key: s.key.clone(),
            value: s.value.clone(),
            origin: s.origin.to_string(),
        });
        Self { file: config.file.clone(), settings: settings.collect() }
    }

    /// Leaves out the values of some keys.
    pub(in crate::commands) fn hide(&mut self, is_secret: impl Fn(&str) -> bool) {
        for setting in self.settings.iter_mut().filter(|setting| is_secret(&setting.key)) {
            setting.value = "[redacted]".to_owned();
        }
    }
}

impl Document for Settings {
    const SCHEMA: &'static str = "cfs.config-show/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["KEY", "VALUE", "FROM"]);
        for s in &self.settings {
            table.row([s.key.clone(), s.value.clone(), s.origin.clone()]);
        }
        table.write(out)
    }
}

/// Runs the command.
///
/// # Errors
/// When the configuration cannot be used.
pub fn run(context: &Context) -> anyhow::Result<ExitCode> {
    output::print(context.format(), &Settings::of(&context.config()?))?;
    Ok(ExitCode::SUCCESS)
}
