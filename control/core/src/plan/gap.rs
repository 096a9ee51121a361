//! How long writers will wait for a change of primary: what each phase's messages take on the links they travel.

use std::collections::BTreeMap;

use cfs_model::SiteId;

use crate::coordinator::Coordinator;
use crate::feed;
use crate::state::State;

/// What the phases take on machines that are not busy, without network and disks.
const WORK_MS: u64 = 20;
/// How often the old primary's disk is waited for: what was taken last, what queued meanwhile, and twice the note that it
/// has drained.
const SYNCS_OLD: u64 = 4;
/// How often the new primary's disk is: the last entries, the log, twice the note of the new epoch, and the first append.
const SYNCS_NEW: u64 = 5;
/// A disk that was not measured takes so long.
const SYNC_US: u64 = 1_000;
/// Entries that a store applies in a millisecond.
const APPLIED_PER_MS: u64 = 50;

/// What applying takes that is left to do.
pub(super) const fn applying_ms(entries: u64) -> u64 {
    entries / APPLIED_PER_MS
}

/// The measured round trips between sites, in ms.
pub(super) struct Trips<'a> {
    leader: &'a Coordinator,
    /// From the leader to the others.
    control: &'a BTreeMap<SiteId, u64>,
    /// What an entry of the group's log takes, or a round that proves the leadership: as long as the slowest of the
    /// voters that make a majority together with the leader.
    majority: u64,
}

impl<'a> Trips<'a> {
    pub(super) fn new(state: &State, leader: &'a Coordinator, control: &'a BTreeMap<SiteId, u64>) -> Self {
        let mut trips = Self { leader, control, majority: 0 };
        // The vote of two sites has moved to the target, and the leadership with it, before anybody waits.
        let voters = state.wanted_voters();
        let mut ways: Vec<u64> = voters.iter().map(|site| trips.to(*site)).collect();
        ways.sort_unstable();
        trips.majority = ways.get(voters.len() / 2).copied().unwrap_or(0);
        trips
    }

    /// Of a site that was not measured nothing is known; most are near.
    fn to(&self, site: SiteId) -> u64 {
        if site == self.leader.here() { 0 } else { self.control.get(&site).copied().unwrap_or(1) }
    }

    fn between(&self, one: SiteId, other: SiteId) -> u64 {
        let by_control = || self.to(one).max(self.to(other));
        feed::round_trip_ms(self.leader, one, other).unwrap_or_else(by_control)
    }

    /// For a switchover: from the last append that the old primary acknowledges to the first that the new one does, as a
    /// producer beside the new primary sees it. One that is farther away adds two and a half of its own round trips: for
    /// the news, the session and the append. What it counts, each half a round trip being one way:
    ///
    /// * drain: the old primary's answer to the leader;
    /// * catch up: the leader's order to the target, or the last entries on `way`, whichever comes later, and the answer;
    /// * open: an entry of the log at a majority, and its way to the target;
    /// * lease: the target's report, a round at a majority, and the answer.
    ///
    /// To that come the disks of both sites, as slow as they lately were, and [`WORK_MS`]. It foresees neither disks nor links
    /// that grow slower meanwhile, nor processors that are busy: on two cores with four times their load, 1.6 to 2.1 times as
    /// much was measured, with 0, 40 and 100 ms between the sites alike.
    pub(super) fn switchover_ms(&self, from: SiteId, to: SiteId, way: &[SiteId]) -> u64 {
        let entries: u64 = way.windows(2).map(|hop| self.between(hop[0], hop[1])).sum();
        let halves = (self.to(from) + self.to(to)).max(entries) + self.to(to);
        let disks = SYNCS_OLD * self.sync_us(from) + SYNCS_NEW * self.sync_us(to);
        WORK_MS + halves.div_ceil(2) + self.opening_ms(to) + disks / 1000
    }

    fn sync_us(&self, site: SiteId) -> u64 {
        let shipper = self.leader.shipper_of(site);
        shipper.map(|shipper| shipper.sync_us).filter(|us| *us > 0).unwrap_or(SYNC_US)
    }

    /// For a failover, from when the old lease is over: seals, the candidate's catching up, opening.
    pub(super) fn failover_ms(&self, to: SiteId) -> u64 {
        WORK_MS + 2 * self.to(to) + self.opening_ms(to) + SYNCS_NEW * self.sync_us(to) / 1000
    }

    fn opening_ms(&self, to: SiteId) -> u64 {
        let lease = self.to(to) + self.majority;
        self.majority + self.to(to).div_ceil(2) + lease
    }
}
