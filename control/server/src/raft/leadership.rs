//! Moving leadership, and bringing the members to what the state wants.

use std::collections::BTreeSet;
use std::time::Duration;

use cfs_control_core::{NodeId, timers};
use cfs_rpc::v1::{TakeOverReply, TakeOverRequest};
use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, RaftError};

use super::error::Error;
use super::peers::CallError;
use super::plan::{self, Now, Step};
use super::types::VOTER_LEASE;
use super::{PROPOSE_LIMIT, Shared};

/// A node with no more than this between its log and the leader's is as good as complete.
const READY_ENTRIES: u64 = 100;

/// How far the members are from what the state wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// They are what it wants.
    Settled,
    /// One step was made; call again.
    Changed,
    /// These sites must catch up, or connect, first.
    WaitingFor(Vec<String>),
}

/// Proposals and proofs wait while this lives.
struct Held<'a>(&'a Shared);

impl<'a> Held<'a> {
    fn new(shared: &'a Shared) -> Option<Self> {
        shared.hold.send_if_modified(|held| !std::mem::replace(held, true)).then_some(Self(shared))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.hold.send_replace(false);
    }
}

impl Shared {
    /// Waits while leadership is being moved.
    pub(super) async fn not_held(&self) -> Result<(), Error> {
        let mut hold = self.hold.subscribe();
        let waited = tokio::time::timeout(PROPOSE_LIMIT, hold.wait_for(|held| !held)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::Moving),
        }
    }

    pub(super) async fn move_to(&self, site: &str) -> Result<(), Error> {
        let cannot = |why: &str| Error::CannotMove { site: site.to_owned(), why: why.to_owned() };
        if !self.leads() {
            return Err(self.not_leader());
        }
        if site == self.own_site {
            return Ok(());
        }
        let target = self.other_voters().into_iter().find(|(_, name)| name == site).map(|(node, _)| node);
        let target = target.ok_or_else(|| cannot("it does not vote"))?;
        if !self.peers.link(site).connected {
            return Err(cannot("it is not connected"));
        }
        let round_trip = self.peers.round_trip_ms(site).unwrap_or(0);
        let _held = Held::new(self).ok_or(Error::Moving)?;
        let call = Duration::from_millis(timers::call_ms(round_trip));
        // What is under way arrives, and the voters forget that they have just heard a leader.
        let mut metrics = self.raft.metrics();
        let complete = metrics.wait_for(|metrics| {
            let matched = metrics.replication.as_ref().and_then(|known| known.get(&target).copied().flatten());
            metrics.current_leader != Some(self.address.node)
                || matched.map(|matched| matched.index) == metrics.last_log_index
        });
        match tokio::time::timeout(call, complete).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(Error::Stopped("it ended".into())),
            Err(_) => return Err(cannot("its log is not complete")),
        }
        tokio::time::sleep(VOTER_LEASE + Duration::from_millis(5)).await;
        let term = self.server.borrow().vote.leader_id().term;
        let last_log_index = self.last_log().map_or(0, |last| last.index);
        let request = TakeOverRequest { envelope: Some(self.address.envelope(target)), term, last_log_index };
        let asked: Result<TakeOverReply, CallError> =
            self.peers.call(site, call, false, |mut client| async move { client.take_over(request).await }).await;
        let reply = asked.map_err(|error| cannot(&error.to_string()))?;
        if !reply.accepted {
            return Err(cannot(&reply.why));
        }
        let mut server = self.server.clone();
        let taken = server.wait_for(|metrics| metrics.current_leader == Some(target));
        match tokio::time::timeout(call + call, taken).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(cannot("it was not elected in time")),
        }
    }

    /// Makes one step towards the members that the state wants.
    pub(super) async fn reconcile(&self) -> Result<Members, Error> {
        if !self.leads() {
            return Err(self.not_leader());
        }
        let (state, now) = (self.applied.borrow().state.clone(), self.members_now());
        let names = |nodes: BTreeSet<NodeId>| nodes.into_iter().map(|node| self.name_of(node)).collect::<Vec<_>>();
        let step = plan::next(&state, &now);
        let voters = if let Step::Voters(nodes) = &step { names(nodes.clone()).join(", ") } else { String::new() };
        let change = match step {
            Step::Done => return Ok(Members::Settled),
            Step::WaitFor(nodes) => return Ok(Members::WaitingFor(names(nodes))),
            Step::GiveLead(nodes) => {
                let mut refused = Error::NoQuorum;
                for site in names(nodes) {
                    match self.move_to(&site).await {
                        Ok(()) => return Ok(Members::Changed),
                        Err(error) => refused = error,
                    }
                }
                return Err(refused);
            }
            Step::Add(node, member) => ChangeMembers::AddNodes([(node, member)].into()),
            Step::Correct(node, member) => ChangeMembers::SetNodes([(node, member)].into()),
            Step::Voters(nodes) => ChangeMembers::ReplaceAllVoters(nodes),
            Step::Remove(nodes) => ChangeMembers::RemoveNodes(nodes),
        };
        self.not_held().await?;
        let changed = tokio::time::timeout(PROPOSE_LIMIT, self.raft.change_membership(change, true)).await;
        match changed {
            Ok(Ok(_)) => {
                if !voters.is_empty() {
                    tracing::info!(voters, "these sites vote");
                }
                Ok(Members::Changed)
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(self.not_leader()),
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(e)))) => {
                Err(Error::Members(e.to_string()))
            }
            Ok(Err(RaftError::Fatal(fatal))) => Err(Error::Stopped(fatal.to_string())),
            Err(_) => Err(Error::Unknown),
        }
    }

    fn members_now(&self) -> Now {
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let last = metrics.last_log_index.unwrap_or(0);
        let matched = metrics.replication.iter().flatten();
        let complete = matched.filter(|(_, at)| at.is_some_and(|at| at.index + READY_ENTRIES >= last));
        let connected = complete.filter(|(node, _)| self.peers.link(&self.name_of(**node)).connected);
        Now {
            leader: self.address.node,
            voters: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(node, member)| (*node, member.clone())).collect(),
            ready: connected.map(|(node, _)| *node).chain([self.address.node]).collect(),
        }
    }

    fn name_of(&self, node: NodeId) -> String {
        let metrics = self.server.borrow();
        let member = metrics.membership_config.membership().get_node(&node);
        member.map_or_else(|| format!("node {node}"), |member| member.name.clone())
    }
}
