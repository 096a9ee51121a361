//! What the control process warns of.

use cfs_control_core::State;
use cfs_rpc::v1;

use crate::control::Control;

/// A clock may differ by so much.
const SKEW_MS: u64 = 100;

/// All that it warns of, with `majority` or without.
pub(super) fn all(control: &Control, state: &State, sites: &[v1::SiteStatus], majority: bool) -> Vec<String> {
    let mut found = Vec::new();
    // A site that is no member has nothing to warn of.
    if super::was_removed(control, state) {
        return found;
    }
    // What is awaited in the group of a site that takes part in nothing leads nowhere.
    if let Some(lead) = control.lead().filter(|_| !control.local().is_fenced()) {
        let waiting = lead.coordinator().waiting_for().to_owned();
        if !waiting.is_empty() {
            found.push(waiting);
        }
        let awaited = super::awaited(control, state);
        found.extend(awaited.map(|why| format!("{} does not go on as primary yet: {why}", control.site())));
    }
    let voters = control.node().and_then(|node| node.voters()).unwrap_or_default();
    let down = |site: &&v1::SiteStatus| site.voter && site.state == "DOWN";
    let spare = spare(voters.len(), sites.iter().filter(down).count());
    found.extend(sites.iter().filter_map(|site| witness_down(site, majority, spare)));
    found.extend(sites.iter().filter_map(clock));
    if let Some(split) = state.open_split() {
        found.push(format!("split-brain: {}", split.evidence));
    }
    found
}

/// How many voters more than those that are down may go before there is no majority.
const fn spare(voters: usize, down: usize) -> usize {
    let majority = voters / 2 + 1;
    voters.saturating_sub(down).saturating_sub(majority)
}

fn witness_down(site: &v1::SiteStatus, majority: bool, spare: usize) -> Option<String> {
    let means = match (majority, site.voter) {
        // It was not back since this side was forced, or there are enough data sites that vote.
        (true, false) => "writes go on: it has no vote now",
        (true, true) if spare > 0 => "writes go on, also without another site",
        (true, true) => "writes go on, and the loss of another site would stop them",
        (false, _) => "there is no majority without it and the other sites that are awaited, and no writes here",
    };
    let down = site.witness && site.enrolled && site.state == "DOWN";
    down.then(|| format!("the witness {} is down: {means}", site.site))
}

fn clock(site: &v1::SiteStatus) -> Option<String> {
    let apart_ms = site.clock_skew_ms.filter(|ms| ms.unsigned_abs() > SKEW_MS)?;
    Some(format!("the clock of {} differs by {apart_ms} ms", site.site))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_loss_of_a_witness_means_depends_on_who_votes() {
        let witness = |state: &str, voter| v1::SiteStatus {
            site: "site-w".into(),
            witness: true,
            enrolled: true,
            state: state.into(),
            voter,
            ..v1::SiteStatus::default()
        };
        let said = |voter, majority, spare| witness_down(&witness("DOWN", voter), majority, spare).expect("a warning");
        assert!(said(true, true, spare(3, 1)).contains("the loss of another site would stop them"));
        assert!(said(true, true, spare(5, 1)).contains("also without another site"));
        // After a force one site votes alone.
        let alone = said(false, true, spare(1, 0));
        assert!(alone.contains("writes go on: it has no vote") && !alone.contains("loss of another"), "{alone}");
        let none = said(true, false, spare(3, 2));
        assert!(!none.contains("writes go on") && none.contains("no writes"), "{none}");
        assert_eq!(witness_down(&witness("READY", true), true, 1), None);
    }
}
