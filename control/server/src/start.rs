//! From a configuration to a running control process, and back.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cfs_config::Config;
use cfs_control_core::alone::Restart;
use cfs_control_core::command::Founding;
use cfs_control_core::founding::{self, Decision, Start};
use cfs_control_core::state::Settings;
use cfs_control_core::{Command, Kind};
use cfs_rpc::clock::{Clock, RealClock};
use cfs_rpc::identity::Role;
use cfs_rpc::net::{Net, RealNet};
use cfs_rpc::serve::{Admission, incoming};
use cfs_rpc::tls::SharedTls;
use cfs_rpc::v1::admin_server::AdminServer;
use cfs_rpc::v1::control_server::ControlServer;
use cfs_rpc::v1::enrollment_server::EnrollmentServer;
use cfs_rpc::{http2, private_file, unix};
use cfs_service::{Signals, certificates, manager};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::control::{Control, blocking};
use crate::member::Node;
use crate::raft::{MAX_MESSAGE_BYTES, Peers};
use crate::{admin, alive, attend, contact, grpc, hooks, http, join, lead, reporter, sealed, signals, watchdog, words};

/// Connections without a certificate that wait to be served.
const STRANGERS: usize = 16;

/// Runs a control process until SIGTERM, on which it first hands over what others can go on with, or SIGINT. Blocks.
///
/// # Errors
/// Whatever keeps it from starting: certificates, a damaged directory, an address in use. Nothing was changed on disk then.
pub fn main_with(config: Config) -> anyhow::Result<()> {
    // The Raft library says at length what happens to peers that are down; the decisions are logged here.
    cfs_service::logs::start(&config, &["openraft"]);
    // One thread: nothing here computes for long, and handing work between threads would cost more than the work.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the async runtime does not start")?;
    let outcome = runtime.block_on(run(config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn run(config: Config) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let net = RealNet::shared();
    let mut asked = Signals::take().context("signals cannot be taken over")?;
    let control = {
        let (clock, net) = (clock.clone(), net.clone());
        Arc::new(blocking(move || load(config, clock, net)).await??)
    };
    control.peers.set(&control.addresses());
    let servers = bind(&control, &*net).await?;
    let directory = control.config.control_dir().to_owned();
    let now_ms = control.boot_ms();
    let away_ms = blocking(move || alive::away_ms(&directory, now_ms)).await?;
    let founded = enter(&control).await?;
    sealed::resume(&control).await?;
    let alone = control.state().wanted_voters().into_iter().eq([control.id()]);
    *control.restart() = Restart { away_ms, current: founded || !alone, ..Restart::default() };
    if !control.config.site.witness {
        tokio::spawn(attend::run(control.clone()));
        tokio::spawn(words::tell(control.clone()));
    }
    tokio::spawn(reporter::run(control.clone()));
    tokio::spawn(lead::run(control.clone()));
    tokio::spawn(keep_addresses(control.clone()));
    tokio::spawn(contact::run(control.clone()));
    tokio::spawn(hooks::tell_changes(control.clone()));
    tokio::spawn(alive::run(control.clone()));
    tokio::spawn(sealed::watch(control.clone()));
    let of_thread = control.clone();
    let reload = move || {
        of_thread.look_for_authority();
        of_thread.tls.reload()
    };
    tokio::spawn(certificates::follow(reload, || ()));
    tokio::spawn(watchdog::run(control.clone()));
    tokio::spawn(cfs_service::usage::watch(control.config.paths.state.clone()));
    tracing::info!(site = %control.site(), id = %control.id(), listen = control.config.listen.control, "the control process runs");
    // Also without a majority, without others, not enrolled: it answers, and says so.
    manager::ready("serves");
    tokio::select! {
        outcome = servers => outcome.context("a server ended"),
        () = signals::obey(&control, &mut asked) => {
            if let Some(node) = control.node() {
                node.shutdown().await;
            }
            Ok(())
        }
    }
}

/// Checks the certificate against the configuration. Blocks.
fn load(config: Config, clock: Arc<dyn Clock>, net: Arc<dyn Net>) -> anyhow::Result<Control> {
    let tls = SharedTls::load(config.tls_dir(), Role::Control, clock.clone())?;
    let identity = tls.identity();
    if (&identity.site, identity.cluster) != (&config.site.name, config.cluster.id) {
        anyhow::bail!(
            "the certificate in {} is for {} of cluster {}, the configuration {} is for {} of cluster {}: install the \
             certificate of this site",
            config.tls_dir().display(),
            identity.site,
            identity.cluster,
            config.file.display(),
            config.site.name,
            config.cluster.id
        );
    }
    for directory in [&config.paths.state, &config.control_dir().to_owned()] {
        private_file::create_directory(directory).with_context(|| format!("{}", directory.display()))?;
    }
    let peers = Peers::new(net, tls.clone());
    Ok(Control::new(config, clock, Arc::new(tls), peers))
}

/// Takes up the group that this site is in, or founds one if the one-time file says so; otherwise waits for an operator.
/// Returns whether it founded.
async fn enter(control: &Arc<Control>) -> anyhow::Result<bool> {
    let config = &control.config;
    let file = config.founding_file();
    let node = Node::open(control).await?;
    let (evidence, founding) = {
        let (file, shipper) = (file.clone(), config.paths.state.join("shipper"));
        blocking(move || (Evidence::of(&shipper), read_founding(&file))).await?
    };
    let founding = if node.is_some() { None } else { founding? };
    let peers = config.peers.iter().filter(|peer| !peer.witness);
    let decision = founding::decide(&Start {
        site: control.site().to_string(),
        witness: config.site.witness,
        state: node.as_ref().map(|node| node.applied().borrow().state.group),
        // Another site's directory does not open.
        state_site: control.site().to_string(),
        founding_file: founding.is_some(),
        was_member: evidence.was_member,
        knows_epochs: evidence.knows_epochs,
        peers: peers.map(|peer| peer.name.to_string()).collect(),
    });
    match decision {
        Decision::Resume(_) => {
            control.set_node(node);
            // A crash between founding and here left it.
            let _ = std::fs::remove_file(&file);
            Ok(false)
        }
        Decision::Wait { why, next } | Decision::Refuse { why, next } => {
            tracing::warn!("NOT_ENROLLED: {why}; {next}");
            control.set_waiting(why, next);
            Ok(false)
        }
        Decision::Found => {
            let cluster = founding.map(|founding| founding.cluster).unwrap_or_default();
            anyhow::ensure!(
                cluster == config.cluster.id.to_string(),
                "{} founds cluster {cluster}, the configuration is for {}: make them agree",
                file.display(),
                config.cluster.id
            );
            found(control).await?;
            std::fs::remove_file(&file)
                .with_context(|| format!("{} is consumed and cannot be removed", file.display()))?;
            Ok(true)
        }
    }
}

/// What a shipper's state says of its site's past.
#[derive(Debug, PartialEq, Eq)]
struct Evidence {
    was_member: bool,
    knows_epochs: bool,
}

impl Evidence {
    /// Of the shipper whose state is in this directory. What does not read was written by one of a member. Blocks.
    fn of(shipper: &std::path::Path) -> Self {
        let kept = match private_file::read(&shipper.join("governed.json")) {
            Ok(bytes) => serde_json::from_slice::<serde_json::Value>(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Self { was_member: false, knows_epochs: false };
            }
            Err(_) => serde_json::Value::Null,
        };
        let Some(history) = kept["history"].as_object() else { return Self { was_member: true, knows_epochs: true } };
        Self { was_member: !kept["incarnation"].is_null(), knows_epochs: !history.is_empty() }
    }
}

#[derive(Deserialize)]
struct FoundingFile {
    cluster: String,
}

fn read_founding(file: &std::path::Path) -> anyhow::Result<Option<FoundingFile>> {
    match private_file::read(file) {
        Ok(bytes) => {
            let founding = serde_json::from_slice(&bytes);
            founding
                .map(Some)
                .with_context(|| format!("{} does not read: run `cfs admin tls init` again", file.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{}", file.display())),
    }
}

async fn found(control: &Arc<Control>) -> anyhow::Result<()> {
    let settings = &control.config.control;
    let mut site = control.as_member();
    site.node = 1;
    let founding = Founding {
        cluster: control.config.cluster.id,
        group: rand::random::<u64>().max(1),
        site,
        settings: Settings {
            lease_ms: Some(settings.lease_ms),
            copies: u8::try_from(control.config.replication.durability.copies()).ok(),
            auto_rejoin: Some(settings.auto_rejoin),
            auto_failover: Some(settings.auto_failover),
            goes_on_alone: Some(settings.goes_on_alone),
        },
        level: control.config.cluster.level,
        parent: None,
    };
    let kind = Kind::Found(Box::new(founding.clone()));
    let command = Command { at_ms: control.wall_ms(), by: control.site().to_string(), kind };
    let node = Node::found(control, &founding, command).await?;
    control.set_node(Some(node));
    tracing::info!(group = format!("{:016x}", founding.group), "the cluster is founded");
    Ok(())
}

/// Binds every socket; the future serves them and ends only with an error.
async fn bind(
    control: &Arc<Control>,
    net: &dyn Net,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + use<>> {
    let listen = &control.config.listen;
    let local = unix::bind_for_group(&control.config.control_socket(), &control.config.control.group)?;
    let port = net.bind(&listen.control).await.with_context(|| format!("listen.control = {}", listen.control))?;
    let local = http2::server()
        .add_service(AdminServer::new(admin::Service(control.clone())))
        .add_service(cfs_service::debug::server())
        .serve_with_incoming(unix::incoming_of_group(local));
    let refusals = control.clone();
    // Those without a certificate reach a server of their own, with one service.
    let (hand_over, strangers) = mpsc::channel(STRANGERS);
    let admission =
        Admission::of([Role::Control]).on_refused(move |_| refusals.metrics.refused_connection()).strangers(hand_over);
    let joining = EnrollmentServer::new(join::Service(control.clone()))
        .max_decoding_message_size(cfs_rpc::join::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(cfs_rpc::join::MAX_MESSAGE_BYTES);
    let strangers = http2::server()
        .add_service(joining)
        .serve_with_incoming(ReceiverStream::new(strangers).map(Ok::<_, std::io::Error>));
    let service = ControlServer::new(grpc::Service(control.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let remote =
        http2::server().add_service(service).serve_with_incoming(incoming(port, (*control.tls).clone(), admission));
    let http = match &listen.http {
        None => None,
        Some(address) => {
            let listener = tokio::net::TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("listen.http = {address}"))?;
            Some(http::serve(control.clone(), listener))
        }
    };
    Ok(async move {
        tokio::select! {
            outcome = local => outcome.context("the local socket"),
            outcome = remote => outcome.context("the control port"),
            outcome = strangers => outcome.context("the control port's invitations"),
            outcome = optional(http) => outcome.context("the HTTP port"),
        }
    })
}

async fn optional<T>(server: Option<impl Future<Output = T>>) -> T {
    match server {
        Some(server) => server.await,
        None => std::future::pending().await,
    }
}

/// Connects to whoever is enrolled or configured, as that changes.
async fn keep_addresses(control: Arc<Control>) {
    let mut group = control.watch_node();
    loop {
        control.peers.set(&control.addresses());
        let node = control.node();
        tokio::select! {
            _ = group.changed() => {}
            () = attend::applied(node.as_deref()) => {}
        }
    }
}

#[cfg(test)]
#[path = "start_tests.rs"]
mod tests;
