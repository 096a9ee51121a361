//! A side with a majority of its own is kept: the generation rises in its group, and an epoch opens at the site that was named.

use std::sync::Arc;
use std::time::Duration;

use cfs_control_core::split::{self, Side};
use cfs_control_core::{Change, Kind, State, force};
use cfs_model::{Epoch, SiteId};

use super::known::Known;
use super::{OPEN_LIMIT, members};
use crate::control::Control;
use crate::{contact, sealed};

const POLL: Duration = Duration::from_millis(50);

/// This side has a majority of its own: it commits a generation above all that either side saw, and opens an epoch in it.
pub(super) async fn resolve(control: &Arc<Control>, known: &Known, by: &str) -> Result<(), String> {
    let own = contact::own_side(control, &control.state());
    // All that answered, as if it were one side: whatever any of them saw is passed over.
    let theirs = known.others.iter().cloned().reduce(|one, other| Side {
        epoch: one.epoch.max(other.epoch),
        highest: one.highest.max(other.highest),
        opened: one.opened.into_iter().chain(other.opened).collect(),
        durable: one.durable.max(&other.durable),
        forked_at: split::first_fork(&one.forked_at, &other.forked_at),
        ..one
    });
    members::propose_through_leader(control, split::resolve(&own, &theirs.unwrap_or_default()), by).await?;
    sealed::lift(control).await;
    if let Some(lead) = control.lead() {
        lead.wake();
    }
    open_here(control, known, by).await
}

/// Has the leader open an epoch of the new generation for this site. It opens one by itself for whoever is primary, which may be
/// another site and come first: then this site's is the next.
async fn open_here(control: &Arc<Control>, known: &Known, by: &str) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + OPEN_LIMIT;
    loop {
        let why = match under_way(&control.state(), control.id(), known.highest) {
            UnderWay::Here => return Ok(()),
            UnderWay::Elsewhere(why) => why,
            UnderWay::Nothing { op, epoch } => {
                let change = Change::Failover { to: Some(control.id()) };
                let reason = "forced by an operator".to_owned();
                let begin = Kind::Begin { op, epoch, change, reason, evidence: force::evidence(&known.survivor) };
                match members::propose_through_leader(control, begin, by).await {
                    Ok(()) => return Ok(()),
                    // Refused if another was begun meanwhile; an answer that was lost shows in the state.
                    Err(why) => why,
                }
            }
        };
        if tokio::time::Instant::now() > deadline {
            return Err(why);
        }
        tokio::time::sleep(POLL).await;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum UnderWay {
    /// An epoch above all that was seen opens here, or has.
    Here,
    /// Another change has to end first.
    Elsewhere(String),
    /// What is to be begun.
    Nothing { op: u64, epoch: Epoch },
}

fn under_way(state: &State, here: SiteId, above: Epoch) -> UnderWay {
    // The leader opens the first epoch of a new generation for the primary by itself.
    let own = state.primary == Some(here) && (state.epoch > above || state.epoch.generation() < state.generation);
    match &state.operation {
        Some(running) if running.change.target() == Some(here) => UnderWay::Here,
        Some(running) => UnderWay::Elsewhere(format!("operation {} is under way", running.op)),
        None if own => UnderWay::Here,
        None => UnderWay::Nothing { op: state.last_op + 1, epoch: state.epoch },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfs_control_core::state::Operation;

    fn state(epoch: Epoch, primary: SiteId, running: Option<SiteId>) -> State {
        let operation = running.map(|to| Operation {
            op: 4,
            change: Change::Failover { to: Some(to) },
            by: String::new(),
            reason: String::new(),
            evidence: String::new(),
            began_at_ms: 0,
        });
        State { epoch, primary: Some(primary), last_op: 4, generation: 1, operation, ..State::default() }
    }

    #[test]
    fn another_sites_change_is_waited_for_and_not_taken_for_ones_own() {
        let (a, b, above) = (SiteId(1), SiteId(2), Epoch(1));
        let raised = Epoch::new(1, a, 1);
        assert_eq!(under_way(&state(above, a, Some(b)), b, above), UnderWay::Here);
        assert_eq!(under_way(&state(raised, b, None), b, above), UnderWay::Here);
        assert_eq!(under_way(&state(above, b, None), b, above), UnderWay::Here, "the leader opens it by itself");
        // The leader opened one for the old primary first.
        let theirs = under_way(&state(above, a, Some(a)), b, above);
        assert!(matches!(theirs, UnderWay::Elsewhere(_)), "{theirs:?}");
        assert_eq!(under_way(&state(raised, a, None), b, above), UnderWay::Nothing { op: 5, epoch: raised });
        assert_eq!(under_way(&state(above, a, None), b, above), UnderWay::Nothing { op: 5, epoch: above });
    }
}
