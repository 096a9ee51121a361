//! What happened of late: rates over ten seconds, errors and conflicts, and who appends.

mod producers;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cfs_model::SiteName;
use cfs_service::Window;

use crate::node::Node;
use crate::recent::producers::Producers;

/// How often counters are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
const STEP_MS: u64 = 1_000;
/// Rates are those of so long.
const RATE_SPAN_MS: u64 = 10_000;

/// Counters as they were a while ago. Each knows nothing before the first look, which comes with the start.
#[derive(Debug)]
pub(crate) struct Recent(Mutex<Table>);

#[derive(Debug)]
struct Table {
    errors: Window,
    conflicts: Window,
    appended: Window,
    sent: Window,
    received: Window,
    sent_to: BTreeMap<SiteName, Window>,
    producers: Producers,
}

const fn rate() -> Window {
    Window::new(RATE_SPAN_MS, STEP_MS)
}

impl Default for Recent {
    fn default() -> Self {
        Self(Mutex::new(Table {
            errors: Window::new(5 * 60_000, 10_000),
            conflicts: Window::new(60 * 60_000, 60_000),
            appended: rate(),
            sent: rate(),
            received: rate(),
            sent_to: BTreeMap::new(),
            producers: Producers::default(),
        }))
    }
}

/// Entries or bytes a second.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    pub(crate) appended: Option<f64>,
    pub(crate) sent: Option<f64>,
    pub(crate) received: Option<f64>,
    /// The busiest first.
    pub(crate) producers: Vec<(String, f64)>,
}

impl Recent {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A producer's entries were admitted.
    pub(crate) fn admitted(&self, producer: &Bytes, entries: u64, now_ms: u64) {
        self.table().producers.admitted(producer, entries, now_ms);
    }

    /// Errors within the last five minutes, of `total` since the start.
    pub(crate) fn errors(&self, now_ms: u64, total: u64) -> Option<u64> {
        self.table().errors.growth(now_ms, total as f64).map(|by| by as u64)
    }

    /// Conflicts within the last hour that lost something.
    pub(crate) fn conflicts(&self, now_ms: u64, total: u64) -> Option<u64> {
        self.table().conflicts.growth(now_ms, total as f64).map(|by| by as u64)
    }

    pub(crate) fn rates(&self, node: &Node) -> Rates {
        let (now_ms, metrics) = (node.boot_ms(), &node.metrics);
        let table = self.table();
        Rates {
            appended: table.appended.per_second(now_ms, metrics.entries_appended() as f64),
            sent: table.sent.per_second(now_ms, metrics.bytes_sent() as f64),
            received: table.received.per_second(now_ms, metrics.bytes_received() as f64),
            producers: table.producers.busiest(now_ms),
        }
    }

    /// Bytes a second sent to a site, of `total` since the start.
    pub(crate) fn sent_to(&self, site: &SiteName, now_ms: u64, total: u64) -> Option<f64> {
        self.table().sent_to.get(site)?.per_second(now_ms, total as f64)
    }

    fn look(&self, node: &Node) {
        let (now_ms, metrics) = (node.boot_ms(), &node.metrics);
        let sent_to: Vec<(SiteName, u64)> =
            node.peers.lock().iter().map(|(site, peer)| (site.clone(), peer.sent_bytes)).collect();
        let mut table = self.table();
        table.errors.note(now_ms, metrics.errors() as f64);
        table.conflicts.note(now_ms, metrics.losses() as f64);
        table.appended.note(now_ms, metrics.entries_appended() as f64);
        table.sent.note(now_ms, metrics.bytes_sent() as f64);
        table.received.note(now_ms, metrics.bytes_received() as f64);
        table.producers.look(now_ms);
        table.sent_to.retain(|site, _| sent_to.iter().any(|(known, _)| known == site));
        for (site, bytes) in sent_to {
            table.sent_to.entry(site).or_insert_with(rate).note(now_ms, bytes as f64);
        }
    }
}

/// Looks for as long as the process lives.
pub(crate) async fn watch(node: Arc<Node>) {
    loop {
        node.recent.look(&node);
        tokio::time::sleep(INTERVAL).await;
    }
}
