//! The configuration, typed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use cfs_model::{ClusterId, Level, SiteId, SiteName};
use cfs_shipper_core::codec::Codec;

use crate::assemble;
use crate::durability::Durability;
use crate::error::Error;
use crate::period::Period;
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
    /// The audit trail on disk.
    pub audit: Audit,
    /// The metadata store.
    pub store: Store,
    /// The disk that both stand on.
    pub disk: Disk,
    /// The control process.
    pub control: Control,
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
    /// Whether it only votes: it has a control process and no shipper.
    pub witness: bool,
    /// Among equally complete sites the highest becomes primary.
    pub priority: u8,
}

/// The cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its id, which the certificates hold too.
    pub id: ClusterId,
    /// The level that this site acts as: that of its version, or an earlier one.
    pub level: Level,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name, which its certificates must hold.
    pub name: SiteName,
    /// Its number.
    pub id: SiteId,
    /// Whether it only votes: then it has no shipper.
    pub witness: bool,
    /// Its shipper; empty for a witness.
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
    /// A new site copies another's store if that one's journal takes more than this.
    pub snapshot_above_bytes: u64,
}

/// The journal on disk.
#[derive(Debug, Clone)]
pub struct Journal {
    /// Size at which a segment is closed.
    pub segment_bytes: u64,
    /// Segments whose entries are older go, once nobody needs them.
    pub retention: Period,
    /// Size that the journal is kept below, once nobody needs what is above it.
    pub retention_bytes: u64,
}

/// The audit trail on disk.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Records that are older go.
    pub retention: Period,
    /// Size that it is kept below.
    pub retention_bytes: u64,
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

/// The control process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// How long a shipper that ended may take to be back before its lease is given up.
    pub restart_grace_ms: u64,
    /// Length of a lease. Read when the cluster is founded; later the group's committed setting holds.
    pub lease_ms: u64,
    /// Whether a returning primary rejoins by itself. Read when the cluster is founded.
    pub auto_rejoin: bool,
    /// Whether the primary role moves by itself. Read when the cluster is founded.
    pub auto_failover: bool,
    /// Whether a site that is cut off goes on taking appends while active-active is on. Read when the cluster is founded.
    pub goes_on_alone: bool,
    /// A program that is run before this site becomes primary, and may refuse.
    pub pre_promote: Option<PathBuf>,
    /// A program that is told of each change of this site's role.
    pub post_role_change: Option<PathBuf>,
    /// How long either may run.
    pub hook_timeout_ms: u64,
    /// How long the end of a primary's control process waits for a site that can take over; 0: not at all.
    pub handover_ms: u64,
    /// Name of the Unix group whose members may read the state.
    pub group: String,
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

    /// The one-time file that lets this site's control process found the cluster: beside the configuration file.
    pub fn founding_file(&self) -> PathBuf {
        self.file.with_file_name("founding")
    }

    /// All other sites that have a shipper, in the order of the file.
    pub fn data_peers(&self) -> impl ExactSizeIterator<Item = &Peer> + Clone {
        self.peers.iter().filter(|peer| !peer.witness).collect::<Vec<_>>().into_iter()
    }

    /// Another site by name.
    pub fn peer(&self, name: &SiteName) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.name == *name)
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
