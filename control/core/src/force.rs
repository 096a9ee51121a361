//! A forced recovery: what an operator is told before a survivor founds a group of its own, and what that goes on from.

use std::collections::BTreeMap;

use cfs_model::{Epoch, SiteId, Vector};

use crate::alone::FORCE_QUIET_MS;
use crate::command::Parent;
use crate::state::State;

/// What a forced recovery suspends.
const SUSPENDS: &str = "invariants 1, 2 and 4 are suspended between the two sides until they meet: both may acknowledge, and \
                        what only one holds is merged later, the newer epoch winning";

/// What founding a group of one and opening its first epoch takes.
const FOUND_MS: u64 = 500;
/// What raising the generation of a group that has a majority and opening an epoch in it takes.
const SETTLE_MS: u64 = 200;

/// What another site answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Contact {
    /// Its group.
    pub group: u64,
    /// Its epoch.
    pub epoch: Epoch,
    /// The highest epoch that its control process or shipper has seen.
    pub highest: Epoch,
    /// It is in this site's group and reaches its leader, which is another site, by its own account.
    pub has_leader: bool,
    /// Its shipper answers it, and takes no appends.
    pub stopped: bool,
}

/// What is known at the site where an operator asks.
#[derive(Debug, Clone, Default)]
pub struct Survivor {
    /// This site.
    pub here: SiteId,
    /// Its state, with everything in its log applied.
    pub state: State,
    /// Its shipper's floor and durable cursors; `None`: it does not answer.
    pub shipper: Option<(Epoch, Vector)>,
    /// The other sites that answered.
    pub contacts: BTreeMap<SiteId, Contact>,
    /// How long ago the primary was last heard, by control or shipper; `None`: never since this process started.
    pub primary_silent_ms: Option<u64>,
    /// A leader with a quorum is reached from here.
    pub has_leader: bool,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing is done, and the command succeeds: it is so already.
    Already(String),
    /// It is run on the wrong site: seal this one's shipper at this floor, change no membership, and run the command there.
    SealHere {
        /// The floor.
        floor: Epoch,
        /// What to run, and where.
        next: String,
    },
    /// Nothing is done.
    Refuse {
        /// Stable word.
        code: &'static str,
        /// Why.
        why: String,
        /// What to do.
        next: String,
    },
    /// The group may be founded, once the operator has agreed to these.
    Found {
        /// What it goes on from.
        parent: Box<Parent>,
        /// What it risks.
        warnings: Vec<String>,
    },
}

/// Decides about `failover --force --to` the site of this number, asked for at `survivor.here`.
pub fn decide(survivor: &Survivor, to: SiteId) -> Decision {
    let state = &survivor.state;
    let name = |id: SiteId| state.name_of(id);
    let refuse = |code, why: String, next: String| Decision::Refuse { code, why, next };
    let Some(target) = state.site(to) else {
        return refuse("UNKNOWN_SITE", format!("{} is not enrolled", name(to)), "cfs admin replication status".into());
    };
    if target.witness {
        let why = format!("{} is a witness: it holds no data and can never be primary", target.name);
        return refuse("WITNESS", why, "choose a data site".into());
    }
    if state.primary == Some(to) && survivor.has_leader {
        return Decision::Already(format!("{} is primary in epoch {}", target.name, state.epoch));
    }
    if to != survivor.here {
        let next = format!("on {}: cfs admin replication failover --force --to {} --yes", target.name, target.name);
        return Decision::SealHere { floor: state.next_epoch(), next };
    }
    if survivor.has_leader {
        let next = format!("cfs admin replication failover --to {} --yes", target.name);
        return refuse("QUORUM", "a majority is there: nothing has to be forced".into(), next);
    }
    let Some((_, durable)) = &survivor.shipper else {
        let next = format!("on {}: systemctl status claudefs-shipper", target.name);
        return refuse("NO_SHIPPER", format!("the shipper of {} does not answer", target.name), next);
    };
    if let Some((site, contact)) = survivor.contacts.iter().find(|(_, contact)| contact.has_leader) {
        let why = format!("{} answers and has a leader, in epoch {}", name(*site), contact.epoch);
        return refuse("QUORUM", why, "cfs admin replication status --detailed".into());
    }
    if !durable.covers(&state.cut) {
        let why = format!("{} does not hold what epoch {} began with: {}", target.name, state.epoch, state.cut);
        return refuse("BOOTSTRAPPING", why, "force a site that does: cfs admin replication lag".into());
    }
    let highest = highest(survivor);
    let parent = Parent { state: state.clone(), highest, cut: durable.clone(), evidence: evidence(survivor) };
    Decision::Found { parent: Box::new(parent), warnings: warnings(survivor) }
}

/// The highest epoch that anybody who answers has seen, this site and its shipper included.
pub fn highest(survivor: &Survivor) -> Epoch {
    let floor = survivor.shipper.as_ref().map(|(floor, _)| *floor).unwrap_or_default();
    let seen = survivor.contacts.values().map(|contact| contact.highest.max(contact.epoch));
    seen.fold(survivor.state.epoch.max(floor), Epoch::max)
}

/// The epoch that opens: in a group that is `founded`, or in the one that settles the split in its own favour. There the
/// generation is named after whoever was primary.
pub fn next_epoch(survivor: &Survivor, founded: bool) -> Epoch {
    let state = &survivor.state;
    let generation = highest(survivor).generation().max(state.generation).saturating_add(1);
    let forced_by = state.primary.filter(|_| !founded).unwrap_or(survivor.here);
    Epoch::new(generation, forced_by, 1)
}

/// Who answered, and when the primary was last heard, for the audit.
pub fn evidence(survivor: &Survivor) -> String {
    let state = &survivor.state;
    let said = state.sites.keys().filter(|id| **id != survivor.here).map(|id| match survivor.contacts.get(id) {
        Some(contact) => format!("{} answered, in epoch {}", state.name_of(*id), contact.epoch),
        None => format!("{} did not answer", state.name_of(*id)),
    });
    let heard = match survivor.primary_silent_ms {
        Some(ms) => format!("the primary was last heard {ms} ms ago"),
        None => "the primary was not heard since this process started".to_owned(),
    };
    let seen = format!("the highest epoch seen is {}", highest(survivor));
    said.chain([heard, seen]).collect::<Vec<_>>().join("; ")
}

/// How long writers wait, counted from the command, while nobody takes appends. A group that is `founded` elects its only voter
/// first, and grants it a lease.
pub const fn gap_ms(founded: bool) -> u64 {
    if founded { FOUND_MS } else { SETTLE_MS }
}

/// What another site holds that this one lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lacking {
    /// Entries; `None`: it is not known what it holds.
    pub entries: Option<u64>,
    /// Bytes, at most; `None`: not known.
    pub bytes: Option<u64>,
}

/// What is lost for now when this site, which holds `durable`, goes on without another that was last known to hold `theirs`,
/// `unshared_bytes` of which nobody else had as far as that one knew; 0: it did not know.
pub fn lacking(durable: &Vector, theirs: Option<&Vector>, unshared_bytes: u64) -> Lacking {
    let Some(theirs) = theirs else { return Lacking::default() };
    let entries = theirs.beyond(durable);
    let bytes = if entries == 0 { Some(0) } else { Some(unshared_bytes).filter(|bytes| *bytes > 0) };
    Lacking { entries: Some(entries), bytes }
}

/// What the operator is told that it risks, whichever way this site goes on.
pub fn warnings(survivor: &Survivor) -> Vec<String> {
    let state = &survivor.state;
    let mut out = Vec::new();
    if let Some(primary) = state.primary.filter(|id| *id != survivor.here) {
        let name = state.name_of(primary);
        match survivor.contacts.get(&primary) {
            Some(contact) if contact.stopped => out.push(format!("{name} answers, and takes no writes now")),
            Some(_) => out.push(format!(
                "{name} may still accept writes: it answers, and stops only once it hears of the new generation"
            )),
            None => {
                out.push(format!("{name} may still accept writes: it does not answer, and nothing here can stop it"));
                out.extend(restarting(survivor, primary, &name));
            }
        }
        out.push(format!("entries of {name} that are not here come back when it rejoins, and may lose the merge"));
    }
    let copies = state.rules.iter().map(|rule| rule.copies).chain([state.promised]).max().unwrap_or(0);
    if copies > 0 {
        out.push("entries acknowledged with copies at other sites may be missing until those rejoin".into());
    }
    out.push(SUSPENDS.to_owned());
    out
}

/// A primary that votes alone and was away only briefly goes on without asking anybody (`alone::BLINK_MS`).
fn restarting(survivor: &Survivor, primary: SiteId, name: &str) -> Option<String> {
    let silent_ms = survivor.primary_silent_ms.filter(|ms| *ms < FORCE_QUIET_MS)?;
    survivor.state.wanted_voters().into_iter().eq([primary]).then(|| {
        format!(
            "{name} was heard {} s ago: if it is only restarting, it goes on writing by itself for a while; that is \
             excluded {} s after it was last heard",
            silent_ms / 1000,
            FORCE_QUIET_MS / 1000
        )
    })
}
