//! What this site knows of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cfs_model::{Epoch, Lsn, SiteId, SiteName, StreamId, Vector};
use cfs_rpc::v1;

/// One other site, as last heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    pub(crate) id: SiteId,
    /// Boot time in ms of its last message; `None` before the first.
    pub(crate) heard_at_ms: Option<u64>,
    /// Boot time in ms of the last frame that it sent as a source of streams; `None` before the first.
    pub(crate) sourced_at_ms: Option<u64>,
    /// What it reported as durable and applied.
    pub(crate) durable: BTreeMap<StreamId, Lsn>,
    pub(crate) applied: BTreeMap<StreamId, Lsn>,
    /// The first LSN that its journal still holds.
    pub(crate) first: BTreeMap<StreamId, Lsn>,
    /// Nothing of an older epoch is acknowledged by it.
    pub(crate) floor: Epoch,
    pub(crate) rtt_us: u64,
    /// Boot time in ms when that was measured last: an answer to what this site sent; `None`: never.
    pub(crate) answered_at_ms: Option<u64>,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    /// Of what was sent to it: by so much compression made it smaller.
    pub(crate) saved_bytes: u64,
    /// What others said last of what it has applied. Counts for lag alone.
    pub(crate) vouched: BTreeMap<StreamId, Lsn>,
    /// Boot time in ms when it said that to them.
    pub(crate) vouched_at_ms: Option<u64>,
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

    /// The same, counted from the last word on it, by whomever.
    pub(crate) fn unknown_ms(&self, now_ms: u64, started_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_at_ms.max(self.vouched_at_ms).unwrap_or(started_ms))
    }

    /// What it is known to have applied, by its own word or another's.
    pub(crate) fn applied_by_any(&self, stream: StreamId) -> Lsn {
        let of = |table: &BTreeMap<StreamId, Lsn>| table.get(&stream).copied().unwrap_or_default();
        // A site may go back: what it said itself last counts while it is the later.
        if self.vouched_at_ms > self.heard_at_ms { of(&self.vouched) } else { of(&self.applied) }
    }

    /// Whether it sent nothing as a source for longer than `silence_ms`: nothing can be pulled from it then, whatever it says
    /// over connections that it made itself.
    pub(crate) fn is_silent(&self, now_ms: u64, silence_ms: u64) -> bool {
        self.sourced_at_ms.is_none_or(|at| now_ms.saturating_sub(at) > silence_ms)
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

    /// Takes note of a site that is known from now on.
    pub(crate) fn add(&self, site: &SiteName, id: SiteId) {
        self.lock().entry(site.clone()).or_insert_with(|| Peer { id, ..Peer::default() });
    }

    /// A site is not known any more.
    pub(crate) fn remove(&self, site: &SiteName) {
        self.lock().remove(site);
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
                if state.first_lsn != 0 {
                    peer.first.insert(stream, Lsn(state.first_lsn));
                }
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

    /// Takes note of a frame that a site sent as a source.
    pub(crate) fn sourced(&self, site: &SiteName, now_ms: u64) {
        self.update(site, |peer| peer.sourced_at_ms = Some(now_ms));
    }

    /// Takes note of what another site says of one that said it at `at_ms`. Acknowledgements, pulls and waits are not
    /// touched by it (invariant 4). Returns whether it is the last that is known of the site.
    pub(crate) fn vouched(&self, site: SiteId, at_ms: u64, streams: &[v1::StreamState]) -> bool {
        let mut table = self.lock();
        let Some(peer) = table.values_mut().find(|peer| peer.id == site) else { return false };
        if peer.vouched_at_ms.is_some_and(|known| known >= at_ms) {
            return false;
        }
        peer.vouched_at_ms = Some(at_ms);
        let position = |state: &v1::StreamState| Some((state.durable?.stream()?, Lsn(state.applied_lsn)));
        peer.vouched = streams.iter().take(Vector::MAX_STREAMS).filter_map(position).collect();
        peer.heard_at_ms.is_none_or(|heard_ms| at_ms > heard_ms)
    }

    /// How far each site that counts in `epoch` has `stream` durable: its floor is not above the epoch, and it holds `base`,
    /// what was applied here when the stream was opened; or it holds more of the stream than there was then, which says
    /// the same, since a batch is reported only once what its writer had seen is durable too.
    pub(crate) fn counting(&self, stream: StreamId, epoch: Epoch, base: &Vector) -> BTreeMap<SiteId, Lsn> {
        let held = |peer: &Peer, stream: StreamId| peer.durable.get(&stream).copied().unwrap_or_default();
        let counts = |peer: &&Peer| {
            peer.floor <= epoch
                && (held(peer, stream) > base.get(stream) || base.iter().all(|(of, lsn)| held(peer, of) >= lsn))
        };
        self.lock().values().filter(counts).map(|peer| (peer.id, held(peer, stream))).collect()
    }

    /// The cursor that each of `sites` has shown for `stream`; `None` if it was not heard since the start. With the
    /// furthest that was shown by one heard at `since_ms` or later.
    pub(crate) fn shown(
        &self,
        stream: StreamId,
        sites: &BTreeSet<SiteId>,
        since_ms: u64,
    ) -> (BTreeMap<SiteName, Option<Lsn>>, Lsn) {
        let table = self.lock();
        let counted = table.iter().filter(|(_, peer)| sites.contains(&peer.id));
        let mut reachable = Lsn::ZERO;
        let shown = counted.map(|(site, peer)| {
            let lsn = peer.heard_at_ms.map(|_| peer.durable.get(&stream).copied().unwrap_or_default());
            if peer.heard_at_ms.is_some_and(|at| at >= since_ms) {
                reachable = reachable.max(lsn.unwrap_or_default());
            }
            (site.clone(), lsn)
        });
        (shown.collect(), reachable)
    }
}

#[cfg(test)]
mod tests {
    use cfs_model::Incarnation;

    use super::*;

    const OWN: StreamId = StreamId { site: SiteId(1), incarnation: Incarnation(1) };
    const OLD: StreamId = StreamId { site: SiteId(2), incarnation: Incarnation(1) };

    /// What a site says over a connection of its own is no proof that anything can be pulled from it.
    #[test]
    fn a_site_is_silent_unless_it_serves_as_a_source() {
        let (peers, b) = (Peers::new([(SiteName::new("b").unwrap(), SiteId(2))]), SiteName::new("b").unwrap());
        let silent = |now_ms| peers.lock()[&b].is_silent(now_ms, 1_300);
        peers.heard(&b, 9_000, 0, &[]);
        assert!(silent(9_000));
        peers.sourced(&b, 9_000);
        assert!(!silent(10_300) && silent(10_301));
    }

    /// Invariant 4: neither a site that has seen a newer epoch nor one that lacks the epoch's cut lends durability.
    #[test]
    fn only_sites_with_the_floor_and_the_cut_count() {
        let peers = Peers::new([(SiteName::new("b").unwrap(), SiteId(2))]);
        let base: Vector = [(OWN, Lsn(5)), (OLD, Lsn(9))].into_iter().collect();
        let heard = |floor, own: u64, old: u64| {
            let state = |stream, lsn| v1::StreamState {
                durable: Some(cfs_model::op::StreamPosition::of(stream, Lsn(lsn))),
                applied_lsn: 0,
                first_lsn: 0,
            };
            peers.heard(&SiteName::new("b").unwrap(), 0, floor, &[state(OWN, own), state(OLD, old)]);
            peers.counting(OWN, Epoch(3), &base).get(&SiteId(2)).copied()
        };
        assert_eq!(heard(3, 5, 8), None, "it lacks what the epoch builds on");
        assert_eq!(heard(3, 5, 9), Some(Lsn(5)));
        assert_eq!(heard(3, 6, 0), Some(Lsn(6)), "a batch of this opening says that it has what it builds on");
        assert_eq!(heard(4, 7, 9), None, "sealed");
        assert_eq!(heard(3, 8, 9), None, "a floor never goes back");
    }
}
