//! Whether the group has a leader, and whether it would find another.

use cfs_control_core::State;
use cfs_model::{SiteId, SiteName};

use super::{FRESH_MS, is_fresh};
use crate::control::Control;

/// There is a majority.
pub(super) const OK: &str = "ok";
/// An election takes less, also where links are slow and it has to be repeated.
const ELECTION_MS: u64 = 10_000;

/// Who leads, or what keeps the group from a leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Quorum {
    /// A leader is reached.
    Led,
    /// None is, and a majority of the voters answers: they elect one.
    Electing,
    /// The same, but for longer than that takes.
    Leaderless,
    /// These voters would be needed for a majority, and are not heard.
    Silent(Vec<String>),
    /// This site is in no group, and waits for this.
    NotEnrolled(String),
}

impl Quorum {
    /// While no leader has been reached for `since_ms`: of each set of voters that has to agree, whether each is heard.
    fn without_leader(sets: &[Vec<(String, bool)>], since_ms: u64) -> Self {
        let mut silent = Vec::new();
        for voters in sets {
            let missing: Vec<&String> = voters.iter().filter(|(_, heard)| !heard).map(|(name, _)| name).collect();
            if !missing.is_empty() && 2 * (voters.len() - missing.len()) <= voters.len() {
                silent.extend(missing.into_iter().filter(|name| !silent.contains(*name)).cloned().collect::<Vec<_>>());
            }
        }
        match silent.is_empty() {
            false => Self::Silent(silent),
            // A single voter elects itself when it starts, and others have only to reach it.
            true if sets.iter().any(|voters| voters.len() > 1) && since_ms < ELECTION_MS => Self::Electing,
            true => Self::Leaderless,
        }
    }

    /// Whether a leader that is not known yet will be in a moment, without anybody's help.
    pub(crate) const fn settles(&self) -> bool {
        matches!(self, Self::Led | Self::Electing)
    }

    /// For people: `ok`, or what is awaited.
    fn text(&self) -> String {
        match self {
            Self::Led => OK.to_owned(),
            Self::Electing | Self::Leaderless => "waiting for a leader to be elected".to_owned(),
            Self::Silent(silent) => format!("waiting for a majority: {} not heard", silent.join(", ")),
            Self::NotEnrolled(waiting) => waiting.clone(),
        }
    }
}

/// `ok`, or what is awaited.
pub(crate) fn quorum(control: &Control) -> String {
    quorum_of(control).text()
}

/// What is awaited before anything can be decided; `None`: nothing.
pub(crate) fn lacks_majority(control: &Control) -> Option<String> {
    let quorum = quorum_of(control);
    (quorum != Quorum::Led).then(|| quorum.text())
}

/// How the group stands, as far as this site knows.
pub(crate) fn quorum_of(control: &Control) -> Quorum {
    let Some(node) = control.node() else { return Quorum::NotEnrolled(control.waiting()) };
    let state = control.state();
    // A process that has just started knows from its log who led; only a connection shows that it is there. If that was this
    // site, it leads once a majority says so.
    let own = control.lead().is_some();
    let reached = |leader: SiteName| match leader == *control.site() {
        true => own,
        false => control.peers.link(leader.as_str()).connected,
    };
    if node.leader_site().is_some_and(reached) && node.leader_age_ms() < FRESH_MS {
        return Quorum::Led;
    }
    let heard = |id: SiteId| {
        let name = state.site(id).map(|site| site.name.clone());
        id == control.id()
            || name.and_then(|name| control.contacts.get(&name)).is_some_and(|contact| is_fresh(control, &contact))
    };
    let mut sets = node.voter_sets();
    if sets.is_empty() {
        sets.push(state.wanted_voters());
    }
    let told = |id: SiteId| (state.name_of(id), heard(id));
    let sets: Vec<Vec<_>> = sets.into_iter().map(|voters| voters.into_iter().map(told).collect()).collect();
    Quorum::without_leader(&sets, node.led_age_ms().min(control.uptime_ms()))
}

/// Whether the primary role moves by itself when its site is lost now, and if not, why.
pub(crate) fn automatic(control: &Control, state: &State) -> Result<(), String> {
    if state.group == 0 {
        return Err("this site is not enrolled".to_owned());
    }
    state.automatic()?;
    let missing = without_vote(control, state);
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "not voting yet: {}; they get their votes by themselves once the leader hears them",
        missing.join(", ")
    ))
}

/// Sites that the state wants as voters and that the group does not count yet, in the order of their numbers.
pub(super) fn without_vote(control: &Control, state: &State) -> Vec<String> {
    let Some(node) = control.node() else { return Vec::new() };
    let sets = node.voter_sets();
    let votes = |id: &SiteId| !sets.is_empty() && sets.iter().all(|voters| voters.contains(id));
    state.wanted_voters().into_iter().filter(|id| !votes(id)).map(|id| state.name_of(id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_a_majority_answers_an_election_is_under_way() {
        let of = |heard: &[bool]| {
            let voters: Vec<_> = heard.iter().enumerate().map(|(n, heard)| (format!("site-{n}"), *heard)).collect();
            Quorum::without_leader(&[voters], 900)
        };
        // The site of the leader is gone, whether or not it was noticed yet.
        assert_eq!(of(&[true, true, false]), Quorum::Electing);
        assert_eq!(of(&[true, true, true]), Quorum::Electing);
        assert_eq!(of(&[true]), Quorum::Leaderless, "nobody else votes");
        let late = [("site-a".to_owned(), true), ("site-b".to_owned(), true)];
        assert_eq!(Quorum::without_leader(&[late.into()], ELECTION_MS), Quorum::Leaderless);
        assert_eq!(of(&[true, false, false]), Quorum::Silent(vec!["site-1".into(), "site-2".into()]));
        assert_eq!(of(&[false]), Quorum::Silent(vec!["site-0".into()]));
        assert_eq!(of(&[true, false, false]).text(), "waiting for a majority: site-1, site-2 not heard");
    }

    #[test]
    fn while_votes_are_given_the_old_voters_are_needed_too() {
        let heard = |names: &[(&str, bool)]| names.iter().map(|(name, heard)| ((*name).to_owned(), *heard)).collect();
        let (old, new) = (heard(&[("site-a", false)]), heard(&[("site-a", false), ("site-b", true), ("site-w", true)]));
        assert_eq!(Quorum::without_leader(&[old, new], 900), Quorum::Silent(vec!["site-a".into()]));
    }
}
