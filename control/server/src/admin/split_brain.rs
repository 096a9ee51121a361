//! Whether two sites act for different epochs, and what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cfs_control_core::local::Fence;
use cfs_control_core::split::{self, Other, Verdict};
use cfs_control_core::{State, way_out};
use cfs_model::{SiteId, SiteName, Vector};
use cfs_rpc::v1;
use cfs_rpc::v1::admin_reply::Kind as Reply;

use super::Out;
use crate::contact::{self, Contact};
use crate::control::Control;
use crate::{status, wire};

pub(super) async fn show(control: &Arc<Control>, out: &Out) {
    contact::ask_all(control).await;
    let state = control.state();
    let own = contact::reply(control, &contact::request(control));
    let contacts = control.contacts.all();
    let mut replies = vec![(own, 0)];
    let mut silent = Vec::new();
    for (name, contact) in &contacts {
        let age_ms = contact.at_ms.map_or(u64::MAX, |at| control.boot_ms().saturating_sub(at));
        // Who does not answer acts for nobody, as far as is known.
        match contact.reply.clone().filter(|_| contact.error.is_empty()) {
            Some(reply) => replies.push((reply, age_ms)),
            None => silent.push((name.clone(), contact, age_ms)),
        }
    }
    let failing = contacts.iter().filter(|(_, contact)| !contact.error.is_empty());
    let unreachable = failing.map(|(name, _)| name.to_string()).collect();
    // A site that was removed still knows the group that it was in.
    let removed = |reply: &v1::ContactReply| reply.status.as_ref().is_some_and(|status| status.state == "REMOVED");
    let mut groups: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for (reply, _) in replies.iter().filter(|(reply, _)| reply.group != 0 && !removed(reply)) {
        groups.entry(reply.group).or_default().push(reply.site.clone());
    }
    // The newest side; this one by what it has committed.
    let known = |reply: &v1::ContactReply| {
        if reply.site == control.site().as_str() { contact::own_side(control, &state) } else { contact::side(reply) }
    };
    let members = replies.iter().filter(|(reply, _)| reply.group != 0).map(|(reply, _)| reply);
    let newest = members.reduce(|best, reply| {
        let behind = split::compare(&state, &known(best), &known(reply)) == Verdict::HereFenced;
        if behind || (best.group == reply.group && best.epoch < reply.epoch) { reply } else { best }
    });
    let behind = |reply: &v1::ContactReply| {
        newest.is_some_and(|newest| split::compare(&state, &known(reply), &known(newest)) == Verdict::HereFenced)
    };
    let resolved = replies
        .iter()
        .any(|(reply, _)| split::compare(&state, &known(&replies[0].0), &known(reply)) == Verdict::Resolved);
    let diverged = replies.iter().any(|(reply, _)| reply.shipper.as_ref().is_some_and(|s| !s.diverged.is_empty()));
    let why_fenced = control.local().fenced();
    let fenced = why_fenced != Fence::None || state.held.contains(&control.id());
    let open = state.open_split().is_some();
    let detected = groups.len() > 1 || matches!(why_fenced, Fence::Newer(_)) || open || diverged;
    let forks = replies.iter().filter_map(|(reply, _)| Vector::from_wire(&reply.forked_at));
    let fork = forks.filter(|fork| !fork.is_empty()).reduce(|a, b| a.min(&b)).unwrap_or_default();
    let alone = Alone { control, state: &state, contacts: &contacts, fork };
    let side = |(reply, age_ms): &(v1::ContactReply, u64)| v1::Side {
        site: reply.site.clone(),
        group: reply.group,
        epoch: reply.epoch,
        primary: reply.primary.clone(),
        fenced: behind(reply) || reply.status.as_ref().is_some_and(|status| status.state == "FENCED"),
        age_ms: *age_ms,
        members: groups.get(&reply.group).cloned().unwrap_or_default(),
        ..alone.side(&reply.site)
    };
    let unheard = |(name, contact, age_ms): (SiteName, &Contact, u64)| {
        let why = if contact.error.is_empty() { "it has not answered yet" } else { &contact.error };
        let last = contact.last.clone().unwrap_or_default();
        v1::Side {
            group: last.group,
            epoch: last.epoch,
            primary: last.primary,
            age_ms,
            unheard: why.to_owned(),
            ..alone.side(name.as_str())
        }
    };
    let sides: Vec<v1::Side> = replies.iter().map(side).chain(silent.into_iter().map(unheard)).collect();
    let winner = newest.map(|reply| reply.primary.clone()).unwrap_or_default();
    let mut losers = replies.iter().map(|(reply, _)| reply).filter(|reply| behind(reply));
    let loser = losers.clone().next().map(|reply| reply.site.clone());
    let is_witness = |reply: &v1::ContactReply| reply.status.as_ref().is_some_and(|status| status.witness);
    let keeps = losers.find(|reply| !is_witness(reply)).map(|reply| way_out::force(&reply.site));
    // The side that would win was stopped by an operator, for another site.
    let stands = status::fences::stands(control, &state);
    let sealed = |site: &str| stands.iter().any(|stand| stand.name == site && stand.sealed.is_some());
    let stopped = Some(winner.as_str()).filter(|winner| sealed(winner));
    let stopped = stopped.and_then(|winner| way_out::next(winner, false, &stands));
    let here = status::here(control);
    let next = match (detected, loser) {
        (true, _) if stopped.is_some() => stopped.unwrap_or_default(),
        // The other side is not heard.
        (true, None) if matches!(why_fenced, Fence::Newer(_)) => here.next,
        // Nothing is wrong between two sides, but this one waits for an operator, or its primary does.
        (false, _) => way_out::next(control.site().as_str(), false, &stands)
            .or_else(|| fenced.then_some(here.next))
            .unwrap_or_default(),
        // The operator has chosen already.
        (true, Some(loser)) if resolved => {
            format!("on {loser}: cfs admin replication rejoin --primary {winner}")
        }
        (true, Some(loser)) => {
            let keep = keeps.map_or_else(String::new, |next| format!("; or, to keep the other side: {next}"));
            format!("on {loser}: cfs admin replication rejoin --primary {winner}{keep}")
        }
        (true, None) if diverged => {
            "rebuild the site whose stream differs: cfs admin replication enroll --primary SITE --force-rebuild".into()
        }
        (true, None) => "bring the other side up, then: cfs admin replication split-brain status".into(),
    };
    let split = state.split.clone();
    let answer = v1::SplitBrainAnswer {
        detected,
        state: match (&split, detected) {
            (_, true) => "detected".into(),
            (Some(_), false) => "resolved".into(),
            (None, false) => "none".into(),
        },
        evidence: match &split {
            Some(split) if detected => split.evidence.clone(),
            _ if groups.len() > 1 => format!("the sites that answer belong to {} groups", groups.len()),
            _ if fenced && !detected => format!("{} is fenced: {}", control.site(), here.why),
            Some(split) => split.evidence.clone(),
            None => String::new(),
        },
        since_ms: split.map_or(0, |split| i64::try_from(split.since_ms).unwrap_or(0)),
        next,
        fenced,
        sides,
    };
    out.send_with(Reply::SplitBrain(answer), unreachable).await;
    out.done(v1::Done::default()).await;
}

/// What is known of what each site has alone: also of one whose processes were started again and have not met yet.
struct Alone<'a> {
    control: &'a Control,
    state: &'a State,
    contacts: &'a BTreeMap<SiteName, Contact>,
    fork: Vector,
}

/// What is known of one site.
struct Known {
    stores_data: bool,
    id: SiteId,
    /// 0: not known, or none.
    group: u64,
    /// What its shipper said last.
    report: Option<v1::ShipperReport>,
}

/// When a site last acknowledged an append (0: not known), and whether it may have done so later: a shipper that was started anew
/// has forgotten it, and what was `remembered` of its word before is all only if nothing was `written` after that.
fn last_acknowledged(remembered: u64, (told, written): (u64, u64)) -> (u64, bool) {
    (remembered.max(told), told == 0 && remembered > 0 && written > remembered)
}

impl Alone<'_> {
    /// What is known of a site.
    fn known(&self, name: &str) -> Known {
        let config = &self.control.config;
        if name == self.control.site().as_str() {
            return Known {
                stores_data: !config.site.witness,
                id: self.control.id(),
                group: self.state.group,
                report: self.control.shipper.borrow().report.clone(),
            };
        }
        let contact = self.contacts.iter().find(|(site, _)| site.as_str() == name).map(|(_, contact)| contact);
        let peer = config.peers.iter().find(|peer| peer.name.as_str() == name);
        let member = self.state.named(name);
        let witness = member.map_or_else(|| peer.is_some_and(|peer| peer.witness), |site| site.witness);
        let id = member.map(|site| site.id).or_else(|| contact.map(|contact| contact.id)).unwrap_or_default();
        let last = contact.and_then(|contact| contact.reply.as_ref().or(contact.last.as_ref()));
        Known {
            stores_data: !witness,
            id,
            group: last.map_or(0, |reply| reply.group),
            report: contact.and_then(|contact| contact.shipper.clone()),
        }
    }

    fn side(&self, name: &str) -> v1::Side {
        let Known { stores_data, id, group, report } = self.known(name);
        let durable = |report: &v1::ShipperReport| split::holds(wire::vectors(&report.streams).0, &self.state.closed);
        // A member that was never heard counts; one that is only configured has never held anything.
        let members = self.state.data_sites().map(|site| site.name.to_string());
        let heard = self.contacts.iter().filter(|(_, contact)| contact.shipper.is_some());
        let own = self.control.site().to_string();
        let names: BTreeSet<String> = members.chain(heard.map(|(site, _)| site.to_string())).chain([own]).collect();
        let others = names.into_iter().filter(|other| other != name).filter_map(|other| {
            let known = self.known(&other);
            let durable = known.report.as_ref().map(durable);
            known.stores_data.then_some((known.group, Other { durable, name: other }))
        });
        let others = split::other_side(group, others.collect());
        let unshared = split::unshared(id, report.as_ref().map(durable).as_ref(), &self.fork, &others);
        let contact = self.contacts.iter().find(|(site, _)| site.as_str() == name).map(|(_, contact)| contact);
        let (acknowledged_ms, acknowledged_later) = last_acknowledged(
            contact.map_or(0, |contact| contact.acknowledged_at_ms),
            report.as_ref().map_or((0, 0), |report| (report.acknowledged_at_ms, report.written_at_ms)),
        );
        let at = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        v1::Side {
            site: name.to_owned(),
            witness: !stores_data,
            last_acknowledged_ms: at(acknowledged_ms),
            acknowledged_later,
            written_ms: at(report.as_ref().map_or(0, |report| report.written_at_ms)),
            unshared_entries: unshared.clone().unwrap_or_default(),
            unshared_known: unshared.is_ok(),
            unshared_why: unshared.err().unwrap_or_default(),
            ..v1::Side::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_restart_more_may_have_been_acknowledged_than_is_remembered() {
        assert_eq!(last_acknowledged(500, (900, 890)), (900, false));
        assert_eq!(last_acknowledged(900, (500, 890)), (900, false), "its word was late");
        assert_eq!(last_acknowledged(500, (0, 490)), (500, false), "nothing was written after its word");
        assert_eq!(last_acknowledged(500, (0, 890)), (500, true), "it may have acknowledged what it wrote");
        assert_eq!(last_acknowledged(0, (0, 890)), (0, false), "it never said");
    }
}
