//! When a site may append to its stream after a start or a change of primary.
//!
//! A lost disk tail or a restored backup must never give one LSN two contents (invariant 3): an old incarnation goes on
//! only once every enrolled data site has shown its cursor for it and this site holds all that any of them does.

use std::collections::BTreeMap;

use cfs_model::{Incarnation, Lsn, SiteName, StreamId};

/// A fresh incarnation waits no longer than this for sites that are silent.
pub const FRESH_PATIENCE_MS: u64 = 100;

/// What is known when the question is asked.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// The incarnation that was allotted last; `None` if none was.
    pub allotted: Option<Incarnation>,
    /// Whether entries of it may exist: it was opened before, here or, for all that this site knows, before a loss.
    pub used_before: bool,
    /// Its stream was closed: nothing is appended to it any more.
    pub closed: bool,
    /// Entries that were handed out by this process are neither durable nor dropped yet.
    pub unsettled: bool,
    /// Where the own stream ends here, durable.
    pub durable: Lsn,
    /// What has to be applied here and is not: the cut of the epoch, or what is held of the own older incarnations, here
    /// or by a site that is heard. Until it is, the producer table is not complete. What others merely offer does not
    /// count: a site that is cut off or stopped offers more for ever.
    pub behind: Option<(StreamId, Lsn)>,
    /// The cursor that each enrolled data site has shown for it since the start; `None`: not heard.
    pub shown: &'a BTreeMap<SiteName, Option<Lsn>>,
    /// The furthest of these whose site was heard since this site was told to be primary.
    pub reachable: Lsn,
    /// Since this site was told to be primary.
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
    if now.closed {
        return Decision::AskForIncarnation("its stream was closed; it goes on in a new incarnation".into());
    }
    if now.unsettled {
        return Decision::Wait("entries that were taken before to be written or dropped".into());
    }
    if let Some((stream, lsn)) = now.behind {
        return Decision::Wait(format!("stream {stream} to be applied to the store up to {lsn}"));
    }
    let silent: Vec<&str> = now.shown.iter().filter(|(_, lsn)| lsn.is_none()).map(|(site, _)| site.as_str()).collect();
    let silent = silent.join(", ");
    let patience_ms = if now.used_before { now.patience_ms } else { now.patience_ms.min(FRESH_PATIENCE_MS) };
    if !silent.is_empty() && now.waited_ms < patience_ms {
        return Decision::Wait(format!("{silent} to be heard"));
    }
    if !now.used_before {
        return Decision::Open;
    }
    let furthest = now.shown.values().flatten().copied().max().unwrap_or_default();
    if furthest > now.durable {
        let what = format!("its own entries up to {furthest}, which another site holds; here are {}", now.durable);
        // A holder that is gone may stay away: then they come back late, and this site goes on in a new incarnation.
        let lost = now.reachable <= now.durable && now.waited_ms >= now.patience_ms;
        return if lost { Decision::AskForIncarnation(what) } else { Decision::Wait(what) };
    }
    if silent.is_empty() {
        return Decision::Open;
    }
    Decision::AskForIncarnation(format!("the cursor of {silent} for this site's stream"))
}

#[cfg(test)]
#[path = "resume_tests.rs"]
mod tests;
