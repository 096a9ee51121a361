//! What a failover that an operator asks for would do, what it risks, and what stands against it. Changes nothing.

use std::collections::BTreeMap;

use cfs_model::{Epoch, SiteId, Vector};

use crate::alone::Awaited;
use crate::coordinator::Coordinator;
use crate::feed;
use crate::report::SHIPPER_HANGS_MS;
use crate::state::{Site, State};

mod gap;
mod warnings;

/// More entries than this take so long to apply that writers would wait for seconds.
const FAR_BEHIND_ENTRIES: u64 = 200_000;

/// The target's control process is not heard: may end by itself if it has just come back.
pub const DOWN: &str = "DOWN";
/// The target does not hear the shipper of the primary, nor of another site that does: may end by itself.
pub const LINK_DOWN: &str = "LINK_DOWN";
/// What ends that a shipper hangs.
pub const UNHANG: &str = "systemctl status claudefs-shipper; if it runs and hangs: systemctl restart claudefs-shipper";
/// What everything but the writers' wait takes on sites that are near: the vote of two sites, the log, and looking at it.
const AROUND_MS: u64 = 500;

/// Something that stands against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// Stable word.
    pub code: &'static str,
    /// Why.
    pub why: String,
    /// What to do.
    pub next: String,
    /// `--force` goes on all the same.
    pub forceable: bool,
}

/// What would happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Who is primary.
    pub from: Option<SiteId>,
    /// Who would be.
    pub to: SiteId,
    /// `switchover`, `failover`, `coordination` (active-active: no epoch opens) or `none`.
    pub kind: &'static str,
    /// The epoch now, and after.
    pub epochs: (Epoch, Epoch),
    /// What is done, in order.
    pub steps: Vec<String>,
    /// Entries of the old primary that no site that is heard is known to hold; `None`: unknown.
    pub entries_at_risk: Option<u64>,
    /// What they take in the old primary's journal, at most; `None`: unknown.
    pub bytes_at_risk: Option<u64>,
    /// There are at least as many: the old primary said so as long ago as this, and may have taken more since. `None`: that is
    /// all of them.
    pub at_risk_since_ms: Option<u64>,
    /// Nothing that was acknowledged can be among them: other sites that are heard had to hold it first.
    pub acknowledged_is_safe: bool,
    /// Entries that the new one has still to apply; `None`: unknown, its shipper does not answer.
    pub entries_to_apply: Option<u64>,
    /// How long writers wait: see `plan/gap.rs` for what that counts; `None`: unknown.
    pub gap_ms: Option<u64>,
    /// What stands against it.
    pub blockers: Vec<Blocker>,
    /// What to know before.
    pub warnings: Vec<String>,
    /// It is so already.
    pub already: bool,
    /// A switchover whose last entries come to the target from the primary itself, as far as was known.
    pub direct: bool,
}

impl Plan {
    /// The target is primary already, but does not go on before an operator has said that no other site acts.
    pub fn waits_for_word(&mut self, state: &State, awaited: Awaited) {
        let to = state.name_of(self.to);
        self.already = false;
        self.steps = vec![format!("{to} is primary already, and goes on once it may: no other epoch opens")];
        self.blockers = vec![Blocker {
            code: "ALONE",
            why: format!("{to} is primary, and does not go on yet: {}", awaited.why),
            next: awaited.next,
            forceable: false,
        }];
    }

    /// The same, and the operator gives that word.
    pub fn goes_on_by_word(&mut self, state: &State) {
        let others = state.data_sites().filter(|site| site.id != self.to).map(|site| site.name.as_str());
        let (to, others) = (state.name_of(self.to), others.collect::<Vec<_>>().join(", "));
        self.already = false;
        // Until its next report is answered with a lease.
        self.gap_ms = Some(state.lease_ms / 4);
        self.steps = vec![format!(
            "{to} goes on as primary of epoch {} by the operator's word that no other site acts",
            state.epoch
        )];
        self.warnings = vec![format!(
            "if {others} was made primary by force while {to} was down, both take writes until they meet: a split-brain"
        )];
    }
}

/// What an operator named cannot be primary at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Stable word.
    pub code: &'static str,
    /// Why.
    pub why: String,
    /// What to do.
    pub next: String,
}

/// Looks at a failover to `to`. `rtt_ms` are the measured round trips from the leader to other sites; `fenced` is why the
/// target itself says that it takes part in nothing, if it does: one that acts for another group reports to no leader here.
///
/// # Errors
/// When `to` is no site that could ever be primary.
pub fn plan(
    state: &State,
    leader: &Coordinator,
    to: &str,
    rtt_ms: &BTreeMap<SiteId, u64>,
    fenced: Option<&str>,
    now_ms: u64,
) -> Result<Plan, Refused> {
    let target = target(state, to)?;
    let primary = state.primary.and_then(|id| state.site(id));
    let fresh = |id: SiteId| leader.is_fresh(state, id, now_ms);
    let shipper = |id: SiteId| leader.shipper_of(id);
    let lives = primary.is_some_and(|primary| fresh(primary.id) && shipper(primary.id).is_some());
    let already = state.primary == Some(target.id);
    let shared = state.is_shared();
    let source = primary.and_then(|primary| shipper(primary.id)).map(|shipper| shipper.durable.clone());
    let everything = source.clone().unwrap_or_default().max(&state.cut);
    let there = shipper(target.id).filter(|shipper| !shipper.hangs() && fresh(target.id));
    let entries_to_apply = there.map(|shipper| everything.beyond(&shipper.applied));
    let at_risk = match (&source, lives) {
        (_, true) => Some(0),
        (Some(source), false) => Some(source.beyond(&held_elsewhere(state, leader, target.id, now_ms))),
        (None, false) => None,
    };
    // By its last report; a process that has just started does not know.
    let unshared = primary.and_then(|primary| shipper(primary.id)).map_or(0, |shipper| shipper.unshared_bytes);
    let bytes_at_risk = match at_risk {
        Some(0) => Some(0),
        Some(_) => Some(unshared).filter(|bytes| *bytes > 0),
        None => None,
    };
    // What it took after its last report nobody here can know.
    let at_risk_since_ms = primary
        .filter(|_| !lives && !shared && at_risk.is_some())
        .map(|primary| leader.report_of(primary.id).map_or(u64::MAX, |(_, at_ms)| now_ms.saturating_sub(at_ms)));
    let heard = state.data_sites().map(|site| site.id).filter(|id| Some(*id) != state.primary && fresh(*id)).collect();
    let moves = lives && !already && !shared;
    let from = primary.map(|primary| primary.id).filter(|_| moves);
    let way = from.and_then(|from| feed::way(state, leader, from, target.id, now_ms));
    let trips = gap::Trips::new(state, leader, rtt_ms);
    let gap_ms = entries_to_apply.map(|entries| match from {
        Some(from) => {
            trips.switchover_ms(from, target.id, way.as_deref().unwrap_or_default()) + gap::applying_ms(entries)
        }
        None => trips.failover_ms(target.id),
    });
    let kind = match (already, lives) {
        (true, _) => "none",
        _ if shared => "coordination",
        (_, true) => "switchover",
        _ => "failover",
    };
    let (at_risk, bytes_at_risk, gap_ms) =
        if shared { (Some(0), Some(0), Some(0)) } else { (at_risk, bytes_at_risk, gap_ms) };
    let blockers = if already {
        Vec::new()
    } else {
        let mut found = blockers(state, leader, target, fenced, now_ms, entries_to_apply);
        if let Some(from) = from.filter(|_| way.is_none() && found.iter().all(|one| one.forceable)) {
            found.push(not_fed(state, from, target));
        }
        found
    };
    let mut warnings =
        warnings::all(state, target, kind, at_risk, at_risk_since_ms, way.as_deref().unwrap_or_default());
    // What is refused anyway needs no word of afterwards.
    let goes_on = from.filter(|_| blockers.is_empty());
    warnings.extend(goes_on.and_then(|from| warnings::deaf_afterwards(state, leader, from, target, now_ms)));
    Ok(Plan {
        from: state.primary,
        to: target.id,
        kind,
        epochs: (state.epoch, if already || shared { state.epoch } else { state.next_epoch() }),
        steps: steps(state, target, kind),
        entries_at_risk: at_risk,
        bytes_at_risk,
        at_risk_since_ms,
        acknowledged_is_safe: !lives && state.hold_all_acknowledged(&heard),
        entries_to_apply,
        gap_ms,
        blockers,
        warnings,
        already,
        direct: way.is_some_and(|way| way.len() == 2),
    })
}

/// What the target and every other site that is heard hold: a failover fetches from all of them.
fn held_elsewhere(state: &State, leader: &Coordinator, target: SiteId, now_ms: u64) -> Vector {
    let others = state.data_sites().map(|site| site.id).filter(|id| Some(*id) != state.primary);
    let heard = others.filter(|id| *id == target || leader.is_fresh(state, *id, now_ms));
    let shippers = heard.filter_map(|id| leader.shipper_of(id));
    shippers.fold(Vector::new(), |all, shipper| all.max(&shipper.durable))
}

fn target<'a>(state: &'a State, to: &str) -> Result<&'a Site, Refused> {
    let Some(site) = state.named(to) else {
        let known: Vec<&str> = state.data_sites().map(|site| site.name.as_str()).collect();
        return Err(Refused {
            code: "UNKNOWN_SITE",
            why: format!("{to} is not enrolled; the data sites are {}", known.join(", ")),
            next: "cfs admin replication status --detailed".into(),
        });
    };
    if site.witness {
        return Err(Refused {
            code: "WITNESS",
            why: format!("{to} is a witness: it votes, holds no data and can never be primary"),
            next: "choose a data site: cfs admin replication status --detailed".into(),
        });
    }
    Ok(site)
}

fn steps(state: &State, target: &Site, kind: &str) -> Vec<String> {
    let from = state.primary.map_or_else(|| "nobody".to_owned(), |id| state.name_of(id));
    let (to, next) = (&target.name, state.next_epoch());
    match kind {
        "none" => vec![format!("{to} is primary already: nothing is done")],
        "coordination" => vec![format!(
            "{to} coordinates instead of {from}; active-active is on: epoch {} goes on, and so does every site",
            state.epoch
        )],
        "switchover" => {
            let mut steps = Vec::new();
            if state.wanted_voters().len() == 1 {
                steps.push(format!("the vote and the leadership move from {from} to {to}; {from} goes on writing"));
            }
            steps.extend([
                format!("the pre_promote hook of {to} is asked, if there is one"),
                format!("{from} takes no more appends, and what it took becomes durable (drain)"),
                format!("{to} applies everything that {from} has (catch up)"),
                format!("epoch {next} opens for {to}; producers follow"),
            ]);
            steps
        }
        _ => vec![
            format!("the lease of {from} runs out (fence)"),
            format!("every site that is heard persists epoch {next} and says what it holds (seal)"),
            format!("{to} fetches and applies what the others hold and it lacks (catch up)"),
            format!("the pre_promote hook of {to} is asked, if there is one"),
            format!("epoch {next} opens for {to}; producers follow"),
        ],
    }
}

fn blockers(
    state: &State,
    leader: &Coordinator,
    target: &Site,
    fenced: Option<&str>,
    now_ms: u64,
    entries_to_apply: Option<u64>,
) -> Vec<Blocker> {
    let mut found = Vec::new();
    let name = &target.name;
    let mut add = |code, why: String, next: String, forceable| found.push(Blocker { code, why, next, forceable });
    if let Some(said) = leader.vetoed(target.id).filter(|_| leader.is_fresh(state, target.id, now_ms)) {
        // The operation under way waits for just that.
        let next = format!("mend it, or without it: cfs admin replication failover --to {name} --force");
        return vec![Blocker { code: "HOOK_VETO", why: said.to_owned(), next, forceable: true }];
    }
    if let Some(running) = &state.operation {
        let next = format!("cfs admin replication history --follow {}", running.op);
        add("BUSY", format!("operation {} ({}) is under way", running.op, running.change.word()), next, false);
    } else if state.moving.is_some() {
        add("BUSY", "a switchover is under way".into(), "cfs admin replication history".into(), false);
    }
    let shipper = leader.shipper_of(target.id);
    let primary = state.primary.map_or_else(|| "SITE".to_owned(), |id| state.name_of(id));
    let rejoin = format!("on {name}: cfs admin replication rejoin --primary {primary}");
    let held = state.held.contains(&target.id);
    // Unknown only of a shipper that does not answer, which is said instead.
    let entries = entries_to_apply.unwrap_or_default();
    match shipper {
        _ if fenced.is_some() && !held => {
            add("FENCED", format!("{name} is fenced: {}", fenced.unwrap_or_default()), rejoin, false);
        }
        // Its number is of the group before: it was not here since this one was founded by force.
        _ if target.node == 0 => {
            let why = format!("{name} is not heard, and has not come back since this side was made primary by force");
            add("DOWN", why, format!("start {name}, then {rejoin}"), false);
        }
        _ if !leader.is_fresh(state, target.id, now_ms) => {
            add(DOWN, format!("{name} is not heard"), format!("on {name}: systemctl status claudefs-control"), false);
        }
        None => {
            add(
                "NO_SHIPPER",
                format!("the shipper of {name} does not answer"),
                format!("on {name}: systemctl status claudefs-shipper"),
                false,
            );
        }
        Some(shipper) if shipper.hangs() => {
            add("NO_SHIPPER", hangs(name.as_str()), format!("on {name}: {UNHANG}"), false)
        }
        Some(_) if held => {
            let why = format!("{name} is held: it was primary and came back, and auto_rejoin is off");
            add("FENCED", why, rejoin, false);
        }
        Some(shipper) if shipper.partial || !shipper.enrolling.is_empty() => {
            add(
                "BOOTSTRAPPING",
                format!("{name} does not hold yet what the others hold: {}", shipper.enrolling),
                format!("on {name}: cfs admin replication bootstrap-status --watch"),
                false,
            );
        }
        Some(shipper)
            if !shipper.durable.covers(&state.cut)
                || state.is_shared() && !state.rules.iter().all(|rule| rule.members.contains(&target.id)) =>
        {
            add(
                "BOOTSTRAPPING",
                format!("{name} does not hold yet what epoch {} began with", state.epoch),
                "wait: cfs admin replication lag --watch".into(),
                false,
            );
        }
        Some(shipper) if shipper.read_only => {
            add("READ_ONLY", format!("the disk of {name} is full"), format!("free space on {name}"), false);
        }
        Some(_) if entries > FAR_BEHIND_ENTRIES => {
            add(
                "FAR_BEHIND",
                format!("{name} has {entries} entries to apply: writers would wait for them"),
                "wait: cfs admin replication lag --watch, or --force".into(),
                true,
            );
        }
        Some(_) => {}
    }
    found
}

/// What is said of a shipper that says nothing although its process is there.
pub fn hangs(site: &str) -> String {
    format!("the shipper of {site} runs and hangs: it gave no answer within {} s", SHIPPER_HANGS_MS / 1000)
}

/// Why a planned move that was taken back after `took_ms` had too little time; `None`: that was not the reason.
pub fn time_too_short(plan: &Plan, timeout_ms: u64, took_ms: u64) -> Option<String> {
    let gap_ms = plan.gap_ms?;
    let needs = gap_ms + AROUND_MS;
    (took_ms >= timeout_ms && timeout_ms < needs).then(|| {
        format!("--timeout {timeout_ms}ms was too short: the plan predicts {gap_ms} ms without writes, and about {AROUND_MS} ms around it")
    })
}

/// Writers would be stopped for nothing: what the primary took last would never arrive.
pub fn not_fed(state: &State, from: SiteId, target: &Site) -> Blocker {
    let (from, to) = (state.name_of(from), &target.name);
    let others = state.data_sites().count() > 2;
    let nor = if others { ", nor does another site pass its entries on" } else { "" };
    Blocker {
        code: LINK_DOWN,
        why: format!(
            "nothing gets over the link from {from} to {to}: the shipper of {to} does not hear that of {from}{nor}, and could \
             not get what {from} took last"
        ),
        next: format!(
            "on {to}: cfs preflight (it tries the way to {from}); once the link is mended: cfs admin replication failover --to {to} \
             --dry-run"
        ),
        forceable: false,
    }
}
