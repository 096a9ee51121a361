//! Active-active: who coordinates when the one that did is lost.

use cfs_model::SiteId;

use super::Coordinator;
use crate::command::Kind;
use crate::state::State;

impl Coordinator {
    /// Another site coordinates once the one that does got no lease for longer than one lasts. Nothing is sealed for it and
    /// nobody waits: each site appends to its own stream, whoever coordinates.
    pub(super) fn next_coordinator(&mut self, state: &State, primary: SiteId, now_ms: u64) -> Option<Kind> {
        if now_ms < self.lease_over_of_ms(state, primary) {
            return None;
        }
        let name = state.name_of(primary);
        let site = match state.automatic() {
            Err(why) => Err(format!("{name} has no lease, and coordination does not move by itself: {why}")),
            Ok(()) => self.could_coordinate(state, primary, now_ms).ok_or_else(|| {
                format!(
                    "{name} has no lease, and no other site takes appends that holds what epoch {} began with",
                    state.epoch
                )
            }),
        };
        match site {
            Ok(site) => Some(Kind::Coordinate {
                epoch: state.epoch,
                site,
                reason: format!("{name} is lost"),
                evidence: self.evidence_against(state, primary, now_ms),
            }),
            Err(why) => {
                self.waiting_for = why;
                None
            }
        }
    }

    /// The site with the highest priority among those that are heard, take appends and count.
    fn could_coordinate(&self, state: &State, primary: SiteId, now_ms: u64) -> Option<SiteId> {
        let accepts = |id: &SiteId| {
            let shipper = self.sites.get(id).and_then(|seen| seen.report.shipper.as_ref());
            shipper.is_some_and(|shipper| shipper.accepting && shipper.epoch == state.epoch)
        };
        let others = state.appenders().filter(|id| *id != primary && self.is_fresh(state, *id, now_ms));
        let counts = |id: &SiteId| state.rules.iter().all(|rule| rule.members.contains(id));
        others
            .filter(|id| accepts(id) && counts(id))
            .min_by_key(|id| (std::cmp::Reverse(state.site(*id).map_or(0, |site| site.priority)), *id))
    }
}
