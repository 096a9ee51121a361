//! What is known at the site where a forced recovery is asked for, and what it says to the operator.

use cfs_control_core::State;
use cfs_control_core::force::{self, Lacking, Survivor};
use cfs_control_core::split::Side;
use cfs_model::{Epoch, Lsn, StreamId, Vector};
use cfs_rpc::v1;

use super::LEADER_MS;
use crate::control::Control;
use crate::{contact, wire};

/// What is known when the operator asks.
pub(super) struct Known {
    pub(super) survivor: Survivor,
    pub(super) highest: Epoch,
    pub(super) warnings: Vec<String>,
    pub(super) already: bool,
    /// Who is primary of the newest side; `None`: nobody.
    from: Option<String>,
    lacking: Lacking,
    /// What it lacks it was told of so long ago, and there may be more since; `None`: that is all.
    lacking_since_ms: Option<u64>,
    /// Every acknowledgement waited for sites that are heard here.
    acknowledged_is_safe: bool,
    pub(super) contested: v1::ContestedReply,
    /// Of this site's own streams: what was written since the other side was forced, as (stream, after, through).
    pub(super) unshared: Vec<(StreamId, Lsn, Lsn)>,
    /// The sites of the newer side that store data.
    pub(super) newer: Vec<String>,
    /// Everybody else who answered.
    pub(super) others: Vec<Side>,
}

impl Known {
    /// `sources` are the highest positions that this site's shipper has heard of.
    pub(super) fn of(
        control: &Control,
        state: &State,
        report: &v1::ShipperReport,
        sources: &Vector,
        has_leader: bool,
    ) -> Self {
        let replies = control.contacts.answers();
        let own = control.id();
        let (durable, _) = wire::vectors(&report.streams);
        let survivor = survivor(control, state, report, &replies, has_leader);
        let highest = force::highest(&survivor);
        let mut warnings = force::warnings(&survivor);
        let elsewhere = |reply: &&v1::ContactReply| {
            reply.group != state.group && reply.group != 0 && Epoch(reply.epoch) > state.epoch
        };
        let newer: Vec<&v1::ContactReply> = replies.iter().filter(elsewhere).collect();
        // This site's own state is of its own side: once another one acts, that has the primary.
        let acting = newer.iter().max_by_key(|reply| reply.epoch);
        let from = match acting {
            Some(reply) => Some(reply.primary.clone()).filter(|primary| !primary.is_empty()),
            None => state.primary.map(|id| state.name_of(id)),
        };
        let already =
            state.primary == Some(own) && !control.local().is_fenced() && report.accepting && highest <= state.epoch;
        // The primary of old, without a lease: sites that it does not hear may have made another one primary.
        let silent = match state.primary == Some(own) && acting.is_none() && !already {
            true => silent(control, state, &replies),
            false => Vec::new(),
        };
        if !silent.is_empty() {
            warnings.push(format!(
                "{0} may still accept writes: {1} has no lease, and sites that it does not hear may have made another one \
                 primary since. What that took is not known here: look at {0} first",
                silent.join(", "),
                control.site()
            ));
        }
        let (lacking, lacking_since_ms) = match from.as_deref().filter(|from| *from != control.site().as_str()) {
            None if !silent.is_empty() => (Lacking::default(), None),
            None => (Lacking { entries: Some(0), bytes: Some(0) }, None),
            Some(from) => {
                let (lacking, since_ms, warning) = lacking(control, from, &durable, sources);
                warnings.extend(warning);
                (lacking, since_ms)
            }
        };
        let unshared = since_the_fork(control, report, &newer);
        let same_side = replies.iter().filter(|reply| reply.group == state.group && reply.shipper.is_some());
        let heard = same_side.filter_map(|reply| wire::site_id(reply.site_id)).chain([own]);
        let heard = heard.filter(|site| Some(*site) != state.primary).collect();
        let waits = control.waits_for_copies(state);
        Self {
            survivor,
            highest,
            warnings,
            already,
            from,
            lacking,
            lacking_since_ms,
            // The other side of a split has rules of its own.
            acknowledged_is_safe: waits && newer.is_empty() && silent.is_empty() && state.hold_all_acknowledged(&heard),
            contested: v1::ContestedReply::default(),
            unshared,
            newer: newer.iter().filter(|reply| reply.shipper.is_some()).map(|reply| reply.site.clone()).collect(),
            others: replies.iter().map(contact::side).collect(),
        }
    }

    /// What was found of the registers that both sides wrote.
    pub(super) fn told(&mut self, control: &Control, contested: v1::ContestedReply) {
        let here = control.site();
        let written: u64 = self.unshared.iter().map(|(_, after, through)| through.0 - after.0).sum();
        let again = format!("`--prefer {here}` journals again what was written here since the split");
        if !contested.not_known.is_empty() {
            self.warnings.push(format!(
                "{here} has the lower epoch: where both sides wrote the same register its values would lose the merge. How many \
                 is not known ({}), {written} entries were written here since the split; {again}",
                contested.not_known
            ));
        } else if contested.registers > 0 {
            self.warnings.push(format!(
                "{here} has the lower epoch: of {} registers that both sides wrote, its values would lose the merge; {again}",
                contested.registers
            ));
        }
        self.contested = contested;
    }

    pub(super) fn plan(&self, control: &Control, founded: bool) -> v1::FailoverPlan {
        let state = &self.survivor.state;
        let next = force::next_epoch(&self.survivor, founded);
        v1::FailoverPlan {
            from: self.from.clone().unwrap_or_default(),
            to: control.site().to_string(),
            kind: if self.already { "none".into() } else { "force".into() },
            epoch_before: state.epoch.0,
            epoch_after: if self.already { state.epoch.0 } else { next.0 },
            steps: vec![
                format!("a new generation begins with epoch {next}; the old state is kept in its own directory"),
                format!("{} is primary; absent sites stay enrolled and are fenced when they return", control.site()),
            ],
            entries_at_risk: self.lacking.entries.unwrap_or_default(),
            risk_known: self.lacking.entries.is_some(),
            bytes_at_risk: self.lacking.bytes.unwrap_or_default(),
            bytes_known: self.lacking.bytes.is_some(),
            risk_at_least: self.lacking_since_ms.is_some() && self.lacking.entries.is_some(),
            risk_age_ms: self.lacking_since_ms.unwrap_or_default(),
            acknowledged_is_safe: self.acknowledged_is_safe,
            predicted_gap_ms: if self.already { 0 } else { force::gap_ms(founded) },
            warnings: self.warnings.clone(),
            already: self.already,
            values_at_risk: self.contested.registers,
            values_not_known: self.contested.not_known.clone(),
            losing: self.contested.named.clone(),
            ..v1::FailoverPlan::default()
        }
    }
}

/// Other sites that store data and are not heard in this one's group.
fn silent(control: &Control, state: &State, replies: &[v1::ContactReply]) -> Vec<String> {
    let heard = |name: &str| replies.iter().any(|reply| reply.site == name && reply.group == state.group);
    let others = state.data_sites().filter(|site| site.id != control.id());
    others.map(|site| site.name.to_string()).filter(|name| !heard(name)).collect()
}

/// What a site holds that this one lacks; how long ago that was told, if there may be more since; and what to know of that.
fn lacking(
    control: &Control,
    site: &str,
    durable: &Vector,
    sources: &Vector,
) -> (Lacking, Option<u64>, Option<String>) {
    let all = control.contacts.all();
    let contact = all.iter().find(|(name, _)| name.as_str() == site).map(|(_, contact)| contact);
    let Some((contact, report)) = contact.and_then(|contact| Some((contact, contact.shipper.as_ref()?))) else {
        return (Lacking::default(), None, None);
    };
    // Its shipper tells this site's of a position sooner than its control process tells of it.
    let theirs = wire::vectors(&report.streams).0.max(sources);
    let lacking = force::lacking(durable, Some(&theirs), report.durable_bytes);
    let silent = !contact.error.is_empty();
    let age_ms = contact.at_ms.map_or(u64::MAX, |at| control.boot_ms().saturating_sub(at));
    let warning = (silent && contact.at_ms.is_some()).then(|| {
        format!("what {site} holds is as it was last heard, {} s ago: it may have written since", age_ms / 1000)
    });
    // One that answers and takes no appends has said all.
    let more = silent || report.accepting;
    (lacking, more.then_some(age_ms), warning)
}

fn survivor(
    control: &Control,
    state: &State,
    report: &v1::ShipperReport,
    replies: &[v1::ContactReply],
    has_leader: bool,
) -> Survivor {
    let contact = |reply: &v1::ContactReply| force::Contact {
        group: reply.group,
        epoch: Epoch(reply.epoch),
        highest: Epoch(reply.highest_epoch),
        has_leader: reply.group == state.group
            && !reply.leader_site.is_empty()
            && reply.leader_site != control.site().as_str()
            && u64::from(reply.leader_age_ms) < LEADER_MS,
        stopped: reply.shipper.as_ref().is_some_and(|shipper| !shipper.accepting),
    };
    let now_ms = control.boot_ms();
    let heard = control.contacts.heard(now_ms).into_iter().chain(report.peers.iter().copied());
    let heard = heard.filter(|peer| peer.age_ms != u64::MAX && state.primary == wire::site_id(peer.site));
    Survivor {
        here: control.id(),
        state: state.clone(),
        shipper: Some((Epoch(report.floor), wire::vectors(&report.streams).0)),
        contacts: replies.iter().filter_map(|reply| Some((wire::site_id(reply.site_id)?, contact(reply)))).collect(),
        primary_silent_ms: heard.map(|peer| peer.age_ms).min(),
        has_leader,
    }
}

/// What this site wrote since the other side was forced: that side's epochs are newer, wherever both wrote the same.
fn since_the_fork(
    control: &Control,
    report: &v1::ShipperReport,
    newer: &[&v1::ContactReply],
) -> Vec<(StreamId, Lsn, Lsn)> {
    let (own, _) = wire::vectors(&report.streams);
    let forks = newer.iter().filter(|reply| !reply.forked_at.is_empty());
    let Some(fork) = forks.filter_map(|reply| Vector::from_wire(&reply.forked_at)).reduce(|a, b| a.min(&b)) else {
        return Vec::new();
    };
    let mine = own.iter().filter(|(stream, _)| stream.site == control.id());
    mine.map(|(stream, lsn)| (stream, fork.get(stream).min(lsn), lsn)).filter(|(_, after, lsn)| after < lsn).collect()
}
