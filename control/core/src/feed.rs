//! How a site gets the entries of another: from its shipper, or through those of others. By what the shippers themselves
//! report; what control processes hear of each other says nothing of it.

use std::collections::{BTreeMap, VecDeque};

use cfs_model::SiteId;

use crate::coordinator::Coordinator;
use crate::state::State;

/// The shortest way on which entries of `from` get to `to`, both included: each shipper on it hears the one before it.
/// `None`: there is none. Sites that are not heard, that are held apart or whose store is copied pass nothing on.
pub(crate) fn way(state: &State, leader: &Coordinator, from: SiteId, to: SiteId, now_ms: u64) -> Option<Vec<SiteId>> {
    let passes_on = |site: SiteId| {
        let whole = leader.shipper_of(site).is_some_and(|shipper| !shipper.partial);
        site == from || whole && leader.is_fresh(state, site, now_ms) && !state.held.contains(&site)
    };
    let mut next_of: BTreeMap<SiteId, SiteId> = BTreeMap::new();
    let mut looked_at = VecDeque::from([to]);
    while let Some(site) = looked_at.pop_front() {
        if site == from {
            return Some(std::iter::successors(Some(from), |at| next_of.get(at).copied()).collect());
        }
        let Some(own) = leader.shipper_of(site) else { continue };
        let sources = state.data_sites().map(|source| source.id).filter(|source| !own.unheard.contains(source));
        for source in sources.filter(|source| *source != to && passes_on(*source)) {
            if !next_of.contains_key(&source) && source != site {
                next_of.insert(source, site);
                looked_at.push_back(source);
            }
        }
    }
    None
}

/// The round trip between the shippers of two sites, as the slower one measured it; `None`: neither has.
pub(crate) fn round_trip_ms(leader: &Coordinator, one: SiteId, other: SiteId) -> Option<u64> {
    let measured = |at, of| leader.shipper_of(at).and_then(|shipper| shipper.rtts_ms.get(&of).copied());
    measured(one, other).max(measured(other, one))
}
