//! What the leader commits besides changes of primary: incarnations, who counts, ends of streams.

use std::collections::BTreeSet;

use cfs_model::{Incarnation, Level, Lsn, SiteId, StreamId, Vector};

use crate::command::Kind;
use crate::coordinator::Coordinator;
use crate::report::Shipper;
use crate::state::State;

/// The next thing to commit, the most urgent first.
pub(crate) fn next(leader: &Coordinator, state: &State, now_ms: u64) -> Option<Kind> {
    allot(leader, state, now_ms)
        .or_else(|| promise(leader, state))
        .or_else(|| settle(leader, state))
        .or_else(|| count(leader, state, now_ms))
        .or_else(|| {
            (state.lease_before_ms.is_some() && leader.old_leases_are_over(state, now_ms)).then_some(Kind::LeaseSettled)
        })
        .or_else(|| close(leader, state, now_ms))
        .or_else(|| raise(leader, state, now_ms))
}

/// A site whose stream cannot be continued, or that has none yet, gets an incarnation.
fn allot(leader: &Coordinator, state: &State, now_ms: u64) -> Option<Kind> {
    state.data_sites().filter(|site| leader.is_fresh(state, site.id, now_ms)).find_map(|site| {
        let shipper = leader.shipper_of(site.id)?;
        let last = state.incarnations.get(&site.id).copied().unwrap_or_default();
        let first = last == Incarnation(0);
        // Asked under the incarnation allotted last: whoever still asks under an older one has not been told yet.
        let asks = shipper.needs_incarnation && shipper.incarnation >= last;
        let why = if first { "it has none yet" } else { "its stream cannot be continued" };
        (first || asks).then(|| Kind::Allot { site: site.id, after: last, why: why.into() })
    })
}

fn promise(leader: &Coordinator, state: &State) -> Option<Kind> {
    let wanted = state.appenders().filter_map(|id| Some(leader.shipper_of(id)?.wants_promise));
    let wanted = wanted.filter(|copies| *copies > 0).min()?;
    let missing = state.promised == 0 || wanted < state.promised;
    (missing && state.operation.is_none()).then_some(Kind::Promise { epoch: state.epoch, copies: wanted })
}

/// The newest rule stands alone once the primary confirms that everything it acknowledged meets it, and with it every
/// other site that takes appends.
fn settle(leader: &Coordinator, state: &State) -> Option<Kind> {
    let newest = state.rules.last().filter(|_| state.rules.len() > 1)?.id;
    let confirms = |shipper: &Shipper| shipper.epoch == state.epoch && shipper.confirmed_rule >= newest;
    let primary = leader.shipper_of(state.primary?)?;
    let mut others = state.appenders().filter_map(|id| leader.shipper_of(id)).filter(|shipper| shipper.accepting);
    (confirms(primary) && others.all(confirms) && state.operation.is_none()).then_some(Kind::Settle { rule: newest })
}

/// A data site counts once it covers the epoch's cut; the number of copies follows the setting.
fn count(leader: &Coordinator, state: &State, now_ms: u64) -> Option<Kind> {
    let rule = state.rules.last()?;
    if state.operation.is_some() {
        return None;
    }
    let covers = |id: SiteId| {
        leader.is_fresh(state, id, now_ms)
            && leader.sites.get(&id).is_some_and(|seen| !seen.went_back(state))
            && leader
                .shipper_of(id)
                .is_some_and(|shipper| shipper.durable.covers(&state.cut) && shipper.epoch == state.epoch)
    };
    let newcomer = state
        .data_sites()
        .map(|site| site.id)
        .find(|id| !rule.members.contains(id) && !state.held.contains(id) && covers(*id));
    if newcomer.is_none() && rule.copies == state.copies {
        return None;
    }
    let members = rule.members.iter().copied().chain(newcomer).collect();
    Some(Kind::SetRule { copies: state.copies, members })
}

/// The streams of removed sites end where the remaining data sites, all of which were heard, hold them.
fn close(leader: &Coordinator, state: &State, now_ms: u64) -> Option<Kind> {
    let removed: BTreeSet<SiteId> = state.removed.keys().copied().collect();
    if removed.is_empty() || !state.data_sites().all(|site| leader.is_fresh(state, site.id, now_ms)) {
        return None;
    }
    let shippers: Option<Vec<&Shipper>> = state.data_sites().map(|site| leader.shipper_of(site.id)).collect();
    let held = shippers?.iter().fold(Vector::new(), |held, shipper| held.max(&shipper.durable));
    held.iter().find_map(|(stream, last): (StreamId, Lsn)| {
        let open = removed.contains(&stream.site) && state.closed.get(stream) == Lsn::ZERO;
        open.then_some(Kind::Close { stream, last, forced: false })
    })
}

/// The cluster works at the level that all members know, once all of them were heard.
fn raise(leader: &Coordinator, state: &State, now_ms: u64) -> Option<Kind> {
    let known = state.sites.values().map(|site| {
        let fresh = leader.is_fresh(state, site.id, now_ms);
        leader.report_of(site.id).filter(|_| fresh)?.0.level(site.witness)
    });
    let level = known.collect::<Option<Vec<Level>>>()?.into_iter().min()?;
    let nodes = state.sites.values().map(|site| site.node).collect();
    // Never above what the leader itself can carry out.
    let level = level.min(Level::THIS);
    (level > state.level && state.operation.is_none()).then_some(Kind::Raise { level, nodes })
}

#[cfg(test)]
#[path = "chores_tests.rs"]
mod tests;
