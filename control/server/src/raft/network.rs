//! The Raft library's calls to other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cfs_control_core::{Member, NodeId, timers};
use cfs_model::Levels;
use cfs_rpc::v1::raft_request::Kind;
use cfs_rpc::v1::{Envelope, RaftReply, RaftRequest};
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{AnyError, OptionalSend};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::peers::{CallError, Peers};
use super::types::{Snapshot, SnapshotMeta, TypeConfig, Vote};

/// Pauses after calls that failed.
const PAUSES_MS: [u64; 4] = [20, 50, 100, 200];

/// Whose messages these are.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) cluster: String,
    pub(super) group: u64,
    pub(super) node: NodeId,
    pub(super) levels: Levels,
}

impl Address {
    pub(super) fn envelope(&self, to: NodeId) -> Envelope {
        Envelope {
            cluster: self.cluster.clone(),
            group: self.group,
            from_node: self.node,
            to_node: to,
            level: self.levels.acts_as.0,
            oldest_level: self.levels.oldest.0,
        }
    }
}

/// When each node was last sent something that it has answered as a follower.
#[derive(Debug, Default)]
pub(super) struct Acks {
    sent: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Acks {
    fn note(&self, node: NodeId, sent: Instant) {
        let mut acks = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = acks.entry(node).or_insert(sent);
        *known = (*known).max(sent);
    }

    pub(super) fn at(&self, node: NodeId) -> Option<Instant> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).get(&node).copied()
    }

    /// The moment since which a majority of each of these sets is known to have followed `own`; `None`: never.
    pub(super) fn quorum_at(&self, own: NodeId, sets: &[BTreeSet<NodeId>], now: Instant) -> Option<Instant> {
        let of_set = |set: &BTreeSet<NodeId>| {
            let mut times: Vec<Option<Instant>> =
                set.iter().map(|node| if *node == own { Some(now) } else { self.at(*node) }).collect();
            times.sort_unstable_by(|a, b| b.cmp(a));
            times.get(set.len() / 2).copied().flatten()
        };
        sets.iter().map(of_set).min().flatten()
    }
}

/// Makes callers; connects nowhere by itself.
pub(super) struct Network {
    pub(super) peers: Peers,
    pub(super) address: Address,
    pub(super) acks: Arc<Acks>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Caller;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Caller {
        self.peers.add(&node.name, &node.control);
        Caller {
            peers: self.peers.clone(),
            address: self.address.clone(),
            acks: self.acks.clone(),
            target,
            site: node.name.clone(),
            control: node.control.clone(),
        }
    }
}

/// Calls one node.
pub(super) struct Caller {
    peers: Peers,
    address: Address,
    acks: Arc<Acks>,
    target: NodeId,
    site: String,
    control: String,
}

/// What travels with a snapshot's bytes.
#[derive(Serialize, Deserialize)]
pub(super) struct SnapshotHead {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
}

impl Caller {
    fn limit(&self) -> Duration {
        Duration::from_millis(timers::call_ms(self.peers.round_trip_ms(&self.site).unwrap_or(0)))
    }

    async fn call<Q: Serialize, R: DeserializeOwned>(
        &self,
        kind: Kind,
        head: &Q,
        snapshot: bytes::Bytes,
        limit: Duration,
        measure: bool,
    ) -> Result<R, Unreachable> {
        let body = serde_json::to_vec(head).map_err(|error| Unreachable::new(&error))?;
        // It may have been taken out of the address book, which knows nothing of members.
        self.peers.add(&self.site, &self.control);
        let envelope = Some(self.address.envelope(self.target));
        let request = RaftRequest { envelope, kind: kind.into(), body: body.into(), snapshot };
        let called: Result<RaftReply, CallError> =
            self.peers.call(&self.site, limit, measure, |mut client| async move { client.raft(request).await }).await;
        let reply = called.map_err(|error| Unreachable::new(&AnyError::error(error)))?;
        serde_json::from_slice(&reply.body).map_err(|error| Unreachable::new(&error))
    }
}

type Failed = RPCError<NodeId, Member, RaftError<NodeId>>;

impl RaftNetwork<TypeConfig> for Caller {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, Failed> {
        let sent = Instant::now();
        let empty = rpc.entries.is_empty();
        let limit = if empty { self.limit() } else { option.hard_ttl() };
        let called = self.call(Kind::Append, &rpc, bytes::Bytes::new(), limit, empty).await;
        if matches!(
            called,
            Ok(AppendEntriesResponse::Success
                | AppendEntriesResponse::PartialSuccess(_)
                | AppendEntriesResponse::Conflict)
        ) {
            self.acks.note(self.target, sent);
        }
        called.map_err(RPCError::Unreachable)
    }

    async fn vote(&mut self, rpc: VoteRequest<NodeId>, _option: RPCOption) -> Result<VoteResponse<NodeId>, Failed> {
        self.call(Kind::Vote, &rpc, bytes::Bytes::new(), self.limit(), false).await.map_err(RPCError::Unreachable)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<TypeConfig, Fatal<NodeId>>> {
        let head = SnapshotHead { vote, meta: snapshot.meta };
        tokio::select! {
            sent = self.call(Kind::Snapshot, &head, *snapshot.snapshot, option.hard_ttl(), false) => {
                sent.map_err(StreamingError::Unreachable)
            }
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    fn backoff(&self) -> Backoff {
        let last = PAUSES_MS.last().copied().into_iter().cycle();
        Backoff::new(PAUSES_MS.into_iter().chain(last).map(Duration::from_millis))
    }
}
