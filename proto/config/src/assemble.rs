//! From what the sources say to a typed configuration.

use std::path::PathBuf;

use cfs_model::{Level, SiteId};

use crate::config::{
    Audit, Cluster, Config, Control, Disk, Journal, Listen, Log, LogFormat, Paths, Peer, Replication, Site, Store,
    SyncFallback,
};
use crate::cross_check::cross_check;
use crate::error::{Error, Problem};
use crate::resolve::Resolver;
use crate::schema::{KEYS, PEER_KEYS};
use crate::setting::Setting;
use crate::sources::{PeerTable, Source};

/// The kind of a site without a shipper.
const WITNESS: &str = "witness";

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
    let site = site(from);
    let cluster = (from.value("cluster.id"), from.value("cluster.level"));
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
    let retention = (from.value("journal.retention"), from.bytes("journal.retention_bytes"));
    let audit = (from.value("audit.retention"), from.bytes("audit.retention_bytes"));
    let map = from.bytes("store.map");
    let reserve = from.bytes("disk.reserve");
    let control = control(from);
    let log = (from.text("log.filter"), from.text("log.format"));
    let (peer, listen_control, http, shipper_http, producer) = listen;
    Some(Config {
        file,
        site: site?,
        cluster: Cluster { id: cluster.0?, level: Level(cluster.1?) },
        paths: paths?,
        listen: Listen {
            peer: peer?,
            control: listen_control?,
            http: http?,
            shipper_http: shipper_http?,
            producer: producer?,
        },
        peers: Vec::new(),
        replication: replication?,
        journal: Journal { segment_bytes: segment?, retention: retention.0?, retention_bytes: retention.1? },
        audit: Audit { retention: audit.0?, retention_bytes: audit.1? },
        store: Store { map_bytes: map? },
        disk: Disk { reserve_bytes: reserve? },
        control: control?,
        log: Log { filter: log.0?, format: if log.1? == "json" { LogFormat::Json } else { LogFormat::Text } },
        settings: Vec::new(),
    })
}

fn site(from: &mut Resolver<'_>) -> Option<Site> {
    let (name, id) = (from.value("site.name"), from.value("site.id"));
    let witness = from.text("site.kind");
    let priority = from.value("site.priority");
    Some(Site { name: name?, id: SiteId(id?), witness: witness? == WITNESS, priority: priority? })
}

fn control(from: &mut Resolver<'_>) -> Option<Control> {
    let restart_grace_ms = from.value("control.restart_grace_ms");
    let lease_ms = from.value("control.lease_ms");
    let auto_rejoin = from.text("control.auto_rejoin");
    let auto_failover = from.text("control.auto_failover");
    let partition_policy = from.text("control.partition_policy");
    let pre_promote = from.optional("control.pre_promote");
    let post_role_change = from.optional("control.post_role_change");
    let hook_timeout_ms = from.value("control.hook_timeout_ms");
    let handover_ms = from.value("control.handover_ms");
    let group = from.text("control.group");
    Some(Control {
        restart_grace_ms: restart_grace_ms?,
        lease_ms: lease_ms?,
        auto_rejoin: auto_rejoin? == "on",
        auto_failover: auto_failover? == "on",
        goes_on_alone: partition_policy? == "continue",
        pre_promote: pre_promote?.map(PathBuf::from),
        post_role_change: post_role_change?.map(PathBuf::from),
        hook_timeout_ms: hook_timeout_ms?,
        handover_ms: handover_ms?,
        group: group?,
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
    let snapshot_above = from.bytes("replication.snapshot_above");
    Some(Replication {
        compression: compression?,
        batch_size: batch_size?,
        batch_timeout_ms: batch_timeout_ms?,
        worker_threads: worker_threads?,
        durability: durability?,
        sync_fallback: if fallback? == "degrade" { SyncFallback::Degrade } else { SyncFallback::Block },
        heartbeat_ms: heartbeat_ms?,
        credit_bytes: credit?,
        snapshot_above_bytes: snapshot_above?,
    })
}

fn peer(table: PeerTable, settings: &mut Vec<Setting>, problems: &mut Vec<Problem>) -> Option<Peer> {
    let mut from = Resolver::new(PEER_KEYS, format!("{}.", table.path), table.place, table.values, problems);
    let name = from.value("name");
    let id = from.value("id");
    let witness = from.text("kind").map(|kind| kind == WITNESS);
    let mut peer = from.text("peer");
    if witness == Some(false) && peer.as_deref() == Some("") {
        from.wrong("peer", "it is missing, and has no default");
        peer = None;
    }
    let control = from.text("control");
    let producer = from.optional("producer");
    settings.append(&mut from.settings);
    let (witness, peer, producer) = match (witness?, peer?, producer?) {
        (true, ..) => (true, String::new(), None),
        data => data,
    };
    Some(Peer { name: name?, id: SiteId(id?), witness, peer, control: control?, producer })
}
