//! The leader's part: leases, and the way from one primary to the next.
//!
//! What is here is forgotten when the leadership is lost; what must survive is in the [`State`]. Times are the leader's own
//! boot clock in milliseconds.

use std::collections::BTreeMap;

use cfs_model::{Epoch, SiteId, Vector};

use crate::command::{Change, Kind};
use crate::drive::Drive;
use crate::report::{Answer, Order, Report};
use crate::state::State;

mod active;
mod lease;
mod vetoes;

/// A site that was silent for so many lease lengths counts as unreachable.
const SILENT_LEASES: u64 = 1;
/// A report is late by its way and by the rounds before it is answered: added to the above.
const SILENT_EXTRA_MS: u64 = 500;

/// What the leader is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Propose this to the group, and say what became of it by [`Coordinator::proposed`]. One at a time.
    Propose(Kind),
    /// Give a site this order, and say what became of it by [`Coordinator::answered`].
    Order {
        /// The operation that it belongs to.
        op: u64,
        /// Whom.
        site: SiteId,
        /// What.
        order: Order,
    },
}

/// The answer to a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// The lease of this epoch lasts `lease_ms` from when the report was sent; only for draining if `drain_op` is not 0.
    Granted {
        /// The epoch.
        epoch: Epoch,
        /// The length.
        lease_ms: u64,
        /// The operation.
        drain_op: u64,
    },
    /// None, because of this.
    None(String),
}

/// What the leader remembers of a site.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) report: Report,
    pub(crate) at_ms: u64,
    /// Its connection broke since.
    pub(crate) gone: bool,
    /// The furthest that it ever reported, to this leader.
    pub(crate) furthest: Vector,
    pub(crate) highest_floor: Epoch,
}

impl Seen {
    /// It reported something further than what it reports now, and that matters: it lost its disk, or an old copy came back.
    pub(crate) fn went_back(&self, state: &State) -> bool {
        self.report.shipper.as_ref().is_some_and(|shipper| {
            (state.promises_copies() && !shipper.durable.covers(&self.furthest)) || shipper.floor < self.highest_floor
        })
    }
}

/// The leases that this leader granted to a site in one epoch.
#[derive(Debug, Clone, Copy)]
struct Granted {
    epoch: Epoch,
    /// The control process that got the last one.
    instance: u64,
    /// When the last one was.
    last_ms: u64,
    /// The newest deadline that came back in a report.
    echo_ns: u64,
    /// The first grant since then.
    unanswered_since_ms: Option<u64>,
}

/// A lease that was given up for good.
#[derive(Debug, Clone, Copy, Default)]
struct Resigned {
    epoch: Epoch,
    /// The control process that said so.
    instance: u64,
}

/// The leader's memory.
#[derive(Debug)]
pub struct Coordinator {
    /// This leader's site.
    here: SiteId,
    /// Nobody is acted against before one lease after this.
    since_ms: u64,
    /// The newest epoch that this leader has applied, and when it did.
    epoch: (Epoch, u64),
    pub(crate) sites: BTreeMap<SiteId, Seen>,
    granted: BTreeMap<SiteId, Granted>,
    resigned: BTreeMap<SiteId, Resigned>,
    drive: Option<Drive>,
    /// A proposal is under way.
    proposing: bool,
    lease_lowered_ms: Option<u64>,
    moving_since_ms: Option<u64>,
    waiting_for: String,
}

impl Coordinator {
    /// A leader's memory at `now_ms`, when it was elected or its process started, whichever was later.
    pub fn new(here: SiteId, now_ms: u64) -> Self {
        Self {
            here,
            since_ms: now_ms,
            epoch: (Epoch(0), now_ms),
            sites: BTreeMap::new(),
            granted: BTreeMap::new(),
            resigned: BTreeMap::new(),
            drive: None,
            proposing: false,
            lease_lowered_ms: None,
            moving_since_ms: None,
            waiting_for: String::new(),
        }
    }

    /// The leader's own site.
    pub(crate) const fn here(&self) -> SiteId {
        self.here
    }

    /// The connection to a site's control process broke at `broke_ms`: it is gone unless it has reported since.
    pub fn lost(&mut self, site: SiteId, broke_ms: u64) {
        if let Some(seen) = self.sites.get_mut(&site) {
            seen.gone |= seen.at_ms <= broke_ms;
        }
    }

    /// An append path that has not answered for so long is not healthy.
    pub fn health_limit_ms(state: &State) -> u64 {
        state.lease_ms.max(500)
    }

    /// Whether a site was heard lately.
    pub fn is_fresh(&self, state: &State, site: SiteId, now_ms: u64) -> bool {
        let limit = SILENT_LEASES * state.lease_ms + SILENT_EXTRA_MS;
        self.sites.get(&site).is_some_and(|seen| !seen.gone && now_ms.saturating_sub(seen.at_ms) <= limit)
    }

    /// The last report of a site, and when it came.
    pub fn report_of(&self, site: SiteId) -> Option<(&Report, u64)> {
        self.sites.get(&site).map(|seen| (&seen.report, seen.at_ms))
    }

    /// A proposal has ended, well or not.
    pub fn proposed(&mut self) {
        self.proposing = false;
    }

    /// An order has ended.
    pub fn answered(&mut self, state: &State, op: u64, site: SiteId, order: &Order, answer: Answer, now_ms: u64) {
        if let Some(drive) = self.drive.as_mut().filter(|drive| drive.op() == op) {
            let back = self.sites.get(&site).map(|seen| seen.furthest.clone()).unwrap_or_default();
            drive.answered(state, site, order, answer, &back, now_ms);
        }
    }

    /// What is under way, for people; empty: nothing.
    pub fn doing(&self, now_ms: u64) -> String {
        self.drive.as_ref().map(|drive| drive.describe(now_ms)).unwrap_or_default()
    }

    /// The stage and its length so far of the operation under way.
    pub fn stage(&self, now_ms: u64) -> Option<(u64, &'static str, u64)> {
        self.drive.as_ref().map(|drive| drive.stage(now_ms))
    }

    /// Why no failover happens although the primary is lost; empty: it is not, or one does.
    pub fn waiting_for(&self) -> &str {
        &self.waiting_for
    }

    /// Looks at everything. Call it whenever something was heard, answered or applied, and every
    /// [`Coordinator::TICK_MS`]. `voters` are the sites that vote now, `None` while that changes.
    pub fn tick(
        &mut self,
        state: &State,
        voters: Option<&std::collections::BTreeSet<SiteId>>,
        now_ms: u64,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        if state.group == 0 {
            return actions;
        }
        self.follow(state, now_ms);
        if let Some(mut drive) = self.drive.take() {
            let mut proposal = None;
            drive.step(self, state, now_ms, &mut actions, &mut proposal);
            self.drive = Some(drive);
            if let Some(kind) = proposal {
                self.propose(&mut actions, kind);
            }
        } else if state.operation.is_none()
            && let Some(kind) = self.next_change(state, voters, now_ms)
        {
            self.propose(&mut actions, kind);
        }
        if let Some(kind) = self.next_chore(state, now_ms) {
            self.propose(&mut actions, kind);
        }
        actions
    }

    /// How often to tick when nothing happens.
    pub const TICK_MS: u64 = 50;

    fn propose(&mut self, actions: &mut Vec<Action>, kind: Kind) {
        if !self.proposing {
            self.proposing = true;
            actions.push(Action::Propose(kind));
        }
    }

    fn follow(&mut self, state: &State, now_ms: u64) {
        if self.epoch.0 != state.epoch {
            self.epoch = (state.epoch, now_ms);
        }
        let running = state.operation.as_ref();
        if self.drive.as_ref().map(Drive::op) != running.map(|running| running.op) {
            self.drive = running.map(|running| Drive::new(running, now_ms));
        }
        self.lease_lowered_ms = match (state.lease_before_ms, self.lease_lowered_ms) {
            (Some(_), None) => Some(now_ms),
            (Some(_), since) => since,
            (None, _) => None,
        };
        self.moving_since_ms = match (&state.moving, self.moving_since_ms) {
            (Some(_), None) => Some(now_ms),
            (Some(_), since) => since,
            (None, _) => None,
        };
    }

    /// The beginning of a change of primary, if there is a reason for one.
    fn next_change(
        &mut self,
        state: &State,
        voters: Option<&std::collections::BTreeSet<SiteId>>,
        now_ms: u64,
    ) -> Option<Kind> {
        self.waiting_for.clear();
        let begin = |change, reason: String, evidence: String| Kind::Begin {
            op: state.last_op + 1,
            epoch: state.epoch,
            change,
            reason,
            evidence,
        };
        if let Some(moving) = &state.moving {
            let there =
                voters.is_some_and(|voters| voters.len() == 1 && voters.contains(&moving.to)) && self.here == moving.to;
            if there {
                let change = Change::Switchover { to: moving.to, timeout_ms: moving.timeout_ms };
                return Some(begin(change, format!("planned by {}", moving.by), "the vote has moved".into()));
            }
            let late = self.moving_since_ms.is_some_and(|since| now_ms.saturating_sub(since) > moving.timeout_ms);
            return match state.primary {
                Some(primary) if late => Some(Kind::MoveVote { to: primary, timeout_ms: 0 }),
                _ => None,
            };
        }
        let primary = state.primary?;
        // One that an operator sealed for another site would take nothing: their command begins the change to that one.
        if state.epoch.generation() < state.generation && !self.is_fenced(primary) {
            // Shippers that saw the other side's epochs take nothing of an older one.
            let change = Change::Failover { to: Some(primary) };
            let evidence = format!("epoch {} is of an older generation", state.epoch);
            return Some(begin(change, "the split was resolved in this group's favour".into(), evidence));
        }
        if state.is_shared() {
            return self.next_coordinator(state, primary, now_ms);
        }
        let resigned = self.resigned.get(&primary).is_some_and(|resigned| resigned.epoch >= state.epoch);
        if resigned {
            // Nobody else may be needed: without another the same site opens under a new epoch.
            let evidence = format!("{} gave up the lease of epoch {}", state.name_of(primary), state.epoch);
            let others = state.automatic().is_ok() && self.somebody_can_open(state, primary, now_ms).is_ok();
            let itself = self.is_fresh(state, primary, now_ms)
                && self.sites.get(&primary).is_some_and(|seen| seen.report.shipper.is_some());
            return match (others, itself) {
                (true, _) | (_, true) => {
                    Some(begin(Change::Failover { to: None }, "the primary's shipper is gone".into(), evidence))
                }
                _ => {
                    self.waiting_for = "the primary's shipper is gone, and no other site can take over".into();
                    None
                }
            };
        }
        if now_ms < self.lease_over_at_ms(state) {
            return None;
        }
        let name = state.name_of(primary);
        let possible = match state.automatic() {
            Err(why) => Err(format!("{name} has no lease, and failover is not automatic: {why}")),
            Ok(()) => self
                .somebody_can_open(state, primary, now_ms)
                .map_err(|why| format!("{name} has no lease, and no other site can take over: {why}")),
        };
        if let Err(why) = possible {
            self.waiting_for = why;
            // Nobody else can: whatever kept leases from its shipper, it is tried again.
            if let Some(granted) = self.granted.get_mut(&primary) {
                granted.unanswered_since_ms = None;
            }
            return None;
        }
        Some(begin(
            Change::Failover { to: None },
            format!("{name} is lost"),
            self.evidence_against(state, primary, now_ms),
        ))
    }

    /// What speaks for the primary's loss.
    fn evidence_against(&self, state: &State, primary: SiteId, now_ms: u64) -> String {
        let granted = self.granted_to(state, primary);
        let lease = granted.map_or_else(
            || {
                format!(
                    "no lease was granted since this leader was elected {} ms ago",
                    now_ms.saturating_sub(self.since_ms)
                )
            },
            |granted| format!("its last lease was granted {} ms ago", now_ms.saturating_sub(granted.last_ms)),
        );
        match self.sites.get(&primary) {
            None => format!("{lease}; it was never heard"),
            Some(seen) => {
                let age = now_ms.saturating_sub(seen.at_ms);
                let shipper = match &seen.report.shipper {
                    None => "its shipper was not reached".to_owned(),
                    Some(shipper) => format!("its append path had answered {} ms before", shipper.append_path_age_ms),
                };
                format!("{lease}; its last report came {age} ms ago, and said that {shipper}")
            }
        }
    }

    /// Whether the sites heard, the primary apart, could open an epoch between them.
    fn somebody_can_open(&self, state: &State, primary: SiteId, now_ms: u64) -> Result<(), String> {
        let usable = |id: &SiteId| {
            *id != primary
                && !state.held.contains(id)
                && !self.is_fenced(*id)
                && self.is_fresh(state, *id, now_ms)
                && self.sites.get(id).is_some_and(|seen| seen.report.shipper.is_some() && !seen.went_back(state))
        };
        let sites: std::collections::BTreeSet<SiteId> = state.data_sites().map(|site| site.id).filter(usable).collect();
        if sites.is_empty() {
            return Err("none is heard".into());
        }
        let names = |ids: std::collections::BTreeSet<SiteId>| {
            ids.into_iter().map(|id| state.name_of(id)).collect::<Vec<_>>().join(", ")
        };
        state
            .seals_suffice(&sites)
            .map_err(|missing| format!("{} may hold acknowledged entries that the others lack", names(missing)))?;
        let held = sites.iter().filter_map(|id| self.sites.get(id)?.report.shipper.as_ref());
        let held = held.fold(Vector::new(), |held, shipper| held.max(&shipper.durable));
        if !held.covers(&state.cut) {
            return Err(format!(
                "together they hold {held}, which does not cover the cut of epoch {}: {}",
                state.epoch, state.cut
            ));
        }
        Ok(())
    }

    /// What is to be committed besides, one thing at a time.
    fn next_chore(&self, state: &State, now_ms: u64) -> Option<Kind> {
        crate::chores::next(self, state, now_ms)
    }

    pub(crate) fn old_leases_are_over(&self, state: &State, now_ms: u64) -> bool {
        self.lease_lowered_ms.is_some_and(|since| now_ms >= since + state.longest_lease_ms() + state.margin_ms())
    }
}
