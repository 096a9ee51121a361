//! What all parts of one control process share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use cfs_config::cluster::InForce;
use cfs_config::{Config, SyncFallback};
use cfs_control_core::alone::Restart;
use cfs_control_core::local::Local;
use cfs_control_core::report::SHIPPER_HANGS_MS;
use cfs_control_core::{Site, State};
use cfs_model::{SiteId, SiteName};
use cfs_rpc::clock::Clock;
use cfs_rpc::tls::SharedTls;
use cfs_rpc::v1;
use tokio::sync::{Notify, watch};

use crate::contact::Contacts;
use crate::lead::Lead;
use crate::member::Node;
use crate::metrics::Metrics;
use crate::raft::Peers;
use crate::words::Words;

/// One control process.
pub(crate) struct Control {
    /// As read at the start.
    pub(crate) config: Config,
    /// As read last: what can change while this process runs is looked up here.
    own: watch::Sender<Arc<Config>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tls: Arc<SharedTls>,
    /// Connections to other control processes.
    pub(crate) peers: Peers,
    /// Drawn at the start of this process.
    pub(crate) instance: u64,
    started_ms: u64,
    pub(crate) metrics: Metrics,
    /// This process's member of the group; `None` while it is not enrolled.
    group: watch::Sender<Option<Arc<Node>>>,
    /// Why it is not, and the command that goes on; empty if it is.
    waiting: Mutex<(String, String)>,
    local: Mutex<Local>,
    restart: Mutex<Restart>,
    pub(crate) shipper: watch::Sender<ShipperView>,
    pub(crate) contacts: Contacts,
    pub(crate) words: Words,
    /// The leader's memory, while this process leads.
    lead: watch::Sender<Option<Arc<Lead>>>,
    /// Something that a report tells has changed.
    pub(crate) report_soon: Notify,
    /// Something that the shipper is told has changed.
    pub(crate) direct_soon: Notify,
    sequence: AtomicU64,
    /// The authority's key can be read here.
    signs: AtomicBool,
    /// Until when this process keeps the leadership, on the boot clock.
    keep_lead_ms: AtomicU64,
    /// Held while the group is replaced or an operator's change is under way here.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Held while the cluster's settings are changed, so that what was before is told right.
    pub(crate) configuring: tokio::sync::Mutex<()>,
    /// Held while the reason of a seal is written or forgotten.
    pub(crate) sealing: tokio::sync::Mutex<()>,
}

/// The shipper as this process sees it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShipperView {
    /// A session with it lasts.
    pub(crate) connected: bool,
    /// What it said last, also in a session that has ended.
    pub(crate) report: Option<v1::ShipperReport>,
    /// When, on the boot clock.
    pub(crate) at_ms: u64,
    /// Why there is no session.
    pub(crate) error: String,
}

impl ShipperView {
    /// What it said last, if the session lasts and it still says something: a process that hangs keeps its session.
    pub(crate) fn speaking(&self, now_ms: u64) -> Option<&v1::ShipperReport> {
        self.live().filter(|_| now_ms.saturating_sub(self.at_ms) <= SHIPPER_HANGS_MS)
    }

    /// What it said last, if the session lasts.
    pub(crate) fn live(&self) -> Option<&v1::ShipperReport> {
        self.report.as_ref().filter(|_| self.connected)
    }
}

impl Control {
    pub(crate) fn new(config: Config, clock: Arc<dyn Clock>, tls: Arc<SharedTls>, peers: Peers) -> Self {
        let local = Local::new(config.site.id, config.control.restart_grace_ms);
        Self {
            peers,
            started_ms: ms(clock.boot()),
            clock,
            tls,
            instance: rand::random::<u64>().max(1),
            metrics: Metrics::new(),
            group: watch::Sender::new(None),
            waiting: Mutex::default(),
            local: Mutex::new(local),
            restart: Mutex::default(),
            shipper: watch::Sender::new(ShipperView::default()),
            contacts: Contacts::new(&config),
            words: Words::default(),
            lead: watch::Sender::new(None),
            report_soon: Notify::new(),
            direct_soon: Notify::new(),
            sequence: AtomicU64::new(0),
            signs: AtomicBool::new(false),
            keep_lead_ms: AtomicU64::new(0),
            changing: tokio::sync::Mutex::new(()),
            configuring: tokio::sync::Mutex::new(()),
            sealing: tokio::sync::Mutex::new(()),
            own: watch::Sender::new(Arc::new(config.clone())),
            config,
        }
    }

    pub(crate) fn site(&self) -> &SiteName {
        &self.config.site.name
    }

    pub(crate) const fn id(&self) -> SiteId {
        self.config.site.id
    }

    /// The configuration as read last.
    pub(crate) fn own(&self) -> Arc<Config> {
        self.own.borrow().clone()
    }

    /// Whether an acknowledgement waits for the other sites that it needs, however long that takes.
    pub(crate) fn waits_for_copies(&self, state: &State) -> bool {
        InForce::of(&self.own(), &state.settings).sync_fallback == SyncFallback::Block
    }

    /// The file was read again.
    pub(crate) fn set_own(&self, config: Config) {
        self.local().set_grace_ms(config.control.restart_grace_ms);
        self.own.send_replace(Arc::new(config));
    }

    pub(crate) fn boot_ns(&self) -> u64 {
        u64::try_from(self.clock.boot().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) fn uptime_ms(&self) -> u64 {
        self.boot_ms().saturating_sub(self.started_ms)
    }

    pub(crate) fn boot_ms(&self) -> u64 {
        ms(self.clock.boot())
    }

    /// The wall clock in milliseconds since the Unix epoch: for people.
    pub(crate) fn wall_ms(&self) -> u64 {
        ms(self.clock.wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }

    /// This process's member of the group.
    pub(crate) fn node(&self) -> Option<Arc<Node>> {
        self.group.borrow().clone()
    }

    /// Sees every change of it.
    pub(crate) fn watch_node(&self) -> watch::Receiver<Option<Arc<Node>>> {
        self.group.subscribe()
    }

    /// Replaces it.
    pub(crate) fn set_node(&self, node: Option<Arc<Node>>) {
        self.contacts.forget();
        self.words.forget();
        self.group.send_replace(node);
        self.report_soon.notify_one();
        self.direct_soon.notify_one();
    }

    /// The replicated state as applied here; an empty one while this site is not enrolled.
    pub(crate) fn state(&self) -> Arc<State> {
        self.node().map_or_else(|| Arc::new(State::default()), |node| node.applied().borrow().state.clone())
    }

    /// Why this process is not enrolled; empty: it is.
    pub(crate) fn waiting(&self) -> String {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// The command that ends that.
    pub(crate) fn waiting_next(&self) -> String {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    pub(crate) fn set_waiting(&self, why: impl Into<String>, next: impl Into<String>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = (why.into(), next.into());
    }

    /// What this site knows of leases and orders. Hold it only for look-ups and small changes.
    pub(crate) fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a sole voter must know before it grants leases after a restart.
    pub(crate) fn restart(&self) -> MutexGuard<'_, Restart> {
        self.restart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the authority's key can be read here, so that this site can sign.
    pub(crate) fn signs(&self) -> bool {
        self.signs.load(Ordering::Relaxed)
    }

    /// Looks whether it can. Blocks.
    pub(crate) fn look_for_authority(&self) {
        let key = self.authority_dir().join(cfs_rpc::ca::CA_KEY);
        self.signs.store(std::fs::File::open(key).is_ok(), Ordering::Relaxed);
    }

    /// Where the authority is, if it is at this site: beside the configuration.
    pub(crate) fn authority_dir(&self) -> std::path::PathBuf {
        self.config.file.with_file_name("ca")
    }

    /// The leader's memory, while this process leads.
    pub(crate) fn lead(&self) -> Option<Arc<Lead>> {
        self.lead.borrow().clone()
    }

    pub(crate) fn set_lead(&self, lead: Option<Arc<Lead>>) {
        self.lead.send_replace(lead);
    }

    /// Keeps the leadership, once this process has it, for so long.
    pub(crate) fn hold_leadership(&self, ms: u64) {
        self.keep_lead_ms.store(self.boot_ms().saturating_add(ms), Ordering::Relaxed);
    }

    pub(crate) fn leadership_is_held(&self) -> bool {
        self.boot_ms() < self.keep_lead_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// This site as others are to know it. An address that stands for all of a machine's is told by the site's name.
    pub(crate) fn as_member(&self) -> Site {
        let named = |address: &str| advertised(address, self.site());
        let listen = &self.config.listen;
        let data = |address: String| if self.config.site.witness { String::new() } else { address };
        Site {
            id: self.id(),
            name: self.site().clone(),
            witness: self.config.site.witness,
            node: 0,
            peer: data(named(&listen.peer)),
            producer: data(listen.producer.as_deref().map(named).unwrap_or_default()),
            control: named(&listen.control),
            http: listen.http.as_deref().map(named).unwrap_or_default(),
            priority: self.config.site.priority,
        }
    }

    /// Whether this site's own lease lasts now.
    pub(crate) fn holds_lease(&self) -> bool {
        let state = self.state();
        self.local().deadline_ns(&state) > self.boot_ns()
    }

    /// The same as text.
    pub(crate) fn addresses(&self) -> BTreeMap<String, String> {
        self.others().into_iter().map(|(site, address)| (site.to_string(), address)).collect()
    }

    /// Names of all other sites that this one knows, with the addresses of their control processes: as configured, else as
    /// enrolled.
    pub(crate) fn others(&self) -> BTreeMap<SiteName, String> {
        let state = self.state();
        let enrolled = state.sites.values().map(|site| (site.name.clone(), site.control.clone()));
        let configured = self.config.peers.iter().map(|peer| (peer.name.clone(), peer.control.clone()));
        let left =
            |name: &SiteName| state.named(name.as_str()).is_none() && state.removed.values().any(|gone| gone == name);
        enrolled.chain(configured).filter(|(name, _)| name != self.site() && !left(name)).collect()
    }
}

/// The address under which others reach what listens on `address`.
fn advertised(address: &str, site: &SiteName) -> String {
    match address.rsplit_once(':') {
        Some(("0.0.0.0" | "[::]" | "*", port)) => format!("{site}:{port}"),
        _ => address.to_owned(),
    }
}

pub(crate) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Runs `work`, which blocks, away from the async runtime.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shipper_that_hangs_keeps_its_session_and_does_not_speak() {
        let report = Some(v1::ShipperReport::default());
        let view = ShipperView { connected: true, report, at_ms: 1_000, error: String::new() };
        assert!(view.speaking(1_000 + SHIPPER_HANGS_MS).is_some());
        assert!(view.speaking(1_001 + SHIPPER_HANGS_MS).is_none() && view.live().is_some());
        assert!(ShipperView { connected: false, ..view }.speaking(1_000).is_none());
    }
}
