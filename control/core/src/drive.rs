//! One change of primary, from its `Begin` to its `Open` or `Abort`: fence → seal → catch up → open, or
//! drain → catch up → open.

use std::collections::{BTreeMap, BTreeSet};

use cfs_model::{SiteId, Vector};

use crate::apply::cut_of;
use crate::command::{Change, Kind};
use crate::coordinator::{Action, Coordinator};
use crate::report::{Answer, Order};
use crate::state::{Operation, Seal, State};

mod switchover;
mod vetoes;

/// Once enough sites are sealed, the others that are heard have so long to show that they hold more.
const MORE_SEALS_MS: u64 = 150;
/// An order that failed is given again after this.
const RETRY_MS: u64 = 100;
/// A candidate that failed is not tried again for so long, while there is another.
const EXCLUDED_MS: u64 = 5_000;
/// A candidate whose hook said no is left alone for so long.
const VETOED_MS: u64 = 30_000;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Fencing,
    Sealing { enough_since_ms: Option<u64> },
    Draining,
    CatchingUp { candidate: SiteId, cut: Vector, counted: BTreeSet<SiteId> },
    Opening { candidate: SiteId, cut: Vector, counted: BTreeSet<SiteId> },
    Aborting { why: String },
}

impl Stage {
    const fn word(&self) -> &'static str {
        match self {
            Self::Fencing => "fencing",
            Self::Sealing { .. } => "sealing",
            Self::Draining => "draining",
            Self::CatchingUp { .. } => "catching up",
            Self::Opening { .. } => "opening",
            Self::Aborting { .. } => "aborting",
        }
    }
}

/// A candidate that is passed over for a while.
#[derive(Debug, Clone)]
struct Excluded {
    until_ms: u64,
    why: String,
    /// By its hook: then it is passed over also when there is no other.
    vetoed: bool,
}

/// The leader's memory of the operation under way. A new leader starts it again from its beginning.
#[derive(Debug)]
pub(crate) struct Drive {
    op: u64,
    change: Change,
    started_ms: u64,
    stage: Stage,
    stage_since_ms: u64,
    phases: Vec<(String, u64)>,
    seals: BTreeMap<SiteId, Vector>,
    /// Orders under way, and when those that failed are given again.
    ordered: BTreeMap<(SiteId, &'static str), Option<u64>>,
    excluded: BTreeMap<SiteId, Excluded>,
    /// Their hooks are not asked, by an operator's word.
    overruled: BTreeSet<SiteId>,
    /// How much the target lacked of the last entries when some arrived last, and when that was.
    lacked: Option<(u64, u64)>,
    missing: String,
}

impl Drive {
    pub(crate) fn new(running: &Operation, now_ms: u64) -> Self {
        let stage = match running.change {
            Change::Failover { .. } => Stage::Fencing,
            Change::Switchover { .. } | Change::Mode { .. } => Stage::Draining,
        };
        Self {
            op: running.op,
            change: running.change,
            started_ms: now_ms,
            stage,
            stage_since_ms: now_ms,
            phases: Vec::new(),
            seals: BTreeMap::new(),
            ordered: BTreeMap::new(),
            excluded: BTreeMap::new(),
            overruled: BTreeSet::new(),
            lacked: None,
            missing: String::new(),
        }
    }

    pub(crate) const fn op(&self) -> u64 {
        self.op
    }

    pub(crate) fn stage(&self, now_ms: u64) -> (u64, &'static str, u64) {
        (self.op, self.stage.word(), now_ms.saturating_sub(self.stage_since_ms))
    }

    pub(crate) fn describe(&self, now_ms: u64) -> String {
        let (op, word, ms) = self.stage(now_ms);
        let missing = if self.missing.is_empty() { String::new() } else { format!(": {}", self.missing) };
        format!("operation {op}: {word} for {ms} ms{missing}")
    }

    fn enter(&mut self, stage: Stage, now_ms: u64) {
        self.phases.push((self.stage.word().to_owned(), now_ms.saturating_sub(self.stage_since_ms)));
        self.stage = stage;
        self.stage_since_ms = now_ms;
        self.missing.clear();
    }

    fn phases_until(&self, now_ms: u64) -> Vec<(String, u64)> {
        let mut phases = self.phases.clone();
        phases.push((self.stage.word().to_owned(), now_ms.saturating_sub(self.stage_since_ms)));
        phases
    }

    /// Gives an order unless it is under way or failed a moment ago.
    fn order(&mut self, actions: &mut Vec<Action>, site: SiteId, order: Order, now_ms: u64) {
        let due = match self.ordered.get(&(site, order.word())) {
            None => true,
            Some(None) => false,
            Some(Some(at_ms)) => now_ms >= *at_ms,
        };
        if due {
            self.ordered.insert((site, order.word()), None);
            actions.push(Action::Order { op: self.op, site, order });
        }
    }

    pub(crate) fn answered(
        &mut self,
        state: &State,
        site: SiteId,
        order: &Order,
        answer: Answer,
        furthest: &Vector,
        now_ms: u64,
    ) {
        let retry = match (order, answer) {
            (Order::Seal { floor }, Answer::Done { floor: held, durable }) if held >= *floor => {
                // A site that reported more than it now holds counts for nothing, unless no copy was ever promised: what
                // its disk lost was then promised by that disk alone.
                if durable.covers(furthest) || !state.promises_copies() {
                    self.seals.insert(site, durable);
                    return;
                }
                self.missing = format!("{} holds less than it reported before", state.name_of(site));
                now_ms + RETRY_MS
            }
            (Order::Drain, Answer::Done { durable, .. }) if durable.covers(furthest) => {
                self.seals.insert(site, durable);
                return;
            }
            (Order::Drain, Answer::Done { .. }) => {
                self.missing = format!("{} holds less than it reported before", state.name_of(site));
                now_ms + RETRY_MS
            }
            (Order::CatchUp { cut, .. }, Answer::Done { .. }) => {
                if let Stage::CatchingUp { candidate, cut: wanted, counted } = &self.stage
                    && *candidate == site
                    && wanted == cut
                {
                    let next = Stage::Opening { candidate: site, cut: cut.clone(), counted: counted.clone() };
                    self.enter(next, now_ms);
                }
                now_ms
            }
            (Order::CatchUp { .. }, Answer::Vetoed(why)) => {
                let why = format!("its pre_promote hook said no: {why}");
                self.fail(state, site, Excluded { until_ms: now_ms + VETOED_MS, why, vetoed: true }, now_ms);
                now_ms
            }
            (Order::CatchUp { .. }, Answer::Failed(why)) => {
                self.fail(state, site, Excluded { until_ms: now_ms + EXCLUDED_MS, why, vetoed: false }, now_ms);
                now_ms + RETRY_MS
            }
            (_, Answer::Done { floor, .. }) => {
                self.missing = format!("{} holds floor {floor}", state.name_of(site));
                now_ms + RETRY_MS
            }
            (_, Answer::Failed(why) | Answer::Vetoed(why)) => {
                self.missing = format!("{}: {why}", state.name_of(site));
                now_ms + RETRY_MS
            }
        };
        self.ordered.insert((site, order.word()), Some(retry));
    }

    /// The candidate failed: another one is looked for, or a switchover is given up.
    fn fail(&mut self, state: &State, site: SiteId, excluded: Excluded, now_ms: u64) {
        if !matches!(&self.stage, Stage::CatchingUp { candidate, .. } if *candidate == site) {
            return;
        }
        let text = format!("{}: {}", state.name_of(site), excluded.why);
        self.excluded.insert(site, Excluded { why: text.clone(), ..excluded });
        let next = match self.change {
            Change::Failover { .. } => {
                // It may have died: its seal counts again only once it is given anew.
                self.seals.remove(&site);
                self.ordered.remove(&(site, "seal"));
                Stage::Sealing { enough_since_ms: None }
            }
            Change::Switchover { .. } | Change::Mode { .. } => Stage::Aborting { why: text },
        };
        self.enter(next, now_ms);
    }

    pub(crate) fn step(
        &mut self,
        leader: &Coordinator,
        state: &State,
        now_ms: u64,
        actions: &mut Vec<Action>,
        proposal: &mut Option<Kind>,
    ) {
        match self.change {
            Change::Failover { .. } => self.step_failover(leader, state, now_ms, actions),
            Change::Switchover { to, timeout_ms } | Change::Mode { to, timeout_ms, .. } => {
                self.step_switchover(leader, state, (to, timeout_ms), now_ms, actions);
            }
        }
        match &self.stage {
            Stage::Opening { candidate, cut, counted } => {
                *proposal = Some(Kind::Open {
                    op: self.op,
                    epoch: state.next_epoch(),
                    site: *candidate,
                    cut: cut.clone(),
                    counted: self.counted(counted),
                    phases: self.phases_until(now_ms),
                });
            }
            Stage::Aborting { why } => {
                *proposal = Some(Kind::Abort { op: self.op, why: why.clone(), phases: self.phases_until(now_ms) });
            }
            _ => {}
        }
    }

    fn counted(&self, sites: &BTreeSet<SiteId>) -> Vec<Seal> {
        let of = |site: &SiteId| Some(Seal { site: *site, durable: self.seals.get(site)?.clone() });
        sites.iter().filter_map(of).collect()
    }

    fn step_failover(&mut self, leader: &Coordinator, state: &State, now_ms: u64, actions: &mut Vec<Action>) {
        let floor = state.next_epoch();
        if self.stage == Stage::Fencing && !self.fence(leader, state, now_ms, actions) {
            return;
        }
        for site in state.data_sites().map(|site| site.id).collect::<Vec<_>>() {
            if !self.seals.contains_key(&site) && !state.held.contains(&site) {
                self.order(actions, site, Order::Seal { floor }, now_ms);
            }
        }
        if let Stage::CatchingUp { candidate, .. } | Stage::Opening { candidate, .. } = &self.stage
            && !leader.is_fresh(state, *candidate, now_ms)
        {
            let candidate = *candidate;
            let why = format!("{} is lost", state.name_of(candidate));
            self.excluded.insert(candidate, Excluded { until_ms: now_ms + EXCLUDED_MS, why, vetoed: false });
            // An Open may be in the log already; then it wins, and the drive ends with it.
            self.seals.remove(&candidate);
            self.ordered.retain(|(site, _), _| *site != candidate);
            self.enter(Stage::Sealing { enough_since_ms: None }, now_ms);
        }
        if let Stage::Sealing { enough_since_ms } = self.stage {
            match self.choose(leader, state, now_ms) {
                Err(missing) => {
                    self.stage = Stage::Sealing { enough_since_ms: None };
                    self.missing = missing;
                }
                Ok((candidate, cut, counted)) => {
                    let since = enough_since_ms.unwrap_or(now_ms);
                    // The old primary is not waited for: it is lost, whenever it was heard last.
                    let all = state.data_sites().all(|site| {
                        self.seals.contains_key(&site.id)
                            || state.primary == Some(site.id)
                            || !leader.is_fresh(state, site.id, now_ms)
                    });
                    if all || now_ms.saturating_sub(since) >= MORE_SEALS_MS {
                        self.enter(Stage::CatchingUp { candidate, cut, counted }, now_ms);
                    } else {
                        self.stage = Stage::Sealing { enough_since_ms: Some(since) };
                    }
                }
            }
        }
        if let Stage::CatchingUp { candidate, cut, .. } = &self.stage {
            let (candidate, hook) = (*candidate, !self.overruled.contains(candidate));
            let order = Order::CatchUp { floor, cut: cut.clone(), hook };
            self.order(actions, candidate, order, now_ms);
        }
    }

    /// Nobody else may open while the old primary may still hold a lease: one may have been granted between the proposal
    /// of the change and its commit, or by a leader before. Its own seal ends that at once. Returns whether it is over.
    fn fence(&mut self, leader: &Coordinator, state: &State, now_ms: u64, actions: &mut Vec<Action>) -> bool {
        let holders: Vec<SiteId> = state.appenders().filter(|id| !self.seals.contains_key(id)).collect();
        if leader.lease_is_over(state, now_ms) || holders.is_empty() {
            self.enter(Stage::Sealing { enough_since_ms: None }, now_ms);
            return true;
        }
        for holder in &holders {
            self.order(actions, *holder, Order::Seal { floor: state.next_epoch() }, now_ms);
        }
        let names = holders.iter().map(|id| state.name_of(*id)).collect::<Vec<_>>().join(", ");
        self.missing = format!("a lease of {names} may run until it is old enough, or sealed");
        false
    }

    /// Who is to open, what it must have applied first, and whose seals that rests on.
    fn choose(
        &self,
        leader: &Coordinator,
        state: &State,
        now_ms: u64,
    ) -> Result<(SiteId, Vector, BTreeSet<SiteId>), String> {
        let alive = |site: &SiteId| leader.is_fresh(state, *site, now_ms);
        // A store that is copied in parts holds nothing that counts, and cannot be opened.
        let whole = |site: &SiteId| {
            let shipper = leader.shipper_of(*site);
            !shipper.is_some_and(|shipper| shipper.partial)
        };
        let counted: BTreeSet<SiteId> = self.seals.keys().copied().filter(alive).filter(whole).collect();
        let names = |ids: &BTreeSet<SiteId>| ids.iter().map(|id| state.name_of(*id)).collect::<Vec<_>>().join(", ");
        if counted.is_empty() {
            return Err("no data site has sealed yet".into());
        }
        let by_primary = !state.is_shared() && state.primary.is_some_and(|primary| counted.contains(&primary));
        if !by_primary && let Err(missing) = state.seals_suffice(&counted) {
            return Err(format!("{} may hold acknowledged entries and has not sealed", names(&missing)));
        }
        let cut = cut_of(counted.iter().filter_map(|site| self.seals.get(site)));
        if !cut.covers(&state.cut) {
            return Err(format!(
                "{} hold {cut}, which does not cover the cut of epoch {}: {}",
                names(&counted),
                state.epoch,
                state.cut
            ));
        }
        // Without automatic failover only the primary itself opens again, or whom an operator named.
        let there = |site| alive(&site) && leader.shipper_of(site).is_some();
        let only = match self.change {
            // Whom it was begun for may have died since; then whoever can opens, where that is automatic.
            Change::Failover { to: Some(to) } if there(to) || state.automatic().is_err() => Some(to),
            _ if state.automatic().is_err() => state.primary,
            _ => None,
        };
        let allowed = |site: &&SiteId| only.is_none_or(|only| only == **site) && !state.held.contains(site);
        let passed_over = |site: &SiteId| self.excluded.get(site).filter(|excluded| now_ms < excluded.until_ms);
        let usable = |site: &&SiteId| {
            allowed(site)
                && passed_over(site).is_none()
                && !leader.is_unwell(state, **site, now_ms)
                && !leader.is_fenced(**site)
        };
        let at_a_pinch = |site: &&SiteId| allowed(site) && passed_over(site).is_none_or(|excluded| !excluded.vetoed);
        let missing = |site: &SiteId| -> u64 {
            let durable = self.seals.get(site).cloned().unwrap_or_default();
            cut.beyond(&durable)
        };
        let rank = |site: &&SiteId| {
            let priority = state.site(**site).map_or(0, |site| site.priority);
            (missing(site), std::cmp::Reverse(priority), **site)
        };
        let candidate = counted.iter().filter(usable).min_by_key(rank);
        let candidate = candidate.or_else(|| counted.iter().filter(at_a_pinch).min_by_key(rank)).copied();
        let why = || match only {
            Some(only) if !counted.contains(&only) => format!("{} has not sealed", state.name_of(only)),
            _ => self.excluded.values().map(|excluded| excluded.why.clone()).collect::<Vec<_>>().join("; "),
        };
        Ok((candidate.ok_or_else(why)?, cut, counted))
    }
}
