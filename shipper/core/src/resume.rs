//! When a site may append to its stream after a start.
//!
//! A lost disk tail or a restored backup must never give one LSN two contents (invariant 3): an old incarnation goes on
//! only once every enrolled data site has shown its cursor for it and this site holds all that any of them does.

use std::collections::BTreeMap;

use cfs_model::{Incarnation, Lsn, SiteName, StreamId};

/// What is known when the question is asked.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// The incarnation that was allotted last; `None` if none was.
    pub allotted: Option<Incarnation>,
    /// Whether entries of it may exist: it was opened before, here or, for all that this site knows, before a loss.
    pub used_before: bool,
    /// Where the own stream ends here, durable.
    pub durable: Lsn,
    /// A stream of which something is durable here, or held by a site that is connected, and not applied here; until it
    /// is, the producer table is not complete.
    pub behind: Option<StreamId>,
    /// The cursor that each enrolled data site has shown for it since the start; `None`: not heard.
    pub shown: &'a BTreeMap<SiteName, Option<Lsn>>,
    /// Since the start.
    pub waited_ms: u64,
    /// How long to wait for sites before asking for a new incarnation.
    pub patience_ms: u64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Append after `durable`.
    Open,
    /// Wait; the text says for what.
    Wait(String),
    /// The stream cannot be continued: ask for a new incarnation, and meanwhile wait.
    AskForIncarnation(String),
}

/// Decides.
pub fn decide(now: &Situation<'_>) -> Decision {
    if now.allotted.is_none() {
        return Decision::AskForIncarnation("no incarnation was allotted to this site yet".into());
    }
    let silent: Vec<&str> = now.shown.iter().filter(|(_, lsn)| lsn.is_none()).map(|(site, _)| site.as_str()).collect();
    let silent = silent.join(", ");
    if !silent.is_empty() && now.waited_ms < now.patience_ms {
        return Decision::Wait(format!("{silent} to be heard"));
    }
    if let Some(stream) = now.behind {
        return Decision::Wait(format!("stream {stream} to be applied to the store"));
    }
    if !now.used_before {
        return Decision::Open;
    }
    let furthest = now.shown.values().flatten().copied().max().unwrap_or_default();
    if furthest > now.durable {
        let durable = now.durable;
        return Decision::Wait(format!(
            "its own entries up to {furthest}, which another site holds; here are {durable}"
        ));
    }
    if silent.is_empty() {
        return Decision::Open;
    }
    Decision::AskForIncarnation(format!("the cursor of {silent} for this site's stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide_with(shown: &[(&str, Option<u64>)], change: impl FnOnce(&mut Situation<'_>)) -> Decision {
        let shown = shown.iter().map(|(site, lsn)| (SiteName::new(*site).unwrap(), lsn.map(Lsn))).collect();
        let mut now = Situation {
            allotted: Some(Incarnation(1)),
            used_before: true,
            durable: Lsn(10),
            behind: None,
            shown: &shown,
            waited_ms: 0,
            patience_ms: 1000,
        };
        change(&mut now);
        decide(&now)
    }

    /// Invariant 3.
    #[test]
    fn an_old_incarnation_goes_on_only_after_all_sites_were_heard() {
        assert_eq!(decide_with(&[("b", Some(10)), ("c", Some(0))], |_| ()), Decision::Open);
        assert!(matches!(decide_with(&[("b", Some(10)), ("c", None)], |_| ()), Decision::Wait(_)));
        assert!(matches!(decide_with(&[("b", Some(11))], |_| ()), Decision::Wait(_)), "takes its own back first");
        assert_eq!(decide_with(&[], |_| ()), Decision::Open, "a sole site has nobody to ask");
    }

    #[test]
    fn a_new_incarnation_is_asked_for_when_a_site_stays_away() {
        let asked = decide_with(&[("b", None)], |now| now.waited_ms = 1000);
        assert!(matches!(asked, Decision::AskForIncarnation(_)));
        let fresh =
            |waited_ms| decide_with(&[("b", None)], |now| (now.used_before, now.waited_ms) = (false, waited_ms));
        assert!(matches!(fresh(0), Decision::Wait(_)), "what others hold of older incarnations comes first");
        assert_eq!(fresh(1000), Decision::Open);
        assert!(matches!(decide_with(&[], |now| now.allotted = None), Decision::AskForIncarnation(_)));
    }

    #[test]
    fn nothing_is_appended_before_the_store_has_caught_up() {
        let own = StreamId { site: cfs_model::SiteId(1), incarnation: Incarnation(1) };
        let behind = |used_before| decide_with(&[], |now| (now.behind, now.used_before) = (Some(own), used_before));
        assert!(matches!(behind(true), Decision::Wait(_)) && matches!(behind(false), Decision::Wait(_)));
    }
}
