//! From a configuration to a running shipper, and back.

use std::future::Future;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cfs_audit::{Event, Kind, Severity};
use cfs_config::Config;
use cfs_journal::{Journal, RealFiles, read};
use cfs_model::{Lsn, StreamId, Vector};
use cfs_rpc::clock::RealClock;
use cfs_rpc::identity::Role;
use cfs_rpc::net::RealNet;
use cfs_rpc::serve::{Admission, incoming};
use cfs_rpc::tls::SharedTls;
use cfs_rpc::v1::governor_server::GovernorServer;
use cfs_rpc::v1::inspect_server::InspectServer;
use cfs_rpc::v1::peer_server::PeerServer;
use cfs_rpc::v1::producer_server::ProducerServer;
use cfs_rpc::{http2, unix};
use cfs_service::{Signal, Signals, certificates, manager, reload, usage};
use cfs_shipper_core::caps::{MAX_APPEND_BYTES, MAX_FRAME_BYTES};
use cfs_store::snapshot::MAX_CHUNK_BYTES;
use cfs_store::{HeedStore, Store};
use tokio::sync::mpsc;

use crate::audit::{self, Audit};
use crate::bootstrap::Bootstrap;
use crate::governed::Governed;
use crate::governor;
use crate::node::{Node, Parts, World};
use crate::path::{append, apply, commit, follow, open, replicate, service};
use crate::settings::{self, Settings};
use crate::space::Space;
use crate::{behind, bootstrap, forget, inspect, probe, rebuild, recent, reread, retention, space, worker};

/// The store is synced so often, so that a power cut leaves little to apply again.
const SYNC_INTERVAL: Duration = Duration::from_secs(30);
/// An `Append` message may be larger than its entries by their tags.
const MAX_APPEND_MESSAGE_BYTES: usize = MAX_APPEND_BYTES + 64 * 1024;

/// Runs a shipper until SIGTERM or SIGINT. Blocks.
///
/// # Errors
/// Whatever keeps it from starting: certificates, a damaged journal or store, an address in use. Nothing was changed on
/// disk then, except that a torn tail of the journal may have been cut.
pub fn main_with(config: Config) -> anyhow::Result<()> {
    cfs_service::logs::start(&config, &[]);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let threads = settings::worker_threads(&config);
    if threads > 0 {
        runtime.worker_threads(threads);
    }
    let runtime = runtime.enable_all().build().context("the async runtime does not start")?;
    let outcome = runtime.block_on(run(config));
    // Blocking readers of long listings do not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome? {
        End::Stopped => Ok(()),
        End::Again => Err(start_anew()),
    }
}

/// Why a shipper ended in good order.
enum End {
    Stopped,
    /// It is to start anew, under the same number, so that nobody has to start it.
    Again,
}

/// Replaces this process by a new one of the same program. Returns only if that fails.
fn start_anew() -> anyhow::Error {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_else(|| "cfs-shipper".into());
    let error = std::process::Command::new("/proc/self/exe").arg0(name).args(words).exec();
    anyhow::Error::new(error).context("the shipper cannot start itself anew: start it, it goes on where it is")
}

async fn run(config: Config) -> anyhow::Result<End> {
    let mut signals = Signals::take().context("signals cannot be taken over")?;
    let world = World { clock: Arc::new(RealClock), net: RealNet::shared() };
    let node = Arc::new(tokio::task::spawn_blocking(move || load(config, world)).await??);
    let mut again = node.signals.again.subscribe();
    let (commits, commit_queue) = mpsc::unbounded_channel();
    let (received, received_queue) = replicate::queue();
    // Sockets first: an address in use must not leave a half-started shipper behind.
    let servers = bind(&node, append::Service::new(node.clone(), commits.clone()), commits.clone()).await?;
    worker::spawn("audit", audit::write(node.clone()))?;
    worker::spawn("group-commit", commit::group_commit(node.clone(), commit_queue))?;
    worker::spawn("replica-journal", replicate::persist(node.clone(), received_queue))?;
    worker::spawn("apply", apply::apply_all(node.clone()))?;
    tokio::spawn(follow::follow_all(node.clone(), received.clone()));
    tokio::spawn(open::keep_role(node.clone()));
    tokio::spawn(probe::keep_proving(node.clone(), commits.clone()));
    tokio::spawn(audit::hand_out(node.clone()));
    tokio::spawn(forget::run(node.clone(), commits));
    tokio::spawn(space::watch(node.clone()));
    tokio::spawn(behind::watch(node.clone()));
    tokio::spawn(bootstrap::run(node.clone(), received));
    tokio::spawn(retention::run(node.clone()));
    tokio::spawn(usage::watch(node.config.paths.state.clone()));
    tokio::spawn(recent::watch(node.clone()));
    let (tls, metrics) = (node.tls.clone(), node.clone());
    tokio::spawn(certificates::follow(move || tls.reload(), move || metrics.metrics.error("certificate")));
    tokio::spawn(sync_store(node.clone()));
    tracing::info!(site = %node.site(), id = %node.id(), peer = node.config.listen.peer, "the shipper runs");
    manager::ready("serves");
    tokio::select! {
        outcome = servers => outcome.context("a server ended").map(|()| End::Stopped),
        () = again.changed() => {
            tracing::warn!("starting anew, to have the data of this site rebuilt");
            manager::reloading();
            // What it does not record is derived at the next start.
            let _ = tokio::task::spawn_blocking(move || node.audit.close(&node)).await?;
            Ok(End::Again)
        }
        signal = obey(&node, &mut signals) => {
            tracing::info!(signal = signal.as_str(), "stopping");
            manager::stopping("syncs its store");
            let store = node.store.clone();
            tokio::task::spawn_blocking(move || store.sync()).await?.context("the store cannot be synced")?;
            let _ = tokio::task::spawn_blocking(move || node.audit.close(&node)).await?;
            Ok(End::Stopped)
        }
    }
}

/// Does what signals ask, until one asks for the end.
async fn obey(node: &Arc<Node>, signals: &mut Signals) -> Signal {
    let mut reloads = 0;
    loop {
        let signal = signals.next().await;
        if signal != Signal::Reload {
            return signal;
        }
        reloads += 1;
        let of_thread = node.clone();
        let work = move || {
            let take = |now| reread::take(&of_thread, now);
            reload::run(&of_thread.config, "shipper", reloads, take, || Ok(of_thread.tls.reload()?));
        };
        reload::again(work).await;
    }
}

/// Opens certificates, journal and store. Blocks.
fn load(config: Config, world: World) -> anyhow::Result<Node> {
    if config.site.witness {
        anyhow::bail!("{} is a witness (site.kind): it has no shipper, start cfs-control alone", config.site.name);
    }
    let tls = SharedTls::load(config.tls_dir(), Role::Shipper, world.clock.clone())?;
    let names = (tls.identity().site, tls.identity().cluster);
    if names != (config.site.name.clone(), config.cluster.id) {
        anyhow::bail!(
            "the certificate in {} is for {} of cluster {}, the configuration {} is for {} of cluster {}: install the \
             certificate of this site",
            config.tls_dir().display(),
            names.0,
            names.1,
            config.file.display(),
            config.site.name,
            config.cluster.id
        );
    }
    let create = |directory: &Path| {
        cfs_rpc::private_file::create_directory(directory).with_context(|| format!("{}", directory.display()))
    };
    create(&config.paths.state)?;
    let space = Space::new(&config.paths.state, config.disk.reserve_bytes)
        .with_context(|| format!("the space of {} cannot be read", config.paths.state.display()))?;
    let directory = config.paths.state.join("shipper");
    let governed = Governed::load(&directory)?;
    let now_ms = world.clock.wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let order = rebuild::at_start(&config, &governed, now_ms)?;
    create(config.journal_dir())?;
    create(config.meta_dir())?;
    let settings = Settings::load(&config);
    let options = cfs_journal::Options { segment_bytes: config.journal.segment_bytes, ..Default::default() };
    let (journal, recovered) = Journal::open(Arc::new(RealFiles), config.journal_dir(), options)?;
    let mut torn = Vec::new();
    for cut in recovered {
        let text = format!(
            "{} bytes were cut from the end of {} of stream {}: {}",
            cut.cut_bytes,
            cut.segment.display(),
            cut.stream,
            cut.what
        );
        torn.push((Severity::Warning, text));
        tracing::warn!(
            stream = %cut.stream,
            segment = %cut.segment.display(),
            offset = cut.offset,
            cut_bytes = cut.cut_bytes,
            durable = %cut.durable,
            what = cut.what,
            "a torn tail of the journal was cut; what it held was not acknowledged, or comes again from the other sites"
        );
    }
    let store: Arc<dyn Store> = Arc::new(HeedStore::open(&cfs_store::lmdb::Options {
        path: config.meta_dir().to_owned(),
        map_bytes: config.store.map_bytes,
    })?);
    let installing = store.install_progress()?.is_some();
    let held = |stream| journal.position(stream).is_some_and(|position| position.durable > Lsn::ZERO);
    let holds = !store.position().applied.is_empty() || journal.streams().into_iter().any(held);
    let bootstrap = Bootstrap::load(&directory, holds, installing, now_ms)
        .with_context(|| format!("bootstrap.json in {} is not usable", directory.display()))?;
    bootstrap.rebuilds(order);
    let audit = Audit::new(config.audit_dir().to_owned(), audit::open(&config, &settings)?);
    let tls = Arc::new(tls);
    let parts = Parts { config, world, tls, journal, store, governed, settings, space, audit, bootstrap };
    let node = Node::new(parts);
    for (severity, text) in torn {
        node.audit(Event::new(Kind::Corruption, severity, text));
    }
    restore(&node)?;
    Ok(node)
}

/// Takes up what is on disk before anything of it is reported (invariant 6).
fn restore(node: &Node) -> anyhow::Result<()> {
    let position = node.store.position();
    node.saw_clock(position.highest_clock);
    let applied = position.applied;
    for stream in node.journal.streams() {
        let Some(position) = node.journal.position(stream) else { continue };
        node.saw_clock(position.clock);
        node.positions.restore(stream, applied.get(stream), position.durable);
    }
    for stream in node.journal.streams() {
        let vectors = vectors_after(node, stream, &applied)?;
        let durable = node.positions.cursor(stream).durable();
        node.positions.persisted(stream, durable, vectors, node.boot_ms());
    }
    Ok(())
}

/// The vectors of batches that are durable and not applied: what they name must be durable before they are reported.
fn vectors_after(node: &Node, stream: StreamId, applied: &Vector) -> anyhow::Result<Vec<(Lsn, Vector)>> {
    let durable = node.positions.cursor(stream).durable();
    let mut vectors = Vec::new();
    if applied.get(stream) >= durable {
        return Ok(vectors);
    }
    let mut reader = match node.journal.reader(stream, applied.get(stream)) {
        // The store was lost, or is from before a snapshot: what is held is reported, applying needs a snapshot.
        Err(read::Error::Gone { first, .. }) => node.journal.reader(stream, Lsn(first.0 - 1))?,
        other => other?,
    };
    loop {
        let batches = reader.next(MAX_FRAME_BYTES)?;
        if batches.is_empty() {
            return Ok(vectors);
        }
        vectors.extend(batches.iter().filter_map(|b| Some((b.header().first_lsn, b.header().vector.clone()?))));
    }
}

/// Binds every socket; the future serves them and ends only with an error.
async fn bind(
    node: &Arc<Node>,
    producer: append::Service,
    queue: mpsc::UnboundedSender<commit::Work>,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + use<>> {
    let listen = &node.config.listen;
    let socket = node.config.shipper_socket();
    let local = unix::bind(&socket)?;
    let peers = node.world.net.bind(&listen.peer).await.with_context(|| format!("listen.peer = {}", listen.peer))?;
    let producer_service = ProducerServer::new(producer).max_decoding_message_size(MAX_APPEND_MESSAGE_BYTES);
    let local = http2::server()
        .add_service(producer_service.clone())
        .add_service(GovernorServer::new(governor::Service { node: node.clone(), queue: queue.clone() }))
        .add_service(InspectServer::new(inspect::Service(node.clone(), queue)))
        .add_service(cfs_service::debug::server())
        .serve_with_incoming(unix::incoming(local));
    let errors = node.clone();
    let admission = Admission::of([Role::Shipper]).on_refused(move |_| errors.metrics.error("refused_connection"));
    let peer_service = PeerServer::new(service::Service(node.clone()))
        .max_decoding_message_size(MAX_FRAME_BYTES)
        // Parts of a copy are longer than frames if one row is.
        .max_encoding_message_size(MAX_CHUNK_BYTES + 64 * 1024);
    let peers =
        http2::server().add_service(peer_service).serve_with_incoming(incoming(peers, (*node.tls).clone(), admission));
    let producers = match &listen.producer {
        None => None,
        Some(address) => {
            let listener =
                node.world.net.bind(address).await.with_context(|| format!("listen.producer = {address}"))?;
            let errors = node.clone();
            let admission =
                Admission::of([Role::Producer]).on_refused(move |_| errors.metrics.error("refused_connection"));
            let incoming = incoming(listener, (*node.tls).clone(), admission);
            Some(http2::server().add_service(producer_service).serve_with_incoming(incoming))
        }
    };
    let http = match &listen.shipper_http {
        None => None,
        Some(address) => {
            let listener = tokio::net::TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("listen.shipper_http = {address}"))?;
            Some(crate::http::serve(node.clone(), listener))
        }
    };
    Ok(async move {
        tokio::select! {
            outcome = local => outcome.context("the local socket"),
            outcome = peers => outcome.context("the peers' port"),
            outcome = optional(producers) => outcome.context("the producers' port"),
            outcome = optional(http) => outcome.context("the metrics' port"),
        }
    })
}

async fn optional<T>(server: Option<impl Future<Output = T>>) -> T {
    match server {
        Some(server) => server.await,
        None => std::future::pending().await,
    }
}

async fn sync_store(node: Arc<Node>) {
    loop {
        tokio::time::sleep(SYNC_INTERVAL).await;
        let store = node.store.clone();
        match tokio::task::spawn_blocking(move || store.sync()).await {
            Ok(Ok(synced)) => node.retention.synced(synced, node.boot_ms()),
            Ok(Err(error)) => crate::fatal::fatal("the store cannot be synced", &error),
            Err(_) => return,
        }
    }
}
