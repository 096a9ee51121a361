//! `cfs __service stores-data`.

use std::process::ExitCode;

use crate::Context;

/// Runs the command. A configuration that cannot be used is left to the daemon, which says what is wrong with it.
pub fn run(context: &Context) -> ExitCode {
    match context.config() {
        Ok(config) if config.site.witness => {
            anstream::eprintln!("{} is a witness: it has no shipper", config.site.name);
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
