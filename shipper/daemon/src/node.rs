//! What all parts of one shipper share.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use cfs_audit::{Event, Kind, Severity};
use cfs_config::{Config, Peer as PeerConfig, SyncFallback};
use cfs_journal::Journal;
use cfs_model::{Epoch, Lsn, SiteId, SiteName, StreamId, Vector};
use cfs_rpc::clock::Clock;
use cfs_rpc::net::Net;
use cfs_rpc::tls::SharedTls;
use cfs_shipper_core::ack;
use cfs_shipper_core::admit::Admission;
use cfs_shipper_core::pull::Plan;
use cfs_store::Store;

use crate::audit::Audit;
use crate::bootstrap::Bootstrap;
use crate::bootstrap::give::Copies;
use crate::directed::Directed;
use crate::governed::Governed;
use crate::metrics::Metrics;
use crate::peers::{Peer, Peers};
use crate::positions::Positions;
use crate::probe::Proof;
use crate::recent::Recent;
use crate::retention::Retention;
use crate::settings::Settings;
use crate::signal::Signal;
use crate::space::Space;
use crate::unshared::Unshared;

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
    /// Settings that change while the process runs.
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
    pub(crate) recent: Recent,
    pub(crate) space: Space,
    pub(crate) audit: Audit,
    pub(crate) signals: Signals,
    pub(crate) proof: Proof,
    pub(crate) unshared: Unshared,
    pub(crate) bootstrap: Bootstrap,
    /// Copies of the store that are under way from here.
    pub(crate) copies: Copies,
    pub(crate) retention: Retention,
    /// Whose turn it is to read the whole store.
    pub(crate) checking: tokio::sync::Semaphore,
    /// Held while batches are applied, and while nothing may be.
    pub(crate) applying: tokio::sync::Mutex<()>,
    /// Held while an inode is repaired.
    pub(crate) repairing: tokio::sync::Mutex<()>,
    pub(crate) started_ms: u64,
    /// Drawn at the start, so that a restart shows.
    pub(crate) instance: u64,
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
    /// The process is to start anew.
    pub(crate) again: Signal,
}

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) world: World,
    pub(crate) tls: Arc<SharedTls>,
    pub(crate) journal: Journal,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) governed: Governed,
    pub(crate) settings: Settings,
    pub(crate) space: Space,
    pub(crate) bootstrap: Bootstrap,
    pub(crate) audit: Audit,
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { config, world, tls, journal, store, governed, settings, space, audit, bootstrap } = parts;
        let peers = Peers::new(config.data_peers().map(|peer| (peer.name.clone(), peer.id)));
        let started_ms = boot_ms(&*world.clock);
        Self {
            metrics: Metrics::new(),
            recent: Recent::default(),
            config,
            world,
            tls,
            journal,
            store,
            positions: Positions::default(),
            peers,
            governed,
            settings,
            space,
            audit,
            signals: Signals::default(),
            proof: Proof::new(started_ms),
            unshared: Unshared::default(),
            bootstrap,
            copies: Copies::default(),
            retention: Retention::default(),
            checking: tokio::sync::Semaphore::new(1),
            applying: tokio::sync::Mutex::default(),
            repairing: tokio::sync::Mutex::default(),
            started_ms,
            // The keys of a hash map are drawn from the system.
            instance: RandomState::new().build_hasher().finish().max(1),
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

    /// Every other site with a shipper that may take part: as this site's configuration has it, else as it was enrolled.
    pub(crate) fn known_peers(&self) -> Vec<PeerConfig> {
        let mut peers: Vec<PeerConfig> = self.config.data_peers().cloned().collect();
        let directed = self.governed.directed();
        let known = |name: &SiteName| name == self.site() || self.config.peer(name).is_some();
        let enrolled = directed.enrolled.iter().filter(|peer| !known(&peer.name) && !peer.peer.is_empty());
        peers.extend(enrolled.cloned());
        peers
    }

    /// One of them. Whether it takes part yet is told with the streams.
    pub(crate) fn known_peer(&self, site: &SiteName) -> Option<PeerConfig> {
        self.known_peers().into_iter().find(|peer| peer.name == *site)
    }

    /// Those of them that belong to the cluster: not one that was removed, or is not enrolled yet, which the configuration may
    /// name.
    pub(crate) fn data_peers(&self) -> Vec<PeerConfig> {
        let directed = self.governed.directed();
        self.known_peers().into_iter().filter(|peer| directed.belongs(peer.id)).collect()
    }

    /// One of them.
    pub(crate) fn data_peer(&self, site: &SiteName) -> Option<PeerConfig> {
        self.data_peers().into_iter().find(|peer| peer.name == *site)
    }

    /// Name of a site by number; unknown sites get their number.
    pub(crate) fn site_name(&self, id: SiteId) -> String {
        if id == self.id() {
            return self.site().to_string();
        }
        let peer = self.known_peers().into_iter().find(|peer| peer.id == id);
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

    /// How far the own stream is acknowledged to a session that asks for `asked` copies (invariant 4), under the rules of
    /// `directed`. `base` is what was applied here when the stream was opened in `epoch`.
    pub(crate) fn acknowledged(
        &self,
        directed: &Directed,
        (stream, epoch): (StreamId, Epoch),
        base: &Vector,
        asked: usize,
    ) -> Option<Lsn> {
        let here = self.positions.cursor(stream).durable();
        if directed.rules.iter().all(|rule| rule.copies.max(asked) == 0) && asked == 0 {
            return Some(here);
        }
        if self.is_degraded(directed, asked) {
            return Some(here);
        }
        ack::acknowledged(here, self.id(), &directed.rules, asked, &self.peers.counting(stream, epoch, base))
    }

    /// The highest rule that everything acknowledged in the present epoch meets, with every earlier one.
    pub(crate) fn confirmed_rule(&self) -> u64 {
        let admission = self.admission();
        let (stream, base) = (admission.unsettled().map(|(stream, _)| stream), admission.base());
        drop(admission);
        let Some(stream) = stream else { return 0 };
        self.governed.confirmed_rule(|given, directed| {
            let others = self.peers.counting(stream, directed.epoch, &base);
            given.confirmed(self.id(), &directed.rules, directed.promised, &others)
        })
    }

    /// Whether a rule is in force that is not confirmed yet.
    pub(crate) fn is_confirming(&self) -> bool {
        let directed = self.governed.directed();
        let newest = directed.rules.iter().map(|rule| rule.id).max().unwrap_or(0);
        directed.primary && self.confirmed_rule() < newest
    }

    /// The first stream of the last directive's cut that is not applied here, and up to where it has to be.
    pub(crate) fn cut_missing(&self) -> Option<(StreamId, Lsn)> {
        let directed = self.governed.directed();
        self.first_unapplied(&directed, &directed.cut)
    }

    fn first_unapplied(&self, directed: &Directed, wanted: &Vector) -> Option<(StreamId, Lsn)> {
        if wanted.is_empty() {
            return None;
        }
        let applied = self.store.position().applied;
        wanted.iter().find(|(stream, lsn)| {
            let end = directed.closed.get(stream).copied().unwrap_or(*lsn);
            applied.get(*stream) < end.min(*lsn)
        })
    }

    /// Whether the last directive's cut, and what it asks this site to fetch, are applied here: a change of primary waits
    /// for both.
    pub(crate) fn is_caught_up(&self) -> bool {
        let directed = self.governed.directed();
        [&directed.cut, &directed.fetch].iter().all(|wanted| self.first_unapplied(&directed, wanted).is_none())
    }

    /// Whether everything that was handed out an LSN is durable here, or was taken back.
    pub(crate) fn is_settled(&self) -> bool {
        let unsettled = self.admission().unsettled();
        unsettled.is_none_or(|(stream, lsn)| self.positions.cursor(stream).durable() >= lsn)
    }

    /// Whether the site goes on locally because fewer sites than needed are heard, as `sync_fallback = degrade` says.
    fn is_degraded(&self, directed: &Directed, asked: usize) -> bool {
        if self.settings.now().sync_fallback == SyncFallback::Block {
            return false;
        }
        let now_ms = self.boot_ms();
        let heard = |peer: &&Peer| peer.is_heard(now_ms, self.silence_ms());
        let heard: Vec<SiteId> = self.peers.lock().values().filter(heard).map(|peer| peer.id).collect();
        let degraded = directed
            .rules
            .iter()
            .any(|rule| heard.iter().filter(|site| rule.members.contains(site)).count() < rule.copies.max(asked));
        if degraded != self.degraded.swap(degraded, Ordering::AcqRel) {
            if degraded {
                self.metrics.error("degraded");
                let text = "ERROR: too few sites are heard: appends are acknowledged when durable here alone";
                self.audit(Event::new(Kind::Durability, Severity::Error, text));
                tracing::error!(asked, "too few sites are heard: appends are acknowledged when durable here alone");
            } else {
                tracing::info!(asked, "enough sites are heard again");
                let text = "enough sites are heard again: appends are acknowledged as their durability says";
                self.audit(Event::new(Kind::Durability, Severity::Info, text));
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

    /// Who pulls ends a session in which it heard nothing for so long; its source waits twice that, for one whose disk is slow
    /// takes its time to answer.
    pub(crate) fn session_silence(&self) -> Duration {
        Duration::from_millis(self.silence_ms().max(3000))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn boot_ms(clock: &dyn Clock) -> u64 {
    nanos(clock.boot()) / 1_000_000
}
