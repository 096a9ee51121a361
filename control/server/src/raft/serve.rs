//! What other nodes may ask of this one. Everything is checked before the Raft library sees any of it: an old message of
//! another group would otherwise end a leader's term.

use std::time::Duration;

use cfs_control_core::NodeId;
use cfs_model::Levels;
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::v1::raft_request::Kind;
use cfs_rpc::v1::{Envelope, PreVoteReply, PreVoteRequest, RaftReply, RaftRequest, TakeOverReply, TakeOverRequest};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;

use super::Shared;
use super::network::SnapshotHead;
use super::types::{LogId, Snapshot, TypeConfig};

/// A voter that is asked whether the leader is gone, and has just lost its connection, finds out within this.
const CONFIRM: Duration = Duration::from_millis(150);

impl Shared {
    /// Whether a message is meant for this node, and its sender is who it says: the certificate's site is the site of the
    /// node that it names.
    pub(super) fn admit(&self, envelope: Option<&Envelope>, caller: &Identity) -> Result<NodeId, Status> {
        let envelope = envelope.ok_or_else(|| Status::invalid_argument("the message has no envelope"))?;
        if caller.role != Role::Control {
            return Err(Status::permission_denied(format!("a {} may not take part in the group", caller.role)));
        }
        if envelope.cluster != self.address.cluster {
            return Err(Status::permission_denied(format!("{} is another cluster", envelope.cluster)));
        }
        let theirs = Levels::told(envelope.level, envelope.oldest_level);
        self.address.levels.meet(caller.site.as_str(), theirs).map_err(Status::failed_precondition)?;
        if envelope.group != self.address.group {
            return Err(Status::failed_precondition(format!(
                "group {:016x} is not ours, which is {:016x}",
                envelope.group, self.address.group
            )));
        }
        if envelope.to_node != self.address.node {
            return Err(Status::failed_precondition(format!(
                "the message is for node {}, this is node {}",
                envelope.to_node, self.address.node
            )));
        }
        let from = envelope.from_node;
        let site = caller.site.as_str();
        let metrics = self.server.borrow();
        let in_membership = metrics.membership_config.membership().get_node(&from).map(|member| member.name.clone());
        drop(metrics);
        let state = self.applied.borrow().state.clone();
        let known = in_membership.or_else(|| state.with_node(from).map(|site| site.name.to_string()));
        match known {
            Some(name) if name == site => Ok(from),
            Some(name) => Err(Status::permission_denied(format!("node {from} belongs to {name}, not to {site}"))),
            // Numbers count up and are never used twice. One that we have not heard of yet is newer than what we know; one
            // below that was taken away.
            None if from != 0 && from != self.address.node && (state.group == 0 || from >= state.next_node) => Ok(from),
            None => Err(Status::permission_denied(format!("node {from} of {site} is not a member any more"))),
        }
    }

    /// Answers a message of the Raft library.
    pub(super) async fn raft(&self, request: RaftRequest, caller: &Identity) -> Result<RaftReply, Status> {
        let from = self.admit(request.envelope.as_ref(), caller)?;
        let speaks_for = |node: NodeId| {
            if node == from { Ok(()) } else { Err(Status::permission_denied("a node speaks for itself alone")) }
        };
        match request.kind() {
            Kind::Append => {
                let rpc: AppendEntriesRequest<TypeConfig> = parse(&request.body)?;
                speaks_for(rpc.vote.leader_id().node_id)?;
                let reply = self.raft.append_entries(rpc).await.map_err(stopped)?;
                if !matches!(reply, AppendEntriesResponse::HigherVote(_)) {
                    self.hear();
                }
                answer(&reply)
            }
            Kind::Vote => {
                let rpc: VoteRequest<NodeId> = parse(&request.body)?;
                speaks_for(rpc.vote.leader_id().node_id)?;
                answer(&self.raft.vote(rpc).await.map_err(stopped)?)
            }
            Kind::Snapshot => {
                let head: SnapshotHead = parse(&request.body)?;
                speaks_for(head.vote.leader_id().node_id)?;
                // One that cannot be read must not come as far as the store, where it would end the node.
                parse::<cfs_control_core::State>(&request.snapshot)?;
                let snapshot = Snapshot { meta: head.meta, snapshot: Box::new(request.snapshot) };
                let reply = self.raft.install_full_snapshot(head.vote, snapshot).await.map_err(stopped)?;
                if reply.vote == head.vote {
                    self.hear();
                }
                answer(&reply)
            }
            Kind::Unspecified => Err(Status::invalid_argument("the message has no kind")),
        }
    }

    /// Says whether this node would vote for the caller. Changes nothing.
    pub(super) async fn pre_vote(&self, request: PreVoteRequest, caller: &Identity) -> Result<PreVoteReply, Status> {
        self.admit(request.envelope.as_ref(), caller)?;
        let term = self.server.borrow().vote.leader_id().term;
        let refuse = |why: String| Ok(PreVoteReply { granted: false, why, term });
        let last = self.last_log();
        let ours = last.map(|last| (last.leader_id.term, last.leader_id.node_id, last.index)).unwrap_or_default();
        if (request.last_log_term, request.last_log_node, request.last_log_index) < ours {
            return refuse("its log is shorter".to_owned());
        }
        if let Err(why) = self.has_no_leader().await {
            return refuse(why);
        }
        self.give_way();
        Ok(PreVoteReply { granted: true, why: String::new(), term })
    }

    /// Whether there is no leader, as far as this node can tell. Waits a moment if the connection has just broken.
    async fn has_no_leader(&self) -> Result<(), String> {
        let mut links = self.peers.changes();
        let deadline = tokio::time::Instant::now() + CONFIRM;
        loop {
            links.borrow_and_update();
            if self.leads() {
                return if self.has_quorum() { Err("it leads itself".to_owned()) } else { Ok(()) };
            }
            self.look_at_leader();
            if self.suspects() {
                return Ok(());
            }
            let leader = self.leader_site();
            let broken = leader.as_ref().is_some_and(|site| self.peers.link(site).broke_at.is_some());
            let heard = format!("it hears {}", leader.unwrap_or_else(|| "a leader".to_owned()));
            if !broken || !matches!(tokio::time::timeout_at(deadline, links.changed()).await, Ok(Ok(()))) {
                return Err(heard);
            }
        }
    }

    /// The leader asks this node to stand for election.
    pub(super) async fn take_over(&self, request: TakeOverRequest, caller: &Identity) -> Result<TakeOverReply, Status> {
        let from = self.admit(request.envelope.as_ref(), caller)?;
        let refuse = |why: &str| Ok(TakeOverReply { accepted: false, why: why.to_owned() });
        let metrics = self.server.borrow().clone();
        if metrics.current_leader != Some(from) || metrics.vote.leader_id().term != request.term {
            return refuse("the caller does not lead in this term");
        }
        if !metrics.membership_config.membership().voter_ids().any(|node| node == self.address.node) {
            return refuse("this node does not vote");
        }
        if self.last_log().map_or(0, |last| last.index) < request.last_log_index {
            return refuse("this node's log is not complete");
        }
        self.raft.trigger().elect().await.map_err(stopped)?;
        Ok(TakeOverReply { accepted: true, why: String::new() })
    }

    pub(super) fn last_log(&self) -> Option<LogId> {
        self.data.borrow().last_log
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(body).map_err(|error| Status::invalid_argument(format!("cannot be read: {error}")))
}

fn answer<T: Serialize>(reply: &T) -> Result<RaftReply, Status> {
    let body = serde_json::to_vec(reply).map_err(|error| Status::internal(error.to_string()))?;
    Ok(RaftReply { body: body.into() })
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this node has stopped: {error}"))
}
