//! What an operator should know before a change of primary.

use cfs_model::SiteId;

use crate::coordinator::Coordinator;
use crate::feed;
use crate::state::{Site, State};

/// All that the plan itself says.
pub(super) fn all(
    state: &State,
    target: &Site,
    kind: &str,
    at_risk: Option<u64>,
    since_ms: Option<u64>,
    way: &[SiteId],
) -> Vec<String> {
    let mut found = Vec::new();
    if let [from, through @ .., to] = way
        && !through.is_empty()
    {
        let through = through.iter().map(|id| state.name_of(*id)).collect::<Vec<_>>().join(", ");
        found.push(format!(
            "{} does not hear the shipper of {}: what it lacks comes through {through}",
            state.name_of(*to),
            state.name_of(*from)
        ));
    }
    let from = state.primary.map_or_else(|| "nobody".to_owned(), |id| state.name_of(id));
    if kind == "switchover" && state.wanted_voters().len() == 1 {
        found.push(format!(
            "two sites without a witness: both must stay up meanwhile; losing {} after the vote has moved stops {from} until \
             `failover --force`",
            target.name
        ));
    }
    if kind == "failover" {
        let ago = since_ms.map_or_else(String::new, |ms| {
            format!(", {}.{} s ago; what {from} took since is not known", ms / 1000, ms % 1000 / 100)
        });
        found.push(match at_risk {
            Some(0) => format!("{} holds everything that {from} was last known to hold{ago}", target.name),
            Some(n) => format!(
                "{n} entries of {from} are not known to be at {}: they come back when {from} rejoins, and may lose the merge",
                target.name
            ),
            None => format!("what {from} holds is not known"),
        });
    }
    found
}

/// After a planned move the old primary pulls from the new one. Where nothing gets over that way, it falls behind from then on.
pub(super) fn deaf_afterwards(
    state: &State,
    leader: &Coordinator,
    from: SiteId,
    target: &Site,
    now_ms: u64,
) -> Option<String> {
    let cut = feed::way(state, leader, target.id, from, now_ms).is_none();
    let (from, to) = (state.name_of(from), &target.name);
    let waits = if state.copies > 0 { ", and appends that wait for its copy wait for good" } else { "" };
    cut.then(|| {
        format!(
            "nothing gets over the link from {to} to {from}: the shipper of {from} does not hear that of {to}, and gets nothing of \
             what {to} takes once it is primary{waits}; on {from}: cfs preflight"
        )
    })
}
