//! drain → catch up → open, or abort.

use std::collections::BTreeSet;

use cfs_model::SiteId;

use super::{Drive, Stage};
use crate::coordinator::{Action, Coordinator};
use crate::feed;
use crate::report::Order;
use crate::state::State;

/// While writers wait, the target gets so long to hear again of the shippers whose last entries it lacks.
const UNFED_MS: u64 = 2_000;
/// The same, to get any of these: a link may carry signs of life and no entries, as when acknowledgements are lost.
const STUCK_MS: u64 = 3_000;

impl Drive {
    pub(super) fn step_switchover(
        &mut self,
        leader: &Coordinator,
        state: &State,
        (to, timeout_ms): (SiteId, u64),
        now_ms: u64,
        actions: &mut Vec<Action>,
    ) {
        let late = now_ms.saturating_sub(self.started_ms) >= timeout_ms;
        let lost = !leader.is_fresh(state, to, now_ms) && now_ms > self.started_ms + state.lease_ms;
        if matches!(self.stage, Stage::Draining | Stage::CatchingUp { .. }) && (late || lost) {
            let why = if lost {
                format!("{} is lost", state.name_of(to))
            } else {
                format!("it took longer than {timeout_ms} ms ({})", self.describe(now_ms))
            };
            self.enter(Stage::Aborting { why }, now_ms);
        }
        if self.stage == Stage::Draining {
            // The primary, or whoever else takes appends: what they took by then is the cut.
            let appenders: BTreeSet<SiteId> = state.appenders().collect();
            if appenders.is_empty() {
                return;
            }
            let missing: Vec<SiteId> = appenders.iter().copied().filter(|id| !self.seals.contains_key(id)).collect();
            let gone =
                |id: &&SiteId| now_ms >= leader.lease_over_of_ms(state, **id) && !leader.is_fresh(state, **id, now_ms);
            if let Some(lost) = missing.iter().find(gone) {
                let why = format!("{} was lost before it had drained", state.name_of(*lost));
                self.enter(Stage::Aborting { why }, now_ms);
            } else if missing.is_empty() {
                let drained = appenders.iter().filter_map(|id| self.seals.get(id));
                let cut = drained.fold(state.cut.clone(), |cut, durable| cut.max(durable));
                self.enter(Stage::CatchingUp { candidate: to, cut, counted: appenders }, now_ms);
            } else {
                for site in missing {
                    self.order(actions, site, Order::Drain, now_ms);
                }
            }
        }
        if now_ms.saturating_sub(self.stage_since_ms) >= UNFED_MS
            && let Some(why) = self.unfed(leader, state, now_ms)
        {
            self.enter(Stage::Aborting { why }, now_ms);
        }
        if let Some(why) = self.stuck(leader, state, now_ms) {
            self.enter(Stage::Aborting { why }, now_ms);
        }
        if let Stage::CatchingUp { candidate, cut, .. } = &self.stage {
            let order = Order::CatchUp { floor: cfs_model::Epoch(0), cut: cut.clone(), hook: false };
            let candidate = *candidate;
            self.order(actions, candidate, order, now_ms);
        }
    }

    /// Why the target will not have the last entries soon: nothing of them arrives there.
    fn stuck(&mut self, leader: &Coordinator, state: &State, now_ms: u64) -> Option<String> {
        let Stage::CatchingUp { candidate, cut, .. } = &self.stage else { return None };
        let durable = &leader.shipper_of(*candidate)?.durable;
        let lacks = cut.beyond(durable);
        let (before, since_ms) = *self.lacked.get_or_insert((lacks, now_ms));
        if lacks < before || lacks == 0 {
            self.lacked = Some((lacks, now_ms));
            return None;
        }
        let for_ms = now_ms.saturating_sub(since_ms);
        let to = state.name_of(*candidate);
        (for_ms >= STUCK_MS)
            .then(|| format!("{to} lacks the last {lacks} entries, and none has arrived there for {for_ms} ms"))
    }

    /// Whose last entries cannot get to the target, and why; `None`: they can, as far as is known.
    fn unfed(&self, leader: &Coordinator, state: &State, now_ms: u64) -> Option<String> {
        let Stage::CatchingUp { candidate, cut, counted } = &self.stage else { return None };
        let held = leader.shipper_of(*candidate);
        if held.is_some_and(|shipper| shipper.durable.covers(cut)) {
            return None;
        }
        let cut_off =
            |from: &&SiteId| *from != candidate && feed::way(state, leader, **from, *candidate, now_ms).is_none();
        let from = counted.iter().find(cut_off)?;
        let (from, to) = (state.name_of(*from), state.name_of(*candidate));
        Some(format!("nothing gets over the link from {from} to {to}, which lacks what {from} took last"))
    }
}
