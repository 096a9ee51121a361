//! `cfs preflight`: what should be so before a site goes into production.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use cfs_config::Config;
use serde::Serialize;

use crate::Context;
use crate::output::{self, Document, Table, good_or_bad};

mod certificates;
mod clock;
mod machine;
mod network;

/// Arguments of `cfs preflight`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Prometheus's configuration on the machine that scrapes this site
    #[arg(long, value_name = "FILE", default_value = "/etc/prometheus/prometheus.yml")]
    prometheus: PathBuf,
}

/// How a check came out, and the code to exit with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Outcome {
    Pass,
    Warn,
    Fail,
}

impl Outcome {
    const fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// One check.
#[derive(Debug, Clone, Serialize)]
struct Check {
    check: &'static str,
    /// What was looked at: a site, a file, a directory.
    subject: String,
    result: Outcome,
    found: String,
    /// What should be so.
    expected: &'static str,
    /// What to do; empty when it passes.
    next: String,
}

impl Check {
    fn pass(check: &'static str, subject: impl Into<String>, found: impl Into<String>, expected: &'static str) -> Self {
        Self {
            check,
            subject: subject.into(),
            result: Outcome::Pass,
            found: found.into(),
            expected,
            next: String::new(),
        }
    }

    fn warn(self, next: impl Into<String>) -> Self {
        Self { result: Outcome::Warn, next: next.into(), ..self }
    }

    fn fail(self, next: impl Into<String>) -> Self {
        Self { result: Outcome::Fail, next: next.into(), ..self }
    }
}

/// All of them.
#[derive(Debug, Serialize)]
struct Preflight {
    site: String,
    result: Outcome,
    checks: Vec<Check>,
}

impl Document for Preflight {
    const SCHEMA: &'static str = "cfs.preflight/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Site: {}", self.site)?;
        let mut table = Table::new(&["CHECK", "SUBJECT", "RESULT", "FOUND", "EXPECTED"]);
        for check in &self.checks {
            table.row([
                check.check.to_owned(),
                check.subject.clone(),
                good_or_bad(check.result.word(), check.result == Outcome::Pass),
                check.found.clone(),
                check.expected.to_owned(),
            ]);
        }
        table.write(out)?;
        for check in self.checks.iter().filter(|check| check.result != Outcome::Pass) {
            writeln!(out, "{} {} {}: next: {}", check.result.word(), check.check, check.subject, check.next)?;
        }
        writeln!(out, "RESULT: {}", good_or_bad(self.result.word(), self.result == Outcome::Pass))
    }
}

/// Runs the command. Exits with 0 when everything passes, 1 for a warning, 2 for a failure. Changes nothing; takes three seconds at
/// most, whether processes run or not.
///
/// # Errors
/// Those of standard output.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    const READS: &str = "the configuration reads";
    let file = context.config_path().display().to_string();
    let (site, checks) = match context.config() {
        Ok(config) => {
            let mut checks = vec![Check::pass("configuration", file, "it reads", READS)];
            checks.extend(look(context, &config, args.prometheus).await?);
            (config.site.name.to_string(), checks)
        }
        Err(error) => {
            let next = "cfs config check says what is wrong with it";
            let check = Check::pass("configuration", file, format!("{error:#}").replace('\n', " "), READS).fail(next);
            ("unknown".to_owned(), vec![check])
        }
    };
    let result = checks.iter().map(|check| check.result).max().unwrap_or(Outcome::Pass);
    output::print(context.format(), &Preflight { site, result, checks })?;
    Ok(ExitCode::from(result as u8))
}

async fn look(context: &Context, config: &Config, prometheus: PathBuf) -> anyhow::Result<Vec<Check>> {
    let state = config.paths.state.clone();
    let machine = tokio::task::spawn_blocking(move || {
        vec![machine::monitoring(&prometheus), machine::disk(&state), machine::memory()]
    });
    let (clock, network, certificates, machine) =
        tokio::join!(clock::checks(context), network::checks(config), certificates::checks(context, config), machine,);
    Ok([clock, network?, certificates?, machine?].concat())
}
