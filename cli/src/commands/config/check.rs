//! `cfs config check`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use cfs_config::Config;
use serde::Serialize;

use crate::Context;
use crate::output::{self, Document};

#[derive(Debug, Serialize)]
struct Check {
    file: PathBuf,
    ok: bool,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct Problem {
    place: String,
    message: String,
}

impl Document for Check {
    const SCHEMA: &'static str = "cfs.config-check/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        for problem in &self.problems {
            writeln!(out, "{}: {}", problem.place, problem.message)?;
        }
        match self.problems.len() {
            0 => writeln!(out, "{}: OK", self.file.display()),
            1 => writeln!(out, "{}: 1 problem", self.file.display()),
            count => writeln!(out, "{}: {count} problems", self.file.display()),
        }
    }
}

/// Runs the command. Exits with 1 if anything is wrong.
///
/// # Errors
/// Those of standard output.
pub fn run(context: &Context) -> anyhow::Result<ExitCode> {
    let file = context.config_path().to_owned();
    let problems: Vec<Problem> = match Config::load(Some(&file), &[]) {
        Ok(_) => Vec::new(),
        Err(error) => error
            .problems()
            .iter()
            .map(|problem| Problem { place: problem.place.clone(), message: problem.message.clone() })
            .collect(),
    };
    let check = Check { file, ok: problems.is_empty(), problems };
    output::print(context.format(), &check)?;
    Ok(if check.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
