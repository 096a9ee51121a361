//! What this site says of itself and of the others.

use std::sync::Arc;

use cfs_control_core::local::Fence;
use cfs_control_core::{State, alone, plan};
use cfs_model::SiteId;
use cfs_rpc::v1;
use cfs_service::usage;

use crate::contact::{self, Contact};
use crate::control::Control;
use crate::{admin, inspect, wire, words};

use quorum::{OK, without_vote};
pub(crate) use quorum::{Quorum, automatic, lacks_majority, quorum, quorum_of};

mod certificates;
pub(crate) mod fences;
mod others;
mod quorum;
mod warnings;

/// What a peer said is true for so long.
pub(crate) const FRESH_MS: u64 = 5_000;

/// This site, as it is now.
pub(crate) fn here(control: &Control) -> v1::SiteStatus {
    let state = control.state();
    let view = control.shipper.borrow().clone();
    let member = state.site(control.id());
    let (text, why, next) = state_of_here(control, &state);
    let node = control.node();
    let speaking = view.speaking(control.boot_ms());
    let last = view.report.as_ref().filter(|_| speaking.is_none());
    let mut status = v1::SiteStatus {
        site: control.site().to_string(),
        site_id: u32::from(control.id().0),
        witness: control.config.site.witness,
        state: text.into(),
        why,
        next,
        role: role(control, &state).into(),
        voter: node.as_ref().is_some_and(|node| node.voters().is_some_and(|voters| voters.contains(&control.id()))),
        leader: control.lead().is_some(),
        enrolled: member.is_some(),
        age_ms: 0,
        reported_by: control.site().to_string(),
        epoch: state.epoch.0,
        floor: view.report.as_ref().map(|report| report.floor).unwrap_or_default(),
        lag_ms: speaking.map(|report| report.lag_ms).unwrap_or_default(),
        lag_known: speaking.is_some(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        level: words::level(control.config.cluster.level.0, view.live()),
        node: node.map(|node| node.id()).unwrap_or_default(),
        streams: speaking.map(|report| report.streams.clone()).unwrap_or_default(),
        counts: state.rules.iter().all(|rule| rule.members.contains(&control.id())) && !state.rules.is_empty(),
        lease_left_ms: if view.live().is_some_and(|report| report.accepting) {
            words::left_ms(&state, control.local().deadline_ns(&state) / 1_000_000, control.boot_ms())
        } else {
            0
        },
        last_streams: last.map(|report| report.streams.clone()).unwrap_or_default(),
        last_streams_age_ms: last.map_or(0, |_| control.boot_ms().saturating_sub(view.at_ms)),
        ..v1::SiteStatus::default()
    };
    fences::told(control, &state, &mut status);
    status
}

fn role(control: &Control, state: &State) -> &'static str {
    if control.config.site.witness {
        return "WITNESS";
    }
    if state.group == 0 || state.primary.is_none() || state.site(control.id()).is_none() {
        return "NONE";
    }
    if control.local().is_fenced() { "REPLICA" } else { words::role_of_data_site(state, control.id()) }
}

/// (state, why, next command).
fn state_of_here(control: &Control, state: &State) -> (&'static str, String, String) {
    let waiting = control.waiting();
    let primary = state.primary.map_or_else(|| "SITE".to_owned(), |id| state.name_of(id));
    let own = control.site().as_str();
    if let Some((why, next)) = fences::fenced(control, state) {
        return ("FENCED", why, next);
    }
    if was_removed(control, state) {
        let witness = if control.config.site.witness { " --witness" } else { "" };
        // Those who say so know who is primary now.
        let answers = control.contacts.answers().into_iter().map(|reply| reply.primary);
        let through = answers.chain([primary]).find(|name| !name.is_empty() && name != own);
        let through = through.unwrap_or_else(|| "SITE".to_owned());
        let why = "this site was removed from the cluster; it comes back by being enrolled again".to_owned();
        return ("REMOVED", why, format!("cfs admin replication enroll{witness} --primary {through}"));
    }
    if state.group == 0 || state.site(control.id()).is_none() {
        return ("NOT_ENROLLED", waiting, control.waiting_next());
    }
    if state.held.contains(&control.id()) {
        let why = "held: it was primary and came back, and auto_rejoin is off; this is no split-brain".to_owned();
        return ("FENCED", why, format!("cfs admin replication rejoin --primary {primary}"));
    }
    if let Some((why, next)) = fences::primary_sealed(control, state) {
        return ("WAITING", why, next);
    }
    let quorum = quorum(control);
    if control.config.site.witness {
        return if quorum == OK { ("READY", String::new(), String::new()) } else { ("WAITING", quorum, String::new()) };
    }
    let view = control.shipper.borrow().clone();
    let Some(report) = view.live() else {
        return ("NO_SHIPPER", view.error, "systemctl start claudefs-shipper".into());
    };
    if view.speaking(control.boot_ms()).is_none() {
        return ("NO_SHIPPER", plan::hangs(own), plan::UNHANG.into());
    }
    if quorum != OK {
        // Where every site takes appends, the operator may have wanted that one which is cut off goes on.
        let goes_on = state.is_shared() && state.goes_on_alone && report.accepting && report.status == "READY";
        let state = if goes_on { "READY" } else { "WAITING" };
        return (state, quorum, String::new());
    }
    if let Some(awaited) = awaited(control, state) {
        return ("WAITING", awaited.why, awaited.next);
    }
    match report.status.as_str() {
        "READY" => ("READY", String::new(), String::new()),
        "READ_ONLY" => ("READ_ONLY", report.why.clone(), "free space on the disk of the journal".into()),
        "ENROLLING" => ("ENROLLING", report.why.clone(), "cfs admin replication bootstrap-status".into()),
        "STARTING" => ("STARTING", report.why.clone(), String::new()),
        _ => ("WAITING", report.why.clone(), String::new()),
    }
}

/// Why this site does not go on as primary yet, although it leads: somebody may have forced another one.
pub(crate) fn awaited(control: &Control, state: &State) -> Option<alone::Awaited> {
    let leads = state.primary == Some(control.id()) && control.lead().is_some();
    leads.then(|| alone::may_grant(state, control.id(), &control.restart()).err()).flatten()
}

/// Whether this site was removed. One that was down then cannot learn it from the log, which no longer reaches it; but neither
/// do those who were removed themselves learn that it is back.
pub(crate) fn was_removed(control: &Control, state: &State) -> bool {
    let applied = control.node().map_or(0, |node| node.applied().borrow().index());
    let told = |reply: &v1::ContactReply| reply.group == state.group && says_removed(reply, control.id(), applied);
    state.removed.contains_key(&control.id()) || control.contacts.answers().iter().any(told)
}

/// Whether a member of the same group says that `own` was removed, and knows more of the log than this site does.
fn says_removed(reply: &v1::ContactReply, own: SiteId, applied: u64) -> bool {
    let removed = |site: u32| reply.removed.contains(&site);
    let newer = reply.applied_index == 0 || reply.applied_index > applied;
    removed(u32::from(own.0)) && !removed(reply.site_id) && newer
}

fn is_fresh(control: &Control, contact: &Contact) -> bool {
    contact.error.is_empty() && contact.at_ms.is_some_and(|at| control.boot_ms().saturating_sub(at) <= FRESH_MS)
}

/// Everything that `cfs admin replication status` shows.
pub(crate) async fn answer(control: &Arc<Control>, all_sites: bool) -> (v1::StatusAnswer, Vec<String>) {
    if all_sites {
        contact::ask_all(control).await;
    } else {
        contact::ask_quickly(control).await;
    }
    let (shipper, shipper_error) = match inspect::shipper(control).await {
        _ if control.config.site.witness => (None, String::new()),
        Ok(reply) => (Some(reply), String::new()),
        Err(error) => (None, error),
    };
    let state = control.state();
    let sites = others::all(control, &state);
    let electing = quorum_of(control) == Quorum::Electing;
    let quorum = quorum(control);
    let unreachable = sites.iter().filter(|site| site.state == "DOWN").map(|site| site.site.clone()).collect();
    let node = control.node();
    let automatic = automatic(control, &state);
    let lead = control.lead();
    let op_text = match (&lead, &state.operation) {
        (Some(lead), Some(_)) => lead.coordinator().doing(control.boot_ms()),
        (_, Some(running)) => format!("operation {} ({}): {}", running.op, running.change.word(), running.reason),
        _ => String::new(),
    };
    let op_next = lead.as_ref().and_then(|lead| lead.coordinator().past_vetoes(&state)).unwrap_or_default();
    let answer = v1::StatusAnswer {
        here: Some(here(control)),
        cluster: control.config.cluster.id.to_string(),
        group: state.group,
        epoch: state.epoch.0,
        primary: state.primary.map(|id| state.name_of(id)).unwrap_or_default(),
        lease: Some(lease(control, &state)),
        automatic: automatic.is_ok(),
        why_not_automatic: automatic.err().unwrap_or_default(),
        without_vote: without_vote(control, &state),
        leader: node.as_ref().and_then(|node| node.leader_site()).map(|site| site.to_string()).unwrap_or_default(),
        leader_age_ms: node.as_ref().map_or(u64::MAX, |node| node.led_age_ms()),
        useless_certificates: certificates::useless(control, shipper.is_some()).await,
        warnings: warnings::all(control, &state, &sites, quorum == OK),
        quorum,
        shipper,
        shipper_error,
        op: state.operation.as_ref().map(|running| running.op).unwrap_or_default(),
        op_text,
        op_next,
        split_brain: sees_split(control, &state),
        durability: admin::durability(control, &state),
        process: Some(usage::process(format!("cfs-control {}", control.site()), control.uptime_ms())),
        machine: Some(usage::machine()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        level: state.level.0,
        reach: reach(control, &state),
        removed: state.removed.values().map(ToString::to_string).collect(),
        active_active: state.is_shared(),
        electing,
        config_file: control.config.file.display().to_string(),
        partition_policy: if state.goes_on_alone { "continue" } else { "fence" }.into(),
        sites,
    };
    (answer, unreachable)
}

/// Whether two sides act for this cluster: by what its group has noted, or because a site answers for another group that has
/// not rejoined yet.
pub(crate) fn sees_split(control: &Control, state: &State) -> bool {
    let foreign = |reply: &v1::ContactReply| state.group != 0 && reply.group != 0 && reply.group != state.group;
    state.open_split().is_some()
        || matches!(control.local().fenced(), Fence::Newer(_))
        || control.contacts.answers().iter().any(foreign)
}

fn lease(control: &Control, state: &State) -> v1::LeaseStatus {
    let now_ms = control.boot_ms();
    let left_ms = match state.primary.and_then(|id| state.site(id)) {
        None => 0,
        Some(own) if own.id == control.id() => {
            words::left_ms(state, control.local().deadline_ns(state) / 1_000_000, control.boot_ms())
        }
        Some(primary) => {
            let word = words::latest(control, &primary.name);
            word.map_or(0, |word| word.status.lease_left_ms.saturating_sub(now_ms.saturating_sub(word.at_ms)))
        }
    };
    v1::LeaseStatus { held: left_ms > 0, left_ms, lease_ms: state.lease_ms }
}

fn reach(control: &Control, state: &State) -> Vec<v1::Reach> {
    let mut reach = Vec::new();
    let now_ms = control.boot_ms();
    let own = control.site().to_string();
    let mut add = |from: &str, heard: &[v1::PeerHeard], shippers: bool| {
        for peer in heard {
            if let Some(to) = wire::site_id(peer.site) {
                let to = state.name_of(to);
                reach.push(v1::Reach { from: from.to_owned(), to, age_ms: peer.age_ms, shippers });
            }
        }
    };
    add(&own, &control.contacts.heard(now_ms), false);
    if let Some(report) = control.shipper.borrow().live() {
        add(&own, &report.peers, true);
    }
    let mut told = std::collections::BTreeSet::from([own]);
    for contact in control.contacts.all().into_values() {
        if let Some(reply) = contact.reply.as_ref().filter(|_| is_fresh(control, &contact)) {
            if let Some(shipper) = &reply.shipper {
                add(&reply.site, &shipper.peers, true);
            }
            told.insert(reply.site.clone());
        }
    }
    if let Some(lead) = control.lead() {
        for (site, heard) in lead.controls() {
            let name = state.name_of(site);
            if name != *control.site().as_str() {
                add(&name, &heard, false);
            }
        }
    }
    reach
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_more_of_the_log_says_that_a_site_was_removed() {
        let says = |removed: &[u32], applied_index| {
            let reply = v1::ContactReply { site_id: 3, removed: removed.to_vec(), applied_index, ..Default::default() };
            says_removed(&reply, SiteId(2), 10)
        };
        assert!(says(&[2], 11), "it was down when it was removed");
        assert!(says(&[2], 0), "an older version");
        assert!(!says(&[2], 9), "it has come back since");
        assert!(!says(&[2, 3], 11), "who was removed itself hears nothing new");
        assert!(!says(&[1], 11));
    }
}
