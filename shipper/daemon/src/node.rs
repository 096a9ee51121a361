//! What all parts of one shipper share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use cfs_config::{Config, SyncFallback};
use cfs_journal::Journal;
use cfs_model::{Epoch, Lsn, SiteId, SiteName, StreamId};
use cfs_rpc::clock::Clock;
use cfs_rpc::net::Net;
use cfs_rpc::tls::SharedTls;
use cfs_shipper_core::ack::acknowledged;
use cfs_shipper_core::admit::Admission;
use cfs_shipper_core::pull::Plan;
use cfs_store::Store;

use crate::governor::Governed;
use crate::metrics::Metrics;
use crate::peers::{Peer, Peers};
use crate::positions::Positions;
use crate::signal::Signal;
use crate::space::Space;

/// The world that a shipper runs in; a simulation brings its own.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) net: Arc<dyn Net>,
}

/// One shipper.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) world: World,
    pub(crate) tls: Arc<SharedTls>,
    pub(crate) journal: Journal,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) positions: Positions,
    pub(crate) peers: Peers,
    pub(crate) governed: Governed,
    pub(crate) metrics: Metrics,
    pub(crate) space: Space,
    pub(crate) signals: Signals,
    pub(crate) started_ms: u64,
    admission: Mutex<Admission>,
    plan: Mutex<Plan>,
    /// The highest clock in any batch that is durable here: the own stream's clock starts above it.
    seen_clock: AtomicU64,
    sessions: AtomicU64,
    degraded: AtomicBool,
}

/// What can be waited for.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// A stream grew on this site's disk.
    pub(crate) durable: Signal,
    /// The store committed.
    pub(crate) applied: Signal,
    /// A peer reported.
    pub(crate) peers: Signal,
    /// Role, epoch, floor or readiness changed.
    pub(crate) role: Signal,
}

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) world: World,
    pub(crate) tls: Arc<SharedTls>,
    pub(crate) journal: Journal,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) governed: Governed,
    pub(crate) space: Space,
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { config, world, tls, journal, store, governed, space } = parts;
        let peers = Peers::new(config.peers.iter().map(|peer| (peer.name.clone(), peer.id)));
        let started_ms = boot_ms(&*world.clock);
        Self {
            metrics: Metrics::new(),
            config,
            world,
            tls,
            journal,
            store,
            positions: Positions::default(),
            peers,
            governed,
            space,
            signals: Signals::default(),
            started_ms,
            admission: Mutex::default(),
            plan: Mutex::default(),
            seen_clock: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            degraded: AtomicBool::new(false),
        }
    }

    pub(crate) fn site(&self) -> &SiteName {
        &self.config.site.name
    }

    pub(crate) const fn id(&self) -> SiteId {
        self.config.site.id
    }

    /// Name of a site by number; unknown sites get their number.
    pub(crate) fn site_name(&self, id: SiteId) -> String {
        if id == self.id() {
            return self.site().to_string();
        }
        let peer = self.config.peers.iter().find(|peer| peer.id == id);
        peer.map_or_else(|| format!("site number {id}"), |peer| peer.name.to_string())
    }

    pub(crate) fn boot_ns(&self) -> u64 {
        nanos(self.world.clock.boot())
    }

    pub(crate) fn boot_ms(&self) -> u64 {
        boot_ms(&*self.world.clock)
    }

    /// The wall clock, in nanoseconds since the Unix epoch.
    pub(crate) fn wall_ns(&self) -> u64 {
        nanos(self.world.clock.wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }

    /// Who may append and at which LSN. Queue what it admits before letting go of it.
    pub(crate) fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which session pulls which stream.
    pub(crate) fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no session of this process had before.
    pub(crate) fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes note of the clock of an entry that is durable here.
    pub(crate) fn saw_clock(&self, clock: u64) {
        self.seen_clock.fetch_max(clock, Ordering::AcqRel);
    }

    pub(crate) fn seen_clock(&self) -> u64 {
        self.seen_clock.load(Ordering::Acquire)
    }

    /// How far the own stream is acknowledged with `copies` other sites (invariant 4).
    pub(crate) fn acknowledged(&self, stream: StreamId, epoch: Epoch, copies: usize) -> Lsn {
        let here = self.positions.cursor(stream).durable();
        if copies == 0 || self.is_degraded(copies) {
            return here;
        }
        acknowledged(here, &mut self.peers.durable(stream, epoch), copies)
    }

    /// Whether the site goes on locally because fewer than `copies` others are heard, as `sync_fallback = degrade` says.
    fn is_degraded(&self, copies: usize) -> bool {
        if self.config.replication.sync_fallback == SyncFallback::Block {
            return false;
        }
        let now_ms = self.boot_ms();
        let heard = |peer: &&Peer| peer.is_heard(now_ms, self.silence_ms());
        let degraded = self.peers.lock().values().filter(heard).count() < copies;
        if degraded != self.degraded.swap(degraded, Ordering::AcqRel) {
            if degraded {
                self.metrics.error("degraded");
                tracing::error!(copies, "too few sites are heard: appends are acknowledged when durable here alone");
            } else {
                tracing::info!(copies, "enough sites are heard again");
            }
        }
        degraded
    }

    /// Entries that were admitted and are not durable yet.
    pub(crate) fn queued_entries(&self) -> u64 {
        let admission = self.admission();
        let Some((_, stream)) = admission.accepting() else { return 0 };
        let last = admission.last_lsn();
        drop(admission);
        last.0.saturating_sub(self.positions.cursor(stream).durable().0)
    }

    pub(crate) fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.config.replication.heartbeat_ms)
    }

    /// A peer that was silent for so long is down: three heartbeats and a second.
    pub(crate) fn silence_ms(&self) -> u64 {
        3 * self.config.replication.heartbeat_ms + 1000
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn boot_ms(clock: &dyn Clock) -> u64 {
    nanos(clock.boot()) / 1_000_000
}
