//! Executes what [`cfs_control_core::timers`] decides: signs of life, questions before an election, and elections.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cfs_control_core::NodeId;
use cfs_control_core::timers::{Action, Elector, Role};
use cfs_rpc::v1::{PreVoteReply, PreVoteRequest};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::ServerState;
use tokio::time::Instant;

use super::Shared;
use super::peers::CallError;

impl Shared {
    /// Milliseconds since the node was started.
    pub(super) fn now_ms(&self) -> u64 {
        self.at_ms(Instant::now())
    }

    pub(super) fn at_ms(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    fn elector<T>(&self, act: impl FnOnce(&mut Elector) -> T) -> T {
        act(&mut self.elector.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A message of the leader was taken.
    pub(super) fn hear(&self) {
        let now = self.now_ms();
        self.elector(|elector| elector.hear(now));
    }

    /// Another node was promised a vote.
    pub(super) fn give_way(&self) {
        let (now, round_trip) = (self.now_ms(), self.round_trip_ms());
        self.elector(|elector| elector.give_way(now, round_trip));
        self.wake.notify_one();
    }

    pub(super) fn suspects(&self) -> bool {
        let (now, round_trip) = (self.now_ms(), self.round_trip_ms());
        self.elector(|elector| elector.suspects(now, round_trip))
    }

    /// How long ago a leader was heard; 0 for the leader itself.
    pub(super) fn leader_age(&self) -> Duration {
        if self.leads() {
            return Duration::ZERO;
        }
        let now = self.now_ms();
        Duration::from_millis(self.elector(|elector| now.saturating_sub(elector.heard_at())))
    }

    /// How long ago there was a leader for certain: a majority followed this node, or another one was heard. `None`: not
    /// since the start.
    pub(super) fn led_age(&self) -> Option<Duration> {
        if self.leads() {
            return if self.has_quorum() { Some(Duration::ZERO) } else { self.followed_age() };
        }
        let now = self.now_ms();
        let heard = self.elector(|elector| elector.led_at());
        let heard = heard.map(|at| Duration::from_millis(now.saturating_sub(at)));
        heard.into_iter().chain(self.followed_age()).min()
    }

    /// How long ago a majority is known to have followed this node; `None`: never.
    fn followed_age(&self) -> Option<Duration> {
        let sets = self.server.borrow().membership_config.membership().get_joint_config().clone();
        let now = Instant::now();
        self.acks.quorum_at(self.address.node, &sets, now).map(|at| now.duration_since(at))
    }

    /// Whether a majority has followed this node within the silence that voters bear.
    pub(super) fn has_quorum(&self) -> bool {
        let round_trip = self.round_trip_ms();
        let bound = Duration::from_millis(self.elector(|elector| elector.silence_ms(round_trip)));
        self.followed_age().is_some_and(|age| age < bound)
    }

    pub(super) fn leads(&self) -> bool {
        self.server.borrow().state == ServerState::Leader
    }

    /// Name of the site that leads, as far as this node knows.
    pub(super) fn leader_site(&self) -> Option<String> {
        let metrics = self.server.borrow();
        let leader = metrics.current_leader?;
        if let Some(member) = metrics.membership_config.membership().get_node(&leader) {
            return Some(member.name.clone());
        }
        drop(metrics);
        self.applied.borrow().state.with_node(leader).map(|site| site.name.to_string())
    }

    /// Voters other than this node, with their sites.
    pub(super) fn other_voters(&self) -> Vec<(NodeId, String)> {
        let metrics = self.server.borrow();
        let membership = metrics.membership_config.membership();
        let others = membership.voter_ids().filter(|node| *node != self.address.node);
        others.filter_map(|node| membership.get_node(&node).map(|member| (node, member.name.clone()))).collect()
    }

    /// The round trip that counts: to the leader, or, for a leader and without one, the longest to a connected voter.
    pub(super) fn round_trip_ms(&self) -> u64 {
        let leader = if self.leads() { None } else { self.leader_site() };
        if let Some(round_trip) = leader.and_then(|site| self.peers.round_trip_ms(&site)) {
            return round_trip;
        }
        let connected = self.other_voters().into_iter().filter(|(_, site)| self.peers.link(site).connected);
        connected.filter_map(|(_, site)| self.peers.round_trip_ms(&site)).max().unwrap_or(0)
    }

    /// Takes the connection to the leader into account.
    pub(super) fn look_at_leader(&self) {
        let Some(site) = self.leader_site().filter(|_| !self.leads()) else { return };
        let link = self.peers.link(&site);
        match link.broke_at {
            Some(broke_at) if link.gone => {
                let broke_at = self.at_ms(broke_at);
                self.elector(|elector| elector.lose(broke_at));
            }
            _ if link.connected => self.elector(Elector::find),
            _ => {}
        }
    }

    fn look_at_role(&self) {
        let metrics = self.server.borrow();
        let votes = metrics.membership_config.membership().voter_ids().any(|node| node == self.address.node);
        let role = match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Shutdown => Role::Bystander,
            _ if votes => Role::Voter,
            _ => Role::Bystander,
        };
        drop(metrics);
        let now = self.now_ms();
        self.elector(|elector| elector.become_role(role, now));
    }

    /// When every other voter was last shown that this node leads.
    fn shown_ms(&self) -> u64 {
        let shown = self.other_voters().into_iter().map(|(node, _)| self.acks.at(node));
        shown.min().flatten().map_or(0, |at| self.at_ms(at))
    }

    /// Runs until the node stops.
    pub(super) async fn hold_elections(self: Arc<Self>) {
        let (mut server, mut links) = (self.server.clone(), self.peers.changes());
        loop {
            server.borrow_and_update();
            links.borrow_and_update();
            self.look_at_role();
            self.look_at_leader();
            let (now, round_trip, shown) = (self.now_ms(), self.round_trip_ms(), self.shown_ms());
            let action = self.elector(|elector| elector.step(now, round_trip, shown, rand::random()));
            tracing::trace!(?action, round_trip, "elections");
            let done = match action {
                Action::Heartbeat if *self.hold.borrow() => Ok(()),
                Action::Heartbeat => self.raft.trigger().heartbeat().await,
                Action::Stand => {
                    tracing::info!(node = self.address.node, "stands for election: a majority hears no leader");
                    self.raft.trigger().elect().await
                }
                Action::Ask => {
                    let shared = self.clone();
                    tokio::spawn(async move {
                        let granted = shared.ask().await;
                        let (now, round_trip) = (shared.now_ms(), shared.round_trip_ms());
                        shared.elector(|elector| elector.asked(granted, now, round_trip, rand::random()));
                        shared.wake.notify_one();
                    });
                    Ok(())
                }
                Action::Wait(until) => {
                    // A day is as good as for ever, and does not overflow.
                    let pause = Duration::from_millis(until.saturating_sub(now).min(24 * 3600 * 1000));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => Ok(()),
                        () = self.wake.notified() => Ok(()),
                        changed = server.changed() => {
                            if changed.is_err() {
                                return;
                            }
                            Ok(())
                        }
                        _ = links.changed() => Ok(()),
                    }
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Asks all voters whether they would vote for this node, and says whether a majority would.
    async fn ask(&self) -> bool {
        let last = self.last_log().unwrap_or_default();
        let sets = self.server.borrow().membership_config.membership().get_joint_config().clone();
        let term = self.server.borrow().vote.leader_id().term + 1;
        let limit = Duration::from_millis((3 * self.round_trip_ms() + 250).min(1500));
        let mut granted: BTreeSet<NodeId> = [self.address.node].into();
        let mut asking: FuturesUnordered<_> = self
            .other_voters()
            .into_iter()
            .map(|(node, site)| {
                let request = PreVoteRequest {
                    envelope: Some(self.address.envelope(node)),
                    term,
                    last_log_term: last.leader_id.term,
                    last_log_index: last.index,
                    last_log_node: last.leader_id.node_id,
                };
                async move {
                    let asked: Result<PreVoteReply, CallError> = self
                        .peers
                        .call(&site, limit, false, |mut client| async move { client.pre_vote(request).await })
                        .await;
                    (node, site, asked)
                }
            })
            .collect();
        while !is_quorum(&sets, &granted) {
            let Some((node, site, asked)) = asking.next().await else { return false };
            match asked {
                Ok(reply) if reply.granted => {
                    granted.insert(node);
                }
                Ok(reply) => tracing::debug!(site, why = reply.why, "would not vote for us"),
                Err(error) => tracing::debug!(%error, "cannot ask for a vote"),
            }
        }
        true
    }
}

/// Whether these are a majority of each set.
fn is_quorum(sets: &[BTreeSet<NodeId>], nodes: &BTreeSet<NodeId>) -> bool {
    !sets.is_empty() && sets.iter().all(|set| set.intersection(nodes).count() > set.len() / 2)
}
