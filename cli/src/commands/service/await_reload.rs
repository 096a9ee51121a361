//! `cfs __service await-reload`.

use std::process::ExitCode;

use crate::relay::units;

/// Arguments of `cfs __service await-reload`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A unit that reads its configuration again
    #[arg(long = "unit", value_name = "UNIT", required = true)]
    units: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When a unit could not use its configuration, or systemd cannot be asked.
pub async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    loop {
        let units = units::ask(&args.units).await?;
        if units.iter().all(|unit| unit.job == 0) {
            let failed: Vec<&str> = units.iter().filter(|unit| unit.reload_failed()).map(|unit| unit.name()).collect();
            anyhow::ensure!(failed.is_empty(), "not everything was taken over: journalctl -u {}", failed.join(" -u "));
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(units::POLL).await;
    }
}
