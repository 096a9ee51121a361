//! From what the sources say to a typed configuration.

use std::path::PathBuf;

use cfs_model::SiteId;

use crate::config::{
    Cluster, Config, Disk, Journal, Listen, Log, LogFormat, Paths, Peer, Replication, Site, Store, SyncFallback,
};
use crate::cross_check::cross_check;
use crate::error::{Error, Problem};
use crate::resolve::Resolver;
use crate::schema::{KEYS, PEER_KEYS};
use crate::setting::Setting;
use crate::sources::{PeerTable, Source};

/// Joins the sources, the later the stronger, and checks everything.
pub(crate) fn assemble(file: PathBuf, sources: [Source; 3]) -> Result<Config, Error> {
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
