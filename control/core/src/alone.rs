//! When the only voter may grant leases after a restart: somebody may have forced a newer generation meanwhile.

use std::collections::BTreeMap;
use std::fmt;

use cfs_model::SiteId;

use crate::state::State;

/// A voter that was away for less than this, within one boot of its machine, goes on without hearing the others. A forced
/// recovery that it missed meanwhile told its operator so ([`FORCE_QUIET_MS`]); it is fenced once it hears of that.
pub const BLINK_MS: u64 = 60_000;
/// For so long after a primary that votes alone was last heard, a forced recovery says that it may go on after a restart.
pub const FORCE_QUIET_MS: u64 = 120_000;

/// What a restarted voter knows.
#[derive(Debug, Clone, Default)]
pub struct Restart {
    /// How long it was away, if its machine was not booted meanwhile.
    pub away_ms: Option<u64>,
    /// The highest generation that each other site answered with.
    pub answered: BTreeMap<SiteId, u16>,
    /// The operator says that no other site acts.
    pub alone: bool,
    /// This process founded the group, or did not vote alone when it started: there was nothing to miss.
    pub current: bool,
}

/// Why a primary does not go on yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// What is not known.
    pub why: String,
    /// What leads on.
    pub next: String,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why, self.next)
    }
}

/// Whether a leader may grant leases. Only a sole voter is held back: more than one voter would have to agree anyway.
///
/// # Errors
/// What is awaited.
pub fn may_grant(state: &State, here: SiteId, restart: &Restart) -> Result<(), Awaited> {
    let others: Vec<SiteId> = state.data_sites().map(|site| site.id).filter(|id| *id != here).collect();
    if state.wanted_voters().len() > 1 || others.is_empty() || restart.alone || restart.current {
        return Ok(());
    }
    if restart.away_ms.is_some_and(|away| away < BLINK_MS) {
        return Ok(());
    }
    let newer = restart.answered.iter().find(|(_, generation)| **generation > state.generation);
    if let Some((site, generation)) = newer {
        let other = state.name_of(*site);
        return Err(Awaited {
            why: format!("{other} acts for generation {generation}, this site for {}", state.generation),
            next: "cfs admin replication split-brain status".to_owned(),
        });
    }
    let silent: Vec<String> =
        others.iter().filter(|id| !restart.answered.contains_key(id)).map(|id| state.name_of(*id)).collect();
    if silent.is_empty() {
        return Ok(());
    }
    let silent = silent.join(", ");
    Err(Awaited {
        why: format!("{silent} may have been made primary by force while this site was down, and does not answer"),
        next: format!(
            "start {silent}, or, if it is not primary: cfs admin replication failover --to {} --alone",
            state.name_of(here)
        ),
    })
}
