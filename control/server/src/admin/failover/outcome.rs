//! What an operator is told of a change of primary that did not go as planned: whether it was taken back, and who is primary.

use cfs_control_core::{State, plan, way_out};
use cfs_model::Epoch;

use super::{FOLLOW, Operation};
use crate::status;

impl Operation<'_> {
    /// What is wrong with the operator's time for it and what to do, if it ended with that time and that was too short.
    pub(super) fn too_short(&self, took_ms: u64) -> Option<(String, String)> {
        let to = &self.target.name;
        let why = plan::time_too_short(&self.plan, self.timeout_ms, took_ms)?;
        Some((why, format!("cfs admin replication failover --to {to} with a longer --timeout, or without: 30s")))
    }

    /// Why the new primary takes no appends although its epoch was opened; `None`: it does not say by now.
    pub(super) fn not_accepting(&self, opened: Epoch) -> Option<String> {
        let state = self.control.state();
        let (to, now) = (&self.target.name, state.primary.map(|id| state.name_of(id)).unwrap_or_default());
        if state.epoch > opened {
            return Some(format!(
                "{to} became primary in epoch {opened} and was lost before it took appends; {now} is primary since, in epoch {}",
                state.epoch
            ));
        }
        let lead = self.control.lead()?;
        let heard = lead.coordinator().is_fresh(&state, self.target.id, self.control.boot_ms());
        (!heard).then(|| format!("{to} is primary in epoch {opened}, and is not heard: nobody takes appends now"))
    }

    /// It is neither done nor taken back: who is primary meanwhile, and what settles it.
    pub(super) fn unsettled(&self, state: &State, op: u64, elapsed_ms: u64) -> (String, String) {
        let primary = state.primary.map(|id| state.name_of(id)).unwrap_or_default();
        let so_far = format!("operation {op} is neither done nor taken back after {elapsed_ms} ms");
        let Some(awaited) = status::lacks_majority(self.control) else {
            let why = format!("{so_far}; {primary} is primary in epoch {}", state.epoch);
            return (why, format!("{FOLLOW} {op}"));
        };
        let why = format!(
            "{so_far}: {awaited}; {primary} is primary in epoch {} as far as is known here, and takes no appends before that",
            state.epoch
        );
        let to = &self.target.name;
        (why, format!("start {to}, and it goes on by itself; if that cannot be, {}", way_out::force(&primary)))
    }
}
