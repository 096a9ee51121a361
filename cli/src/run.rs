//! From the process's start to its exit code.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use cfs_config::Config;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::Context;
use crate::args::Cli;
use crate::commands::Command;

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    // Installed under a daemon's name, this program is that daemon.
    let name = std::env::args_os().next().map(PathBuf::from);
    match name.as_deref().and_then(Path::file_name).and_then(OsStr::to_str) {
        Some("cfs-shipper") => return report(run_shipper(&ShipperArgs::parse().config, false)),
        Some("cfs-control") => return report(run_control(&ControlArgs::parse().config, false)),
        _ => {}
    }
    let cli = Cli::parse();
    if cli.global.no_color {
        anstream::ColorChoice::Never.write_global();
    }
    let context = Context::new(&cli.global);
    match &cli.command {
        Command::Shipper(args) => return report(run_shipper(context.config_path(), args.detach)),
        Command::Control(args) => return report(run_control(context.config_path(), args.detach)),
        Command::Proxy(args) => return report(run_proxy(&args.dir, args.detach)),
        _ => {}
    }
    start_logging(cli.global.verbose);
    report(run(cli.command, &context))
}

/// The shipper, under its own name.
#[derive(Debug, Parser)]
#[command(name = "cfs-shipper", version, about = "Ships one site's metadata journal to the others")]
struct ShipperArgs {
    /// The site's configuration file
    #[arg(long, value_name = "PATH", env = "CFS_CONFIG", default_value = cfs_config::DEFAULT_FILE)]
    config: PathBuf,
}

/// The control process, under its own name.
#[derive(Debug, Parser)]
#[command(name = "cfs-control", version, about = "Owns membership, epochs, leases and the primary role of one cluster")]
struct ControlArgs {
    /// The site's configuration file
    #[arg(long, value_name = "PATH", env = "CFS_CONFIG", default_value = cfs_config::DEFAULT_FILE)]
    config: PathBuf,
}

fn run(command: Command, context: &Context) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(command.run(context));
    // A thread that waits for standard input would never end.
    runtime.shutdown_background();
    outcome
}

fn run_shipper(config: &Path, detach: bool) -> anyhow::Result<ExitCode> {
    leave_session(detach)?;
    cfs_shipper::main_with(Config::load(Some(config), &[])?)?;
    Ok(ExitCode::SUCCESS)
}

fn run_control(config: &Path, detach: bool) -> anyhow::Result<ExitCode> {
    leave_session(detach)?;
    cfs_control::main_with(Config::load(Some(config), &[])?)?;
    Ok(ExitCode::SUCCESS)
}

fn run_proxy(dir: &Path, detach: bool) -> anyhow::Result<ExitCode> {
    leave_session(detach)?;
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).with_target(false).init();
    crate::dev::proxy::run(dir)?;
    Ok(ExitCode::SUCCESS)
}

fn leave_session(detach: bool) -> anyhow::Result<()> {
    if !detach {
        return Ok(());
    }
    match rustix::process::setsid() {
        // A process that leads its group, as a shipper that starts itself anew, stands apart already. Its session is not
        // asked for: in a container that may be one without a number.
        Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(error) => Err(error).context("cannot leave the session of whoever started it"),
    }
}

fn report(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        // Whoever read the output has seen enough.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("error: {}", message(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, without those that it already quotes.
fn message(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        text if text.contains(&cause) => text.to_owned(),
        text => format!("{text}: {cause}"),
    })
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// The libraries' own messages, on standard error.
fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).without_time().init();
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn no_cause_is_told_twice() {
        let error = anyhow!("refused").context("cannot connect: refused");
        assert_eq!(message(&error), "cannot connect: refused");
        let error = Err::<(), _>(anyhow!("refused")).context("cannot connect").expect_err("it is one");
        assert_eq!(message(&error), "cannot connect: refused");
    }

    #[test]
    fn a_closed_pipe_is_seen_through_wrappers() {
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_closed_pipe(&anyhow!(pipe).context("printing")));
        assert!(!is_closed_pipe(&anyhow!(io::Error::from(io::ErrorKind::NotFound))));
    }
}
