//! The other sites, as this one knows them.

use cfs_control_core::{Site, State};
use cfs_model::{Epoch, SiteName};
use cfs_rpc::v1;

use super::is_fresh;
use crate::contact::Contact;
use crate::control::Control;
use crate::words;

/// Every other site that is enrolled or configured.
pub(super) fn all(control: &Control, state: &State) -> Vec<v1::SiteStatus> {
    let contacts = control.contacts.all();
    let leader = control.node().and_then(|node| node.leader_site());
    let voters = control.node().and_then(|node| node.voters()).unwrap_or_default();
    let one = |name: SiteName| {
        let contact = contacts.get(&name).cloned().unwrap_or_default();
        let member = state.named(name.as_str());
        let configured = control.config.peer(&name);
        let mut status = known(control, &name, &contact, member, state);
        status.site = name.to_string();
        status.site_id = u32::from(member.map_or(contact.id, |site| site.id).0);
        status.configured_id = configured.map_or(0, |peer| u32::from(peer.id.0));
        status.witness = member.map_or(configured.is_some_and(|peer| peer.witness), |site| site.witness);
        status.enrolled = member.is_some();
        let gone_since_ms = words::gone_since_ms(control, &name);
        status.gone_ms = gone_since_ms.map_or(0, |since_ms| control.boot_ms().saturating_sub(since_ms).max(1));
        status.leader = leader.as_ref() == Some(&name);
        status.voter = member.is_some_and(|site| voters.contains(&site.id));
        let now_ms = control.boot_ms();
        let smoothed = || control.peers.round_trip_ms(name.as_str()).unwrap_or(0).saturating_mul(1000);
        status.rtt_us = contact.exchanges.round_trip_us(now_ms).unwrap_or_else(smoothed);
        status.clock_skew_ms = contact.exchanges.ahead_ms(now_ms);
        status.counts = member.is_some_and(|site| state.rules.iter().all(|rule| rule.members.contains(&site.id)));
        status
    };
    control.others().into_keys().map(one).collect()
}

/// What was last heard of a site, and its state now.
fn known(
    control: &Control,
    name: &SiteName,
    contact: &Contact,
    member: Option<&Site>,
    state: &State,
) -> v1::SiteStatus {
    let age_ms = contact.at_ms.map_or(u64::MAX, |at| control.boot_ms().saturating_sub(at));
    let said = contact.reply.as_ref().and_then(|reply| reply.status.clone()).unwrap_or_default();
    let mut status = v1::SiteStatus { age_ms, reported_by: said.site.clone(), next: there(&said), ..said };
    let word = member.and_then(|site| {
        let word = control.words.get(&site.name).filter(|word| words::stands(control, state, &site.name, word))?;
        let age_ms = control.boot_ms().saturating_sub(word.at_ms);
        Some(v1::SiteStatus { age_ms, next: there(&word.status), ..word.status })
    });
    if !is_fresh(control, contact) {
        if let Some(word) = word {
            return word;
        }
        status.state = "DOWN".into();
        status.why = if contact.error.is_empty() { "it has not answered yet".into() } else { contact.error.clone() };
        let shipper = if member.is_some_and(|site| !site.witness) { " claudefs-shipper" } else { "" };
        status.next = format!("on {name}: systemctl status claudefs-control{shipper}");
        status.lag_known = false;
        status.role = match member {
            Some(site) if site.witness => "WITNESS",
            Some(site) => words::role_of_data_site(state, site.id),
            None => "NONE",
        }
        .into();
        return status;
    }
    status.age_ms = word.map_or(age_ms, |word| age_ms.min(word.age_ms));
    let group = contact.reply.as_ref().map(|reply| reply.group).unwrap_or_default();
    let older = contact.reply.as_ref().is_some_and(|reply| Epoch(reply.epoch) < state.epoch);
    if state.group != 0 && group != 0 && group != state.group && older {
        status.state = "FENCED".into();
        status.why = format!("it acts for another group, {group:016x}");
        status.next = "cfs admin replication split-brain status".into();
    }
    status
}

/// The next command of another site, as it is told here.
fn there(said: &v1::SiteStatus) -> String {
    match said.next.as_str() {
        "" => String::new(),
        next if next.starts_with("on ") => next.to_owned(),
        next => format!("on {}: {next}", said.site),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_command_of_another_site_says_where_it_is_given() {
        let next = |next: &str| {
            there(&v1::SiteStatus { site: "site-a".into(), next: next.into(), ..v1::SiteStatus::default() })
        };
        assert_eq!(next("cfs admin x"), "on site-a: cfs admin x");
        assert_eq!(next("on site-b: cfs admin x"), "on site-b: cfs admin x");
        assert_eq!(next(""), "");
    }
}
