//! The leader's work: answers reports, and carries out what the decisions say.

mod losses;
mod undone;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cfs_control_core::alone;
use cfs_control_core::{Action, Answer, Command, Coordinator, Kind, Lease, Order, Outcome, State};
use cfs_model::{Epoch, SiteId};
use cfs_rpc::v1;
use tokio::sync::Notify;

pub(crate) use self::undone::Undone;
use crate::control::Control;
use crate::member::Node;
use crate::raft::{self, Members};
use crate::{hears, orders, wire, words};

/// A round that shows that this process still leads.
const ROUND_LIMIT: Duration = Duration::from_secs(2);
/// Pause before the next try to prove the leadership.
const PROOF_PAUSE: Duration = Duration::from_millis(20);
/// While nothing is under way the decisions are looked at so often.
const IDLE_TICK: Duration = Duration::from_millis(200);
/// The members are looked at so often when they are as wanted, and when they are not.
const SETTLED_PAUSE: Duration = Duration::from_secs(2);
const UNSETTLED_PAUSE: Duration = Duration::from_millis(200);
/// A leader at the primary's site stays for so long before it hands over.
const PREFER_AFTER_MS: u64 = 3_000;
/// What a first report may take beyond a lease.
const FIRST_REPORTS_MS: u64 = 500;
/// How long an order may take before it is given again.
const ORDER_LIMIT_MS: u64 = 10_000;

/// A leader.
pub(crate) struct Lead {
    control: Arc<Control>,
    node: Arc<Node>,
    coordinator: Mutex<Coordinator>,
    wake: Notify,
    /// When the leadership began, on the boot clock.
    began_ms: u64,
    controls: Mutex<BTreeMap<SiteId, Vec<v1::PeerHeard>>>,
}

/// Leads whenever this process is the leader.
pub(crate) async fn run(control: Arc<Control>) {
    let mut group = control.watch_node();
    loop {
        let Some(node) = control.node() else {
            let _ = group.changed().await;
            continue;
        };
        let mut leadership = node.leadership();
        leadership.borrow_and_update();
        if leadership.has_changed().is_err() {
            // The member was shut down: nothing more comes of it.
            if group.changed().await.is_err() {
                return;
            }
            continue;
        }
        if !node.leads() {
            tokio::select! {
                _ = leadership.changed() => {}
                _ = group.changed() => {}
            }
            continue;
        }
        let lead = Arc::new(Lead::new(control.clone(), node.clone()));
        tracing::info!(term = node.term(), "this site leads the group");
        // What former leaders committed is applied before anything is decided.
        tokio::select! {
            () = proven(&node) => {}
            () = not_leading(&node) => continue,
            _ = group.changed() => continue,
        }
        control.set_lead(Some(lead.clone()));
        control.report_soon.notify_one();
        tokio::select! {
            () = lead.clone().ticks() => {}
            () = lead.losses() => {}
            () = lead.members() => {}
            () = hears::watch(&lead, &control) => {}
            () = not_leading(&node) => {}
            _ = group.changed() => {}
        }
        control.set_lead(None);
        tracing::info!("this site does not lead the group any more");
    }
}

/// Completes once a round has shown that this process leads, and everything committed by then is applied.
async fn proven(node: &Node) {
    while node.read_index().await.is_err() {
        tokio::time::sleep(PROOF_PAUSE).await;
    }
}

async fn not_leading(node: &Node) {
    let mut leadership = node.leadership();
    while node.leads() {
        if leadership.changed().await.is_err() {
            // The member was shut down.
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lead {
    fn new(control: Arc<Control>, node: Arc<Node>) -> Self {
        let began_ms = control.boot_ms();
        let coordinator = Mutex::new(Coordinator::new(control.id(), began_ms));
        let (wake, controls) = (Notify::new(), Mutex::default());
        Self { coordinator, wake, began_ms, controls, control, node }
    }

    /// The decisions' memory. Hold it only for look-ups.
    pub(crate) fn coordinator(&self) -> MutexGuard<'_, Coordinator> {
        lock(&self.coordinator)
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// When this leadership began, on the boot clock.
    pub(crate) const fn began_ms(&self) -> u64 {
        self.began_ms
    }

    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// What each site's control process hears of the others.
    pub(crate) fn controls(&self) -> BTreeMap<SiteId, Vec<v1::PeerHeard>> {
        lock(&self.controls).clone()
    }

    /// Waits until these sites have reported to this leader. Within a lease and a little more of its election whoever lives
    /// has: who was not heard by then is silent.
    pub(crate) async fn reports_of(&self, sites: &[SiteId]) {
        loop {
            let heard = sites.iter().all(|site| self.coordinator().report_of(*site).is_some());
            let since_ms = self.control.boot_ms().saturating_sub(self.began_ms);
            if heard || !self.node.leads() || since_ms > self.state().lease_ms + FIRST_REPORTS_MS {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn state(&self) -> Arc<State> {
        self.node.applied().borrow().state.clone()
    }

    /// Takes note of a report and answers it. The lease of whoever may append is renewed only after a round that began now has shown
    /// that this process still leads, and everything that the round covers is applied.
    pub(crate) async fn report(&self, message: v1::SiteReport) -> v1::SiteReportReply {
        let mut reply = v1::SiteReportReply {
            leader_node: self.node.id(),
            leads: true,
            term: self.node.term(),
            ..v1::SiteReportReply::default()
        };
        let Some(report) = wire::report(&message) else { return reply };
        self.node.catch_up(message.applied_index).await;
        let now_ms = self.control.boot_ms();
        let word = words::of_report(&self.control, &self.state(), &message);
        self.control.words.take(&self.state(), self.control.site(), word.iter().cloned().collect(), now_ms);
        lock(&self.controls).insert(report.site, message.controls.into_iter().take(64).collect());
        let state = self.state();
        reply.words = words::known(&self.control, &state, &state.name_of(report.site));
        self.coordinator().heard(&state, report.clone(), now_ms);
        if state.operation.is_some() || report.resigned >= state.epoch {
            self.wake();
        }
        if !state.may_append(report.site) {
            return reply;
        }
        let refusal = match tokio::time::timeout(ROUND_LIMIT, self.node.read_index()).await {
            Err(_) => Some("no majority answers".to_owned()),
            Ok(Err(error)) => Some(error.to_string()),
            Ok(Ok(())) => None,
        };
        if let Some(why) = refusal {
            reply.leads = self.node.leads();
            reply.why_no_lease = why;
            return reply;
        }
        let state = self.state();
        if let Err(why) = alone::may_grant(&state, self.control.id(), &self.control.restart()) {
            reply.why_no_lease = why.to_string();
            return reply;
        }
        let lease = self.coordinator().answer(&state, &report, self.control.boot_ms());
        match lease {
            Lease::Granted { epoch, lease_ms, drain_op } => {
                self.tell_of_lease(&state, word.as_ref(), lease_ms);
                (reply.lease_epoch, reply.lease_ms, reply.drain_op) = (epoch.0, lease_ms, drain_op);
            }
            Lease::None(why) => reply.why_no_lease = why,
        }
        tracing::debug!(site = %report.site, epoch = reply.lease_epoch, why = reply.why_no_lease, "answers the primary");
        reply
    }

    /// Others learn of a lease as it was granted, not as its shipper held it at the time of its report.
    fn tell_of_lease(&self, state: &State, word: Option<&v1::SiteStatus>, lease_ms: u64) {
        let accepting = word.into_iter().filter(|word| word.lease_left_ms > 0);
        let words = accepting.map(|word| v1::SiteStatus { age_ms: 0, lease_left_ms: lease_ms, ..word.clone() });
        self.control.words.take(state, self.control.site(), words.collect(), self.control.boot_ms());
    }

    /// Brings the members to what the state wants, and the leadership to where it should be.
    async fn members(&self) {
        let mut applied = self.node.applied();
        let began_ms = self.control.boot_ms();
        loop {
            applied.borrow_and_update();
            let pause = match self.node.reconcile().await {
                Ok(Members::Settled) => {
                    self.prefer(began_ms).await;
                    SETTLED_PAUSE
                }
                Ok(Members::Changed) => Duration::ZERO,
                Ok(Members::WaitingFor(sites)) => {
                    tracing::debug!(?sites, "the members wait for sites to catch up");
                    UNSETTLED_PAUSE
                }
                Err(error) => {
                    tracing::debug!(%error, "the members cannot be changed now");
                    UNSETTLED_PAUSE
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = applied.changed() => {}
            }
        }
    }

    /// Moves the leadership away from the primary's site, so that losing that site costs a lease and no election; and to
    /// the witness, so that a cut between the data sites alone leaves the primary its lease.
    async fn prefer(&self, began_ms: u64) {
        let state = self.state();
        let voters = self.node.voters().unwrap_or_default();
        let now_ms = self.control.boot_ms();
        let settled = now_ms.saturating_sub(began_ms) > PREFER_AFTER_MS && !self.control.leadership_is_held();
        if voters.len() < 3 || state.operation.is_some() || !settled {
            return;
        }
        let rank = |id: SiteId| match state.site(id) {
            Some(site) if site.witness => 0,
            _ if state.primary != Some(id) => 1,
            _ => 2,
        };
        let own = rank(self.control.id());
        // A site that does not hear the primary would soon have to give the leadership away again.
        let hears = |id: SiteId| state.primary.is_none_or(|primary| primary == id || hears::said(self, id, primary));
        let better = |id: &SiteId| rank(*id) < own && hears(*id) && self.coordinator().is_fresh(&state, *id, now_ms);
        let target = voters.iter().copied().filter(better).min_by_key(|id| rank(*id));
        if let Some(target) = target.and_then(|id| Some(state.site(id)?.name.clone())) {
            match self.node.move_leadership(&target).await {
                Ok(()) => tracing::info!(site = %target, "the leadership moved to a site that it is better at"),
                Err(error) => tracing::info!(%error, "the leadership stays here for now"),
            }
        }
    }

    async fn ticks(self: Arc<Self>) {
        let mut applied = self.node.applied();
        loop {
            let state = applied.borrow_and_update().state.clone();
            let now_ms = self.control.boot_ms();
            let voters = self.node.voters();
            let (actions, over_at_ms) = {
                let mut coordinator = self.coordinator();
                (coordinator.tick(&state, voters.as_ref(), now_ms), coordinator.lease_over_at_ms(&state))
            };
            for action in actions {
                self.clone().execute(action, &state);
            }
            let busy = state.operation.is_some() || state.moving.is_some();
            let until_over = Duration::from_millis(over_at_ms.saturating_sub(now_ms).max(5));
            let pause = if busy { Duration::from_millis(Coordinator::TICK_MS) } else { IDLE_TICK.min(until_over) };
            tokio::select! {
                () = self.wake.notified() => {}
                _ = applied.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn execute(self: Arc<Self>, action: Action, state: &State) {
        match action {
            Action::Propose(kind) => {
                tokio::spawn(async move {
                    let by = self.control.site().to_string();
                    if let Err(error) = self.propose(&by, kind).await {
                        tracing::info!(error, "a proposal came to nothing");
                        // It may still come to pass: nothing else is proposed until the group has moved on.
                        proven(&self.node).await;
                    }
                    self.coordinator().proposed();
                    self.wake();
                });
            }
            Action::Order { op, site, order } => {
                let epoch = state.next_epoch();
                tokio::spawn(async move {
                    let answer = self.give(op, site, &order, epoch).await;
                    if let Answer::Failed(why) | Answer::Vetoed(why) = &answer {
                        tracing::info!(op, %site, order = order.word(), why, "an order was not carried out");
                    }
                    let state = self.state();
                    self.coordinator().answered(&state, op, site, &order, answer, self.control.boot_ms());
                    self.wake();
                });
            }
        }
    }

    /// Proposes and waits until it is applied.
    pub(crate) async fn propose(&self, by: &str, kind: Kind) -> Result<Outcome, String> {
        self.commit(by, kind).await.map_err(|undone| undone.why)
    }

    /// The same, for who would ask another leader.
    pub(crate) async fn commit(&self, by: &str, kind: Kind) -> Result<Outcome, Undone> {
        let what = kind.word();
        let command = Command { at_ms: self.control.wall_ms(), by: by.to_owned(), kind };
        match self.node.propose(command).await {
            Ok(Outcome::Refused(why)) => {
                tracing::info!(why, what, "refused by the replicated state");
                Err(Undone { why, moved: false })
            }
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                let moved = matches!(error, raft::Error::NotLeader { .. } | raft::Error::Moving);
                Err(Undone { why: error.to_string(), moved })
            }
        }
    }

    async fn give(&self, op: u64, site: SiteId, order: &Order, epoch: Epoch) -> Answer {
        tracing::debug!(op, %site, order = order.word(), %epoch, "gives an order");
        let mut request = wire::order(op, order, ORDER_LIMIT_MS);
        request.epoch = epoch.0;
        let reply = match self.deliver(site, request).await {
            Ok(reply) => reply,
            Err(why) => return Answer::Failed(why),
        };
        if reply.vetoed {
            return Answer::Vetoed(reply.why);
        }
        if !reply.done {
            return Answer::Failed(reply.why);
        }
        Answer::Done { floor: Epoch(reply.floor), durable: wire::vectors(&reply.streams).0 }
    }

    /// Gives an order to a site, this one included.
    pub(crate) async fn deliver(&self, site: SiteId, request: v1::OrderRequest) -> Result<v1::OrderReply, String> {
        if site == self.control.id() {
            return Ok(orders::carry_out(&self.control, request).await);
        }
        let state = self.state();
        let member = state.site(site).ok_or_else(|| format!("site number {site} is not enrolled"))?;
        let request = v1::OrderRequest { envelope: Some(self.node.envelope(member.node)), ..request };
        let limit = Duration::from_millis(request.timeout_ms + 1000);
        let mut client = self.control.peers.client(member.name.as_str()).map_err(|error| error.to_string())?;
        match tokio::time::timeout(limit, client.order(request)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err(format!("no answer within {limit:?}")),
        }
    }

    /// Measured round trips to other sites, in ms.
    pub(crate) fn round_trips_ms(&self) -> BTreeMap<SiteId, u64> {
        let state = self.state();
        let of = |site: &cfs_control_core::Site| Some((site.id, self.control.peers.round_trip_ms(site.name.as_str())?));
        state.sites.values().filter(|site| site.id != self.control.id()).filter_map(of).collect()
    }
}
