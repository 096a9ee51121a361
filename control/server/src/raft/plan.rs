//! Who should be what in the Raft library's membership: the next step towards it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use cfs_control_core::{Member, NodeId, State};

/// The membership as it is, seen by the leader.
#[derive(Debug, Clone, Default)]
pub(super) struct Now {
    pub(super) leader: NodeId,
    /// More than one while a change is half-way.
    pub(super) voters: Vec<BTreeSet<NodeId>>,
    pub(super) nodes: BTreeMap<NodeId, Member>,
    /// Nodes that have (nearly) the whole log and are connected.
    pub(super) ready: BTreeSet<NodeId>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Everything is as it should be.
    Done,
    /// Add this learner.
    Add(NodeId, Member),
    /// Correct a node's address.
    Correct(NodeId, Member),
    /// Make these the voters; whoever voted before becomes a learner.
    Voters(BTreeSet<NodeId>),
    /// The leader will not vote any more: give the lead to one of these first.
    GiveLead(BTreeSet<NodeId>),
    /// Remove these nodes, which do not vote.
    Remove(BTreeSet<NodeId>),
    /// Nothing until these have caught up.
    WaitFor(BTreeSet<NodeId>),
}

/// The next step from `now` to what `state` wants.
pub(super) fn next(state: &State, now: &Now) -> Step {
    let Some(last) = now.voters.last() else { return Step::Done };
    if state.group == 0 {
        return Step::Done;
    }
    // One that is half-way is finished first: to where it was going, whatever is wanted by now.
    if now.voters.len() > 1 {
        if !last.contains(&now.leader) {
            return Step::GiveLead(last.clone());
        }
        return Step::Voters(last.clone());
    }
    let wanted: BTreeMap<NodeId, Member> =
        state.sites.values().filter(|site| site.node != 0).map(|site| (site.node, site.member())).collect();
    for (node, member) in &wanted {
        match now.nodes.get(node) {
            None => return Step::Add(*node, member.clone()),
            Some(known) if known != member => return Step::Correct(*node, member.clone()),
            Some(_) => {}
        }
    }
    let goal = wanted_voters(state, last);
    if goal.is_empty() {
        return Step::Done;
    }
    let missing: BTreeSet<NodeId> = goal.iter().filter(|node| !last.contains(node)).copied().collect();
    let late: BTreeSet<NodeId> = missing.difference(&now.ready).copied().collect();
    if !late.is_empty() {
        return Step::WaitFor(late);
    }
    if goal.contains(&now.leader) {
        if *last != goal {
            return Step::Voters(goal);
        }
        let gone: BTreeSet<NodeId> = now.nodes.keys().filter(|node| !wanted.contains_key(node)).copied().collect();
        return if gone.is_empty() { Step::Done } else { Step::Remove(gone) };
    }
    // A leader never removes itself: the new voters join it, one of them takes over, and that one removes it.
    let with_leader: BTreeSet<NodeId> = goal.iter().copied().chain([now.leader]).collect();
    if *last == with_leader { Step::GiveLead(goal) } else { Step::Voters(with_leader) }
}

/// The voters that the state wants, as far as they have a node. While some have none, as after a forced recovery, the
/// number stays odd: two voters are worse than one.
fn wanted_voters(state: &State, present: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let sites = state.wanted_voters();
    let node = |id| state.site(id).map_or(0, |site| site.node);
    let mut nodes: Vec<NodeId> = sites.iter().map(|id| node(*id)).filter(|node| *node != 0).collect();
    if nodes.len() < sites.len() && nodes.len().is_multiple_of(2) {
        let primary = state.primary.map_or(0, node);
        nodes.sort_by_key(|node| (*node != primary, !present.contains(node), *node));
        nodes.pop();
    }
    nodes.into_iter().collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
