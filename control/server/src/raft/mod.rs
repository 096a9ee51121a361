//! The group: its log and state on disk, its members, who leads it.
//!
//! [`Node`] is this site's member. The Raft library's own timers are off; `elections` does their work, so that timing
//! follows the measured round trips and a site that was cut off disturbs nobody when it returns.

pub mod disk;
mod elections;
pub mod error;
pub mod files;
pub mod kept;
pub mod leadership;
pub mod log_store;
mod network;
pub mod peers;
mod plan;
mod reads;
mod serve;
pub mod state_machine;
pub mod types;
mod value;
mod wire;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cfs_control_core::timers::Elector;
use cfs_control_core::{Command, Member, NodeId, Outcome};
use cfs_model::Levels;
use cfs_rpc::identity::Identity;
use cfs_rpc::v1::{
    Envelope, PreVoteReply, PreVoteRequest, RaftReply, RaftRequest, RaftState, TakeOverReply, TakeOverRequest,
};
use openraft::error::{ClientWriteError, InitializeError, RaftError};
use openraft::metrics::{RaftDataMetrics, RaftMetrics, RaftServerMetrics};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;

pub use self::error::Error;
pub use self::files::{GroupDir, Owner};
pub use self::leadership::Members;
pub use self::peers::{CallError, MAX_MESSAGE_BYTES, Peers};
pub use self::state_machine::Applied;
use self::types::Raft;

/// Bound on proposing a command, and on waiting for leadership to have moved.
const PROPOSE_LIMIT: Duration = Duration::from_secs(5);
/// Largest command: it must fit into a message with room for what goes with it.
const MAX_COMMAND_BYTES: usize = MAX_MESSAGE_BYTES / 2;

/// What the parts of a node share.
struct Shared {
    raft: Raft,
    address: network::Address,
    own_site: String,
    peers: Peers,
    acks: Arc<network::Acks>,
    elector: Mutex<Elector>,
    started: Instant,
    applied: watch::Receiver<Applied>,
    server: watch::Receiver<RaftServerMetrics<NodeId, Member>>,
    data: watch::Receiver<RaftDataMetrics<NodeId>>,
    /// Whether proposals wait, because leadership is moving.
    hold: watch::Sender<bool>,
    wake: Notify,
}

impl Shared {
    fn not_leader(&self) -> Error {
        let leader = self.leader_site().filter(|site| *site != self.own_site);
        Error::NotLeader { leader }
    }
}

/// This site's member of the group. Dropping it ends it some time later; [`Node::shutdown`] also waits for the end.
pub struct Node {
    shared: Arc<Shared>,
    dir: GroupDir,
    rounds: mpsc::Sender<reads::Waiter>,
    _tasks: JoinSet<()>,
}

impl Node {
    /// Starts the node whose directory this is. It takes part at once, as what its log says; one without a log waits to be
    /// spoken to, or for [`Node::found`].
    ///
    /// # Errors
    /// The state cannot be read.
    pub async fn start(dir: GroupDir, owner: &Owner, peers: Peers) -> Result<Self, Error> {
        let stopped = |error: &dyn std::fmt::Display| Error::Stopped(error.to_string());
        let (cluster, levels) = (owner.cluster.to_string(), Levels::acting_as(owner.level));
        let address = network::Address { cluster, group: dir.group(), node: dir.node(), levels };
        let machine =
            state_machine::StateMachine::open(dir.disk().clone(), owner.level).await.map_err(|e| stopped(&e))?;
        let applied = machine.subscribe();
        let acks = Arc::new(network::Acks::default());
        let network = network::Network { peers: peers.clone(), address: address.clone(), acks: acks.clone() };
        let log = log_store::LogStore::new(dir.disk().clone());
        let config = Arc::new(types::config(dir.group()));
        let raft = Raft::new(dir.node(), config, network, log, machine).await.map_err(|e| stopped(&e))?;
        let (server, data) = (raft.server_metrics(), raft.data_metrics());
        let shared = Arc::new(Shared {
            raft,
            address,
            own_site: owner.site.to_string(),
            peers,
            acks,
            elector: Mutex::new(Elector::new(0)),
            started: Instant::now(),
            applied,
            server,
            data,
            hold: watch::Sender::new(false),
            wake: Notify::new(),
        });
        // Connections to everybody who votes, also before this node has anything to say to them.
        shared.add_peers();
        let (rounds, waiters) = mpsc::channel(reads::QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(shared.clone().hold_elections());
        tasks.spawn(shared.clone().run_rounds(waiters));
        tasks.spawn(shared.clone().follow_members());
        Ok(Self { shared, dir, rounds, _tasks: tasks })
    }

    /// The group.
    pub fn group(&self) -> u64 {
        self.dir.group()
    }

    /// Where its log and state are.
    pub fn directory(&self) -> &GroupDir {
        &self.dir
    }

    /// What a message to another node carries.
    pub fn envelope(&self, to: NodeId) -> Envelope {
        self.shared.address.envelope(to)
    }

    /// This node's number.
    pub fn id(&self) -> NodeId {
        self.dir.node()
    }

    /// Founds the group: `member` is this node, `command` the first one. May be repeated after a crash half-way.
    ///
    /// # Errors
    /// Those of [`Node::propose`].
    pub async fn found(&self, member: Member, command: Command) -> Result<Outcome, Error> {
        match self.shared.raft.initialize(std::collections::BTreeMap::from([(self.id(), member)])).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(Error::Stopped(error.to_string())),
        }
        let mut server = self.shared.server.clone();
        let elected = server.wait_for(|metrics| metrics.current_leader == Some(self.id()));
        match tokio::time::timeout(PROPOSE_LIMIT, elected).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(Error::Stopped("it ended".into())),
            Err(_) => return Err(self.shared.not_leader()),
        }
        self.propose(command).await
    }

    /// Commits and applies a command; on disk at a majority, and here applied, on return.
    ///
    /// # Errors
    /// [`Error::Unknown`]: it may still come to pass. All others: it does not.
    pub async fn propose(&self, command: Command) -> Result<Outcome, Error> {
        let bytes = serde_json::to_vec(&command).map_or(usize::MAX, |json| json.len());
        if bytes > MAX_COMMAND_BYTES {
            return Err(Error::TooLarge { bytes, limit: MAX_COMMAND_BYTES });
        }
        self.shared.not_held().await?;
        match tokio::time::timeout(PROPOSE_LIMIT, self.shared.raft.client_write(command)).await {
            Ok(Ok(written)) => Ok(written.data),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(self.shared.not_leader()),
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
                Err(Error::Members(error.to_string()))
            }
            Ok(Err(RaftError::Fatal(fatal))) => Err(Error::Stopped(fatal.to_string())),
            Err(_) => Err(Error::Unknown),
        }
    }

    /// Proves that this node led at some moment after the call, and that what it has applied holds everything that was
    /// committed by then. Callers share rounds.
    ///
    /// # Errors
    /// It does not lead, or no majority answers.
    pub async fn read_index(&self) -> Result<(), Error> {
        let (reply, done) = oneshot::channel();
        let ended = || Error::Stopped("it ended".into());
        self.rounds.send(reply).await.map_err(|_| ended())?;
        done.await.map_err(|_| ended())?
    }

    /// The newest state that is applied; on disk.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.shared.applied.clone()
    }

    /// The Raft library's numbers, all of them.
    pub fn metrics(&self) -> RaftMetrics<NodeId, Member> {
        self.shared.raft.metrics().borrow().clone()
    }

    /// Role, term, leader and members: changes only when one of them does.
    pub fn watch(&self) -> watch::Receiver<RaftServerMetrics<NodeId, Member>> {
        self.shared.server.clone()
    }

    /// Whether this node believes that it leads; [`Node::read_index`] proves it.
    pub fn is_leader(&self) -> bool {
        self.shared.leads()
    }

    /// Whether this node leads and a majority has followed it a moment ago.
    pub fn has_quorum(&self) -> bool {
        self.shared.leads() && self.shared.has_quorum()
    }

    /// The term.
    pub fn term(&self) -> u64 {
        self.shared.server.borrow().vote.leader_id().term
    }

    /// Name of the site that leads, as far as this node knows.
    pub fn leader_site(&self) -> Option<String> {
        self.shared.leader_site()
    }

    /// How long ago the leader was heard; 0 for the leader itself. Before any was heard: since the start.
    pub fn leader_age(&self) -> Duration {
        self.shared.leader_age()
    }

    /// How long ago there was a leader for certain; `None`: not since the start.
    pub fn led_age(&self) -> Option<Duration> {
        self.shared.led_age()
    }

    /// Whether there is no leader, as far as this node can tell.
    pub fn suspects_leader(&self) -> bool {
        !self.shared.leads() && self.shared.suspects()
    }

    /// Moves leadership to a site. Proposals and proofs wait meanwhile, and go on here if it fails.
    ///
    /// # Errors
    /// This node does not lead, or the site cannot take over; nothing has changed then.
    pub async fn move_leadership(&self, site: &str) -> Result<(), Error> {
        self.shared.move_to(site).await
    }

    /// Makes one step towards the members that the state wants; call it when the state changes, after an election, and now
    /// and then. May move leadership.
    ///
    /// # Errors
    /// This node does not lead, or the step could not be made now.
    pub async fn reconcile_members(&self) -> Result<Members, Error> {
        self.shared.reconcile().await
    }

    /// Whether a message between control processes is meant for this node and comes from the member that it names.
    ///
    /// # Errors
    /// Those of [`Node::handle_raft`].
    pub fn check(&self, envelope: Option<&Envelope>, caller: &Identity) -> Result<NodeId, Status> {
        self.shared.admit(envelope, caller)
    }

    /// Answers a message of another node's Raft library.
    ///
    /// # Errors
    /// It is of another cluster or group, for another node, or not by whom it says: nothing has looked at it then.
    pub async fn handle_raft(&self, request: RaftRequest, caller: &Identity) -> Result<RaftReply, Status> {
        self.shared.raft(request, caller).await
    }

    /// Says whether this node would vote for the caller; changes nothing.
    ///
    /// # Errors
    /// Those of [`Node::handle_raft`].
    pub async fn handle_pre_vote(&self, request: PreVoteRequest, caller: &Identity) -> Result<PreVoteReply, Status> {
        self.shared.pre_vote(request, caller).await
    }

    /// Stands for election because the leader asks for it.
    ///
    /// # Errors
    /// Those of [`Node::handle_raft`].
    pub async fn handle_take_over(&self, request: TakeOverRequest, caller: &Identity) -> Result<TakeOverReply, Status> {
        self.shared.take_over(request, caller).await
    }

    /// What it keeps on disk, with its role and the leader.
    ///
    /// # Errors
    /// The files do not read.
    pub async fn kept(&self) -> Result<RaftState, Error> {
        let kept = kept::of(self.dir.disk()).await.map_err(|failure| Error::Stopped(failure.to_string()))?;
        Ok(RaftState {
            group: self.group(),
            node: self.id(),
            role: format!("{:?}", self.metrics().state),
            leader: self.leader_site().unwrap_or_default(),
            failed: self.failed().unwrap_or_default(),
            ..kept
        })
    }

    /// Why the node has stopped by itself, as it does when its disk fails; `None` while it runs.
    pub fn failed(&self) -> Option<String> {
        let metrics = self.shared.raft.metrics();
        metrics.borrow().running_state.as_ref().err().map(ToString::to_string)
    }

    /// Whether the library's core and the thread that writes go on. Waits for both; needs no other node.
    pub async fn answers(&self) -> bool {
        let core = self.shared.raft.with_raft_state(|_| ()).await;
        core.is_ok() && self.dir.disk().write(|_| Ok(())).await.is_ok()
    }

    /// Ends the node. Everything that was acknowledged is on disk. Its directory can be opened again once the node is
    /// dropped.
    pub async fn shutdown(&self) {
        let _ = self.shared.raft.shutdown().await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The library's tasks hold each other; without a runtime they have ended already.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let raft = self.shared.raft.clone();
            runtime.spawn(async move { raft.shutdown().await });
        }
    }
}

impl Shared {
    fn add_peers(&self) {
        let metrics = self.server.borrow().clone();
        for (_, member) in metrics.membership_config.membership().nodes() {
            self.peers.add(&member.name, &member.control);
        }
    }

    async fn follow_members(self: Arc<Self>) {
        let mut server = self.server.clone();
        while server.changed().await.is_ok() {
            server.borrow_and_update();
            self.add_peers();
        }
    }
}
