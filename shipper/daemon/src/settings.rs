//! The settings in force: what the cluster holds for all sites over what this site's own file says. They change while the
//! process runs.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cfs_config::Config;
use cfs_config::cluster::{InForce, MAX_SETTINGS, MAX_TEXT_BYTES, Values};
use cfs_rpc::private_file;
use tokio::sync::watch;

const FILE: &str = "settings.json";

/// The settings of this site.
#[derive(Debug)]
pub(crate) struct Settings {
    directory: PathBuf,
    sources: Mutex<Sources>,
    in_force: watch::Sender<Arc<InForce>>,
    /// With which the process started: they cannot change while it runs.
    worker_threads: usize,
}

#[derive(Debug)]
struct Sources {
    own: Config,
    cluster: Values,
}

impl Settings {
    /// Those that were in force last, as `directory` remembers them, so that a shipper that starts while its control process
    /// is down uses them. What does not read is as if the cluster held nothing: it is told again. Blocks.
    pub(crate) fn load(config: &Config) -> Self {
        let directory = directory(config);
        let cluster = remembered(&directory).unwrap_or_default();
        let in_force = InForce::of(config, &cluster);
        let worker_threads = in_force.worker_threads;
        let sources = Mutex::new(Sources { own: config.clone(), cluster });
        Self { directory, sources, in_force: watch::Sender::new(Arc::new(in_force)), worker_threads }
    }

    /// What is in force now. Look again for each batch, file or decision.
    pub(crate) fn now(&self) -> Arc<InForce> {
        self.in_force.borrow().clone()
    }

    /// Takes what the cluster holds; what is new is in force at once and remembered on return. Blocks.
    ///
    /// # Errors
    /// It is in force, and cannot be remembered.
    pub(crate) fn take(&self, held: &HashMap<String, String>) -> io::Result<()> {
        let fits = |(name, text): &(&String, &String)| name.len() <= MAX_TEXT_BYTES && text.len() <= MAX_TEXT_BYTES;
        let held = held.iter().filter(fits).take(MAX_SETTINGS);
        let held: Values = held.map(|(name, text)| (name.clone(), text.clone())).collect();
        let mut sources = self.lock();
        if sources.cluster == held {
            return Ok(());
        }
        sources.cluster = held;
        self.put_in_force(&sources);
        let bytes = serde_json::to_vec_pretty(&sources.cluster).map_err(io::Error::other)?;
        private_file::replace(&self.directory, FILE, &bytes)
    }

    /// The file was read again: where the cluster holds nothing, what it says is in force at once.
    pub(crate) fn reread(&self, own: Config) {
        let mut sources = self.lock();
        sources.own = own;
        self.put_in_force(&sources);
    }

    /// Whether the cluster holds a value for this setting.
    pub(crate) fn cluster_holds(&self, name: &str) -> bool {
        self.lock().cluster.contains_key(name)
    }

    /// This site's configuration as read last.
    pub(crate) fn own(&self) -> Config {
        self.lock().own.clone()
    }

    /// The settings that hold with other values from the next start of this process.
    pub(crate) fn waiting_for_start(&self) -> Vec<String> {
        if self.now().worker_threads == self.worker_threads { Vec::new() } else { vec!["worker_threads".into()] }
    }

    fn put_in_force(&self, sources: &Sources) {
        let next = Arc::new(InForce::of(&sources.own, &sources.cluster));
        self.in_force.send_if_modified(|now| {
            let news = **now != *next;
            if news {
                tracing::info!(settings = ?next, "other settings are in force");
                *now = next;
            }
            news
        });
    }

    fn lock(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads to start with. Blocks.
pub(crate) fn worker_threads(config: &Config) -> usize {
    InForce::of(config, &remembered(&directory(config)).unwrap_or_default()).worker_threads
}

fn directory(config: &Config) -> PathBuf {
    config.paths.state.join("shipper")
}

fn remembered(directory: &Path) -> Option<Values> {
    serde_json::from_slice(&private_file::read(&directory.join(FILE)).ok()?).ok()
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
