//! From a configuration to a running shipper, and back.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cfs_config::{Config, LogFormat};
use cfs_journal::{Journal, RealFiles};
use cfs_model::{StreamId, Vector};
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
use cfs_shipper_core::caps::{MAX_APPEND_BYTES, MAX_FRAME_BYTES};
use cfs_store::{HeedStore, Store};
use tokio::sync::mpsc;

use crate::governor::{self, Governed};
use crate::node::{Node, Parts, World};
use crate::path::{append, apply, commit, open, receive, replicate, ship};
use crate::space::Space;
use crate::{forget, inspect, space, usage, worker};

/// Certificates are looked at for changes so often.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
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
    init_logging(&config);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if config.replication.worker_threads > 0 {
        runtime.worker_threads(config.replication.worker_threads);
    }
    let runtime = runtime.enable_all().build().context("the async runtime does not start")?;
    let outcome = runtime.block_on(run(config));
    // Blocking readers of long listings do not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

fn init_logging(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.filter)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second initialisation, in a process that runs more than one shipper, keeps the first.
    let _ = match config.log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

async fn run(config: Config) -> anyhow::Result<()> {
    let world = World { clock: Arc::new(RealClock), net: RealNet::shared() };
    let node = Arc::new(tokio::task::spawn_blocking(move || load(config, world)).await??);
    let (commits, commit_queue) = mpsc::unbounded_channel();
    let (received, received_queue) = replicate::queue();
    // Sockets first: an address in use must not leave a half-started shipper behind.
    let servers = bind(&node, append::Service::new(node.clone(), commits.clone())).await?;
    worker::spawn("group-commit", commit::group_commit(node.clone(), commit_queue))?;
    worker::spawn("replica-journal", replicate::persist(node.clone(), received_queue))?;
    worker::spawn("apply", apply::apply_all(node.clone()))?;
    for site in node.config.peers.clone() {
        tokio::spawn(receive::follow(node.clone(), site, received.clone()));
    }
    tokio::spawn(open::keep_role(node.clone()));
    tokio::spawn(forget::run(node.clone(), commits));
    tokio::spawn(space::watch(node.clone()));
    tokio::spawn(usage::watch());
    tokio::spawn(reload_certificates(node.clone()));
    tokio::spawn(sync_store(node.clone()));
    tracing::info!(site = %node.site(), id = %node.id(), peer = node.config.listen.peer, "the shipper runs");
    tokio::select! {
        outcome = servers => outcome.context("a server ended"),
        signal = terminated() => {
            tracing::info!(signal, "stopping");
            let store = node.store.clone();
            tokio::task::spawn_blocking(move || store.sync()).await?.context("the store cannot be synced")?;
            Ok(())
        }
    }
}

async fn terminated() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut term), Ok(mut int)) => tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        },
        _ => std::future::pending().await,
    }
}

/// Opens certificates, journal and store. Blocks.
fn load(config: Config, world: World) -> anyhow::Result<Node> {
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
    for directory in [&config.paths.state, &config.journal_dir().to_owned(), &config.meta_dir().to_owned()] {
        cfs_rpc::private_file::create_directory(directory).with_context(|| format!("{}", directory.display()))?;
    }
    let space = Space::new(&config.paths.state, config.disk.reserve_bytes)
        .with_context(|| format!("the space of {} cannot be read", config.paths.state.display()))?;
    let governed = Governed::load(&config.paths.state.join("shipper"))?;
    let options = cfs_journal::Options { segment_bytes: config.journal.segment_bytes, ..Default::default() };
    let (journal, recovered) = Journal::open(Arc::new(RealFiles), config.journal_dir(), options)?;
    for cut in recovered {
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
    let node = Node::new(Parts { config, world, tls: Arc::new(tls), journal, store, governed, space });
    restore(&node)?;
    Ok(node)
}

/// Takes up what is on disk before anything of it is reported (invariant 6).
fn restore(node: &Node) -> anyhow::Result<()> {
    let applied = node.store.position().applied;
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
fn vectors_after(node: &Node, stream: StreamId, applied: &Vector) -> anyhow::Result<Vec<(cfs_model::Lsn, Vector)>> {
    let durable = node.positions.cursor(stream).durable();
    let mut vectors = Vec::new();
    if applied.get(stream) >= durable {
        return Ok(vectors);
    }
    let mut reader = node.journal.reader(stream, applied.get(stream))?;
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
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + use<>> {
    let listen = &node.config.listen;
    let socket = node.config.shipper_socket();
    let local = unix::bind(&socket)?;
    let peers = node.world.net.bind(&listen.peer).await.with_context(|| format!("listen.peer = {}", listen.peer))?;
    let producer_service = ProducerServer::new(producer).max_decoding_message_size(MAX_APPEND_MESSAGE_BYTES);
    let local = http2::server()
        .add_service(producer_service.clone())
        .add_service(GovernorServer::new(governor::Service(node.clone())))
        .add_service(InspectServer::new(inspect::Service(node.clone())))
        .serve_with_incoming(unix::incoming(local));
    let errors = node.clone();
    let admission = Admission::of([Role::Shipper]).on_refused(move |_| errors.metrics.error("refused_connection"));
    let peer_service = PeerServer::new(ship::Service(node.clone()))
        .max_decoding_message_size(MAX_FRAME_BYTES)
        .max_encoding_message_size(MAX_FRAME_BYTES);
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

async fn reload_certificates(node: Arc<Node>) {
    let mut known = String::new();
    loop {
        tokio::time::sleep(RELOAD_INTERVAL).await;
        let tls = node.tls.clone();
        match tokio::task::spawn_blocking(move || tls.reload()).await {
            Ok(Ok(true)) => tracing::info!("new certificates are in use"),
            Ok(Ok(false)) => known.clear(),
            Ok(Err(error)) if error.to_string() != known => {
                node.metrics.error("certificate");
                tracing::error!(%error, "the certificates on disk are not usable; the ones in use stay");
                known = error.to_string();
            }
            Ok(Err(_)) => {}
            Err(_) => return,
        }
    }
}

async fn sync_store(node: Arc<Node>) {
    loop {
        tokio::time::sleep(SYNC_INTERVAL).await;
        let store = node.store.clone();
        match tokio::task::spawn_blocking(move || store.sync()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => crate::fatal::fatal("the store cannot be synced", &error),
            Err(_) => return,
        }
    }
}
