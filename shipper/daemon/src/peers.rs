//! What this site knows of the others.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cfs_model::{Epoch, Lsn, SiteId, SiteName, StreamId};
use cfs_rpc::v1;

/// One other site, as last heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    pub(crate) id: SiteId,
    /// Boot time in ms of its last message; `None` before the first.
    pub(crate) heard_at_ms: Option<u64>,
    /// What it reported as durable and applied.
    pub(crate) durable: BTreeMap<StreamId, Lsn>,
    pub(crate) applied: BTreeMap<StreamId, Lsn>,
    /// Nothing of an older epoch is acknowledged by it.
    pub(crate) floor: Epoch,
    pub(crate) rtt_us: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    /// Why it is not fine; empty if it is.
    pub(crate) trouble: String,
    /// A stream of it and ours have the same position and another content.
    pub(crate) diverged: bool,
    /// The last fault in what it sent, so that the same one again and again is one episode; empty once it sent sound
    /// batches.
    pub(crate) fault: String,
    /// An episode without connection is under way, and was counted.
    pub(crate) down: bool,
}

impl Peer {
    /// Since its last message, or since the start of this process at `started_ms`.
    pub(crate) fn silent_ms(&self, now_ms: u64, started_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_at_ms.unwrap_or(started_ms))
    }

    /// Whether it was heard at all, and no longer ago than `silence_ms`.
    pub(crate) fn is_heard(&self, now_ms: u64, silence_ms: u64) -> bool {
        self.heard_at_ms.is_some_and(|at| now_ms.saturating_sub(at) <= silence_ms)
    }
}

/// All other sites of the configuration.
#[derive(Debug)]
pub(crate) struct Peers(Mutex<BTreeMap<SiteName, Peer>>);

impl Peers {
    pub(crate) fn new(sites: impl IntoIterator<Item = (SiteName, SiteId)>) -> Self {
        Self(Mutex::new(sites.into_iter().map(|(name, id)| (name, Peer { id, ..Peer::default() })).collect()))
    }

    /// The table; hold it only for look-ups and small changes.
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<SiteName, Peer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one site's entry; unknown sites are ignored.
    pub(crate) fn update<T>(&self, site: &SiteName, change: impl FnOnce(&mut Peer) -> T) -> Option<T> {
        self.lock().get_mut(site).map(change)
    }

    /// Takes note of a message with cursors. Returns whether a cursor moved.
    pub(crate) fn heard(&self, site: &SiteName, now_ms: u64, floor: u64, streams: &[v1::StreamState]) -> bool {
        self.update(site, |peer| {
            peer.heard_at_ms = Some(now_ms);
            peer.floor = peer.floor.max(Epoch(floor));
            let mut moved = false;
            for state in streams {
                let Some((stream, position)) = state.durable.and_then(|p| Some((p.stream()?, p.lsn()))) else {
                    continue;
                };
                for (table, lsn) in [(&mut peer.durable, position), (&mut peer.applied, Lsn(state.applied_lsn))] {
                    let known = table.entry(stream).or_default();
                    // Also backwards: a site that lost its disk must not be counted for what it held before.
                    moved |= lsn != *known;
                    *known = lsn;
                }
            }
            moved
        })
        .unwrap_or(false)
    }

    /// How far each site that counts for epoch `epoch` has `stream` durable.
    pub(crate) fn durable(&self, stream: StreamId, epoch: Epoch) -> Vec<Lsn> {
        let table = self.lock();
        let counts = table.values().filter(|peer| peer.floor <= epoch);
        counts.map(|peer| peer.durable.get(&stream).copied().unwrap_or_default()).collect()
    }

    /// The cursor that each site has shown for `stream`; `None` if it was not heard since the start.
    pub(crate) fn shown(&self, stream: StreamId) -> BTreeMap<SiteName, Option<Lsn>> {
        let shown = |peer: &Peer| peer.heard_at_ms.map(|_| peer.durable.get(&stream).copied().unwrap_or_default());
        self.lock().iter().map(|(site, peer)| (site.clone(), shown(peer))).collect()
    }
}
