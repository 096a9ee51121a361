//! The configuration, typed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use cfs_model::{ClusterId, SiteId, SiteName};
use cfs_shipper_core::codec::Codec;

use crate::assemble;
use crate::durability::Durability;
use crate::error::Error;
use crate::schema::ENV_PREFIX;
use crate::setting::Setting;
use crate::sources;

/// Where the configuration is read from unless `--config` or `CFS_CONFIG` names another file.
pub const DEFAULT_FILE: &str = "/etc/claudefs/repl.toml";

/// What a site's processes are told. Every value was checked when it was read.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// This site.
    pub site: Site,
    /// The cluster it belongs to.
    pub cluster: Cluster,
    /// Directories.
    pub paths: Paths,
    /// Addresses to listen on.
    pub listen: Listen,
    /// All other sites, in the order of the file.
    pub peers: Vec<Peer>,
    /// How entries travel.
    pub replication: Replication,
    /// The journal on disk.
    pub journal: Journal,
    /// The metadata store.
    pub store: Store,
    /// The disk that both stand on.
    pub disk: Disk,
    /// What is logged.
    pub log: Log,
    pub(crate) settings: Vec<Setting>,
}

/// This site.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its name, which its certificates hold too.
    pub name: SiteName,
    /// Its number, 1 to 255.
    pub id: SiteId,
}

/// The cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its id, which the certificates hold too.
    pub id: ClusterId,
}

/// Directories, all absolute.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Above all state that must survive.
    pub state: PathBuf,
    /// For sockets.
    pub run: PathBuf,
    /// Segments of the journal.
    pub journal: PathBuf,
    /// The metadata store.
    pub meta: PathBuf,
    /// The audit trail.
    pub audit: PathBuf,
    /// State of the control process.
    pub control: PathBuf,
    /// Certificates and keys.
    pub tls: PathBuf,
}

/// Addresses to listen on, `HOST:PORT`; `None` is off.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The shipper, for other shippers.
    pub peer: String,
    /// The control process, for other control processes and remote operators.
    pub control: String,
    /// HTTP of the control process.
    pub http: Option<String>,
    /// HTTP of the shipper.
    pub shipper_http: Option<String>,
    /// The shipper, for producers on other machines.
    pub producer: Option<String>,
}

/// Another site and where its processes listen, `HOST:PORT`.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its name, which its certificates must hold.
    pub name: SiteName,
    /// Its number.
    pub id: SiteId,
    /// Its shipper.
    pub peer: String,
    /// Its control process.
    pub control: String,
    /// Its shipper, for producers on other machines.
    pub producer: Option<String>,
}

/// What to do with appends while too few sites confirm them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncFallback {
    /// Wait.
    Block,
    /// Go on with local durability, audited and alerted.
    Degrade,
}

/// How entries travel.
#[derive(Debug, Clone)]
pub struct Replication {
    /// Compression of new batches.
    pub compression: Codec,
    /// Most entries in a batch.
    pub batch_size: u32,
    /// Longest time that a batch waits for more entries while the disk is busy.
    pub batch_timeout_ms: u64,
    /// Threads; 0 is one for each core.
    pub worker_threads: usize,
    /// When an append is acknowledged; a producer may ask for more.
    pub durability: Durability,
    /// What happens while that cannot be reached.
    pub sync_fallback: SyncFallback,
    /// An idle stream shows a sign of life this often.
    pub heartbeat_ms: u64,
    /// Bytes that may be on their way to this site before it has stored them.
    pub credit_bytes: u64,
}

/// The journal on disk.
#[derive(Debug, Clone)]
pub struct Journal {
    /// Size at which a segment is closed.
    pub segment_bytes: u64,
}

/// The metadata store.
#[derive(Debug, Clone)]
pub struct Store {
    /// Size of the memory map: the bound on the store's size. It takes address space, not memory or disk.
    pub map_bytes: u64,
}

/// The disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// With less free space than this the site is read-only.
    pub reserve_bytes: u64,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged.
#[derive(Debug, Clone)]
pub struct Log {
    /// Level, or levels by module, as in `info,cfs_shipper=debug`.
    pub filter: String,
    /// How a line looks.
    pub format: LogFormat,
}

impl Config {
    /// Reads the configuration: `overrides` (pairs of key and value, from flags) > environment > file > defaults. The file
    /// is `path`, else the one that `CFS_CONFIG` names, else [`DEFAULT_FILE`]; it must exist. Blocks.
    ///
    /// # Errors
    /// All problems that were found, each with its place.
    pub fn load(path: Option<&Path>, overrides: &[(&str, &str)]) -> Result<Self, Error> {
        Self::load_with(path, overrides, std::env::vars_os())
    }

    /// The same with the environment as an argument.
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn load_with(
        path: Option<&Path>,
        overrides: &[(&str, &str)],
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Error> {
        let environment: Vec<_> = environment.into_iter().collect();
        let named = environment.iter().find(|(name, _)| *name == *format!("{ENV_PREFIX}CONFIG"));
        let file = match (path, named) {
            (Some(path), _) => path.to_owned(),
            (None, Some((_, path))) if !path.is_empty() => PathBuf::from(path),
            (None, _) => PathBuf::from(DEFAULT_FILE),
        };
        let sources = [sources::file(&file), sources::environment(environment), sources::flags(overrides)];
        assemble::assemble(file, sources)
    }

    /// Every key as it is in force, in the order of the documentation, peers last.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// Segments of the journal.
    pub fn journal_dir(&self) -> &Path {
        &self.paths.journal
    }

    /// The metadata store.
    pub fn meta_dir(&self) -> &Path {
        &self.paths.meta
    }

    /// The audit trail.
    pub fn audit_dir(&self) -> &Path {
        &self.paths.audit
    }

    /// State of the control process.
    pub fn control_dir(&self) -> &Path {
        &self.paths.control
    }

    /// Certificates and keys.
    pub fn tls_dir(&self) -> &Path {
        &self.paths.tls
    }

    /// The shipper's Unix socket.
    pub fn shipper_socket(&self) -> PathBuf {
        self.paths.run.join("shipper.sock")
    }

    /// The control process's Unix socket.
    pub fn control_socket(&self) -> PathBuf {
        self.paths.run.join("control.sock")
    }

    /// Another site by name.
    pub fn peer(&self, name: &SiteName) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.name == *name)
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
