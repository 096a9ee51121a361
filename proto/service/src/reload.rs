//! The configuration file, read again while the process runs.

use std::path::{Path, PathBuf};

use cfs_config::Config;
use serde::{Deserialize, Serialize};

use crate::{logs, manager};

/// How it ended, for whoever asked for it by a signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The process that read.
    pub pid: u32,
    /// How often it has done so.
    pub count: u64,
    /// Lines for people: what was taken over, and what waits for a restart.
    pub said: Vec<String>,
    /// Why nothing was taken over; empty otherwise.
    pub problem: String,
}

/// Reads the file again, lets `take` take over what can be and say what cannot, and logs that. Blocks.
fn reread(running: &Config, take: impl FnOnce(Config) -> Vec<String>) -> anyhow::Result<Vec<String>> {
    let read = Config::load(Some(&running.file), &[])?;
    let filter = &read.log.filter;
    logs::filter(filter).map_err(|error| anyhow::anyhow!("log.filter = {filter:?}: {error}"))?;
    let mut said = take(read);
    if said.is_empty() {
        said.push("nothing in the configuration has changed".into());
    }
    for line in &said {
        tracing::info!("{line}");
    }
    Ok(said)
}

/// Lets `work` read everything again, as [`run`] does, away from the async runtime, and tells the service manager meanwhile.
pub async fn again(work: impl FnOnce() + Send + 'static) {
    manager::reloading();
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        tracing::error!(%error, "reading the configuration again came to nothing");
    }
    manager::ready("serves");
}

/// Does all of it for the process `part`: the configuration through `take`, which says what it took over and what has to
/// wait, then its certificates through `certificates`, which says whether others are in use now. Logs the outcome and tells
/// it in [`outcome_file`]. Blocks.
pub fn run(
    running: &Config,
    part: &str,
    count: u64,
    take: impl FnOnce(Config) -> Vec<String>,
    certificates: impl FnOnce() -> anyhow::Result<bool>,
) {
    let mut outcome = Outcome { pid: std::process::id(), count, said: Vec::new(), problem: String::new() };
    match reread(running, take) {
        Ok(said) => outcome.said = said,
        Err(error) => {
            tracing::error!("the configuration on disk cannot be used, the one in force stays: {error:#}");
            outcome.problem = format!("the configuration on disk cannot be used, the one in force stays: {error:#}");
        }
    }
    match certificates() {
        Ok(true) => {
            tracing::info!("new certificates are in use");
            outcome.said.push("new certificates are in use".into());
        }
        Ok(false) => outcome.said.push("the certificates are those in use".into()),
        Err(error) => {
            tracing::error!("the certificates on disk cannot be used, the ones in use stay: {error:#}");
            if !outcome.problem.is_empty() {
                outcome.problem.push_str("; ");
            }
            outcome
                .problem
                .push_str(&format!("the certificates on disk cannot be used, the ones in use stay: {error:#}"));
        }
    }
    if let Err(error) = tell(&running.paths.run, part, &outcome) {
        tracing::warn!(%error, "the outcome of the reload cannot be told in {}", running.paths.run.display());
    }
}

/// Where the process `part` of the site whose sockets are in `run` tells the outcome.
pub fn outcome_file(run: &Path, part: &str) -> PathBuf {
    run.join(format!("{part}.reload"))
}

/// Tells the outcome. Blocks.
///
/// # Errors
/// What the system said.
pub fn tell(run: &Path, part: &str, outcome: &Outcome) -> std::io::Result<()> {
    let path = outcome_file(run, part);
    let temporary = run.join(format!(".{part}.reload.tmp"));
    std::fs::write(&temporary, serde_json::to_vec(outcome)?)?;
    std::fs::rename(temporary, path)
}

/// The last outcome; `None` when none was told. Blocks.
pub fn told(run: &Path, part: &str) -> Option<Outcome> {
    serde_json::from_slice(&std::fs::read(outcome_file(run, part)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_told_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(told(dir.path(), "control"), None);
        let outcome = Outcome { pid: 7, count: 2, said: vec!["x".into()], problem: String::new() };
        tell(dir.path(), "control", &outcome).expect("written");
        assert_eq!(told(dir.path(), "control"), Some(outcome));
    }
}
