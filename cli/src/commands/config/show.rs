//! `cfs config show`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::Context;
use crate::output::{self, Document, Table};

#[derive(Debug, Serialize)]
struct Settings {
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
    let config = context.config()?;
    let settings = config.settings().iter().map(|s| Setting {
        key: s.key.clone(),
        value: s.value.clone(),
        origin: s.origin.to_string(),
    });
    output::print(context.format(), &Settings { file: config.file.clone(), settings: settings.collect() })?;
    Ok(ExitCode::SUCCESS)
}
