//! The configuration, typed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use cfs_model::{ClusterId, SiteId, SiteName};
use cfs_shipper_core::codec::Codec;

use crate::durability::Durability;
use crate::error::{Error, Problem};
use crate::resolve::{Resolver, address};
use crate::schema::{ENV_PREFIX, KEYS, PEER_KEYS};
use crate::setting::Setting;
use crate::sources::{self, PeerTable, Source};

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
    settings: Vec<Setting>,
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
        build(file, sources)
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

fn build(file: PathBuf, sources: [Source; 3]) -> Result<Config, Error> {
    let (mut values, mut tables, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for source in sources {
        values.extend(source.values);
        tables.extend(source.peers);
        problems.extend(source.problems);
    }
    // Without a file everything would be missing, which helps nobody.
    if values.is_empty() && tables.is_empty() && !problems.is_empty() {
        return Err(Error::new(problems));
    }
    let mut resolver = Resolver::new(KEYS, String::new(), file.display().to_string(), values, &mut problems);
    let config = typed(file, &mut resolver);
    let mut settings = std::mem::take(&mut resolver.settings);
    let peers: Vec<Peer> = tables.into_iter().filter_map(|table| peer(table, &mut settings, &mut problems)).collect();
    match config {
        Some(config) if problems.is_empty() => {
            let config = Config { peers, settings, ..config };
            let problems = cross_check(&config);
            if problems.is_empty() { Ok(config) } else { Err(Error::new(problems)) }
        }
        _ => Err(Error::new(problems)),
    }
}

fn typed(file: PathBuf, from: &mut Resolver<'_>) -> Option<Config> {
    // Everything is looked at before anything may end this: all problems at once.
    let site = (from.value("site.name"), from.value("site.id"));
    let cluster = from.value("cluster.id");
    let paths = paths(from);
    let listen = (
        from.text("listen.peer"),
        from.text("listen.control"),
        from.optional("listen.http"),
        from.optional("listen.shipper_http"),
        from.optional("listen.producer"),
    );
    let replication = replication(from);
    let segment = from.bytes("journal.segment");
    let map = from.bytes("store.map");
    let reserve = from.bytes("disk.reserve");
    let log = (from.text("log.filter"), from.text("log.format"));
    let (peer, control, http, shipper_http, producer) = listen;
    Some(Config {
        file,
        site: Site { name: site.0?, id: SiteId(site.1?) },
        cluster: Cluster { id: cluster? },
        paths: paths?,
        listen: Listen {
            peer: peer?,
            control: control?,
            http: http?,
            shipper_http: shipper_http?,
            producer: producer?,
        },
        peers: Vec::new(),
        replication: replication?,
        journal: Journal { segment_bytes: segment? },
        store: Store { map_bytes: map? },
        disk: Disk { reserve_bytes: reserve? },
        log: Log { filter: log.0?, format: if log.1? == "json" { LogFormat::Json } else { LogFormat::Text } },
        settings: Vec::new(),
    })
}

fn paths(from: &mut Resolver<'_>) -> Option<Paths> {
    let state = from.path("paths.state", None);
    let run = from.path("paths.run", None);
    // Below a state directory that is unusable the others are not worth a second message.
    let below = |name: &str| Some(state.clone().unwrap_or_default().join(name));
    let journal = from.path("paths.journal", below("journal"));
    let meta = from.path("paths.meta", below("meta"));
    let audit = from.path("paths.audit", below("audit"));
    let control = from.path("paths.control", below("control"));
    let tls = from.path("paths.tls", below("tls"));
    Some(Paths {
        state: state?,
        run: run?,
        journal: journal?,
        meta: meta?,
        audit: audit?,
        control: control?,
        tls: tls?,
    })
}

fn replication(from: &mut Resolver<'_>) -> Option<Replication> {
    let compression = from.value("replication.compression");
    let batch_size = from.value("replication.batch_size");
    let batch_timeout_ms = from.value("replication.batch_timeout_ms");
    let worker_threads = from.value("replication.worker_threads");
    let durability = from.value("replication.durability");
    let fallback = from.text("replication.sync_fallback");
    let heartbeat_ms = from.value("replication.heartbeat_ms");
    let credit = from.bytes("replication.credit");
    Some(Replication {
        compression: compression?,
        batch_size: batch_size?,
        batch_timeout_ms: batch_timeout_ms?,
        worker_threads: worker_threads?,
        durability: durability?,
        sync_fallback: if fallback? == "degrade" { SyncFallback::Degrade } else { SyncFallback::Block },
        heartbeat_ms: heartbeat_ms?,
        credit_bytes: credit?,
    })
}

fn peer(table: PeerTable, settings: &mut Vec<Setting>, problems: &mut Vec<Problem>) -> Option<Peer> {
    let mut from = Resolver::new(PEER_KEYS, format!("{}.", table.path), table.place, table.values, problems);
    let name = from.value("name");
    let id = from.value("id");
    let peer = from.text("peer");
    let control = from.text("control");
    let producer = from.optional("producer");
    settings.append(&mut from.settings);
    Some(Peer { name: name?, id: SiteId(id?), peer: peer?, control: control?, producer: producer? })
}

/// What no single value shows.
fn cross_check(config: &Config) -> Vec<Problem> {
    let mut messages = Vec::new();
    for (index, peer) in config.peers.iter().enumerate() {
        let earlier = || config.peers.iter().take(index);
        if peer.name == config.site.name || earlier().any(|other| other.name == peer.name) {
            messages.push(format!("peers[{index}].name: {} is the name of another site too", peer.name));
        }
        if peer.id == config.site.id || earlier().any(|other| other.id == peer.id) {
            messages.push(format!("peers[{index}].id: {} is the number of another site too", peer.id));
        }
    }
    let copies = config.replication.durability.copies();
    if copies > config.peers.len() {
        let durability = config.replication.durability;
        messages.push(format!(
            "replication.durability: {durability} needs {copies} other sites, and there are {} peers",
            config.peers.len()
        ));
    }
    messages.extend(clashes(&config.listen));
    let place = config.file.display().to_string();
    messages.into_iter().map(|message| Problem { place: place.clone(), message }).collect()
}

fn clashes(listen: &Listen) -> Vec<String> {
    let all = [
        ("listen.peer", Some(&listen.peer)),
        ("listen.control", Some(&listen.control)),
        ("listen.http", listen.http.as_ref()),
        ("listen.shipper_http", listen.shipper_http.as_ref()),
        ("listen.producer", listen.producer.as_ref()),
    ];
    let used: Vec<_> = all.iter().filter_map(|(key, text)| Some((*key, address(text.as_ref()?)?))).collect();
    let mut found = Vec::new();
    for (index, (key, (host, port))) in used.iter().enumerate() {
        let clash = used.iter().take(index).find(|(_, (other, taken))| {
            *port != 0 && port == taken && (host == other || is_any(host) || is_any(other))
        });
        if let Some((other, _)) = clash {
            found.push(format!("{key}: port {port} is taken by {other} already"));
        }
    }
    found
}

/// Whether an address stands for all of the machine's.
fn is_any(host: &str) -> bool {
    host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
