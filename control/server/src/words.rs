//! What others say of sites that this one may not hear itself: the leader in its answers to reports, everybody else when
//! asked. It is shown, and the shipper reckons its lag with it; it decides nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cfs_control_core::report::SHIPPER_HANGS_MS;
use cfs_control_core::{State, plan};
use cfs_model::{Level, SiteId, SiteName};
use cfs_rpc::v1::governor_client::GovernorClient;
use cfs_rpc::v1::{self, SiteStatus};

use crate::control::Control;
use crate::wire;

/// The shipper is told so often of sites that it does not hear.
const TELL: Duration = Duration::from_millis(500);
/// A site that the shipper heard within this needs nobody else's word.
const HEARD_MS: u64 = 1_000;
/// The shipper takes it within this, or not at all.
const TELL_LIMIT: Duration = Duration::from_secs(1);
/// What a site said last before its process ended may be taken so much later, after its way and a wait for the log.
const LAST_WORD_MS: u64 = 500;
/// More words than this are no answer of a member.
const MAX_WORDS: usize = 64;

/// A site by the word of somebody.
#[derive(Debug, Clone)]
pub(crate) struct Word {
    /// As the site said it; `reported_by` is who heard it.
    pub(crate) status: SiteStatus,
    /// Boot time when the site said it, or somewhat earlier.
    pub(crate) at_ms: u64,
}

/// The latest word on each site, by name.
#[derive(Debug, Default)]
pub(crate) struct Words(Mutex<BTreeMap<SiteName, Word>>);

impl Words {
    /// The last word on a site.
    pub(crate) fn get(&self, site: &SiteName) -> Option<Word> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(site).cloned()
    }

    /// Takes words of `own` group about other sites than `own`, told in answer to what was asked at `asked_ms`. A word
    /// that is older than the one at hand changes nothing.
    pub(crate) fn take(&self, state: &State, own: &SiteName, words: Vec<SiteStatus>, asked_ms: u64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for status in words.into_iter().take(MAX_WORDS) {
            let Some(site) = state.named(&status.site).map(|site| site.name.clone()).filter(|site| site != own) else {
                continue;
            };
            let at_ms = asked_ms.saturating_sub(status.age_ms);
            if known.get(&site).is_none_or(|word| at_ms >= word.at_ms) {
                known.insert(site, Word { status, at_ms });
            }
        }
    }

    /// This site has changed its group.
    pub(crate) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A word is believed for so long: sites report at least once in a lease, and the answers that pass it on take as long.
pub(crate) fn limit_ms(state: &State) -> u64 {
    (2 * state.lease_ms).clamp(1_500, crate::status::FRESH_MS)
}

/// When a site's control process was found gone; `None`: it was not.
pub(crate) fn gone_since_ms(control: &Control, site: &SiteName) -> Option<u64> {
    let link = control.peers.link(site.as_str());
    let broke_at = link.broke_at.filter(|_| link.gone)?;
    Some(control.boot_ms().saturating_sub(crate::control::ms(broke_at.elapsed())))
}

/// Whether what a site said at `at_ms` shows that it lives: not what it said before its process was found gone. One that
/// others hear although it turns this site away goes on speaking.
fn outlives(at_ms: u64, gone_since_ms: Option<u64>) -> bool {
    gone_since_ms.is_none_or(|since_ms| at_ms > since_ms + LAST_WORD_MS)
}

/// Whether a word shows now that the site lives.
pub(crate) fn stands(control: &Control, state: &State, site: &SiteName, word: &Word) -> bool {
    let recent = control.boot_ms().saturating_sub(word.at_ms) <= limit_ms(state);
    recent && outlives(word.at_ms, gone_since_ms(control, site))
}

/// The latest that is known of a site: what it answered itself, or what another says of it.
pub(crate) fn latest(control: &Control, site: &SiteName) -> Option<Word> {
    let contact = control.contacts.get(site).filter(|contact| contact.error.is_empty());
    let answered = contact.and_then(|contact| Some((contact.reply?, contact.at_ms?)));
    let group = control.state().group;
    let answered = answered.filter(|(reply, _)| reply.group == group);
    let answered = answered.and_then(|(reply, at_ms)| Some(Word { status: reply.status?, at_ms }));
    [answered, control.words.get(site)].into_iter().flatten().max_by_key(|word| word.at_ms)
}

/// What this site can tell `asker` of the others.
pub(crate) fn known(control: &Control, state: &State, asker: &str) -> Vec<SiteStatus> {
    let now_ms = control.boot_ms();
    let others = state.sites.values().filter(|site| site.id != control.id() && site.name.as_str() != asker);
    let words =
        others.filter_map(|site| latest(control, &site.name).filter(|word| stands(control, state, &site.name, word)));
    let aged = words.map(|word| {
        let first_hand = word.status.reported_by == word.status.site;
        let reported_by = if first_hand { control.site().to_string() } else { word.status.reported_by.clone() };
        SiteStatus { age_ms: now_ms.saturating_sub(word.at_ms), reported_by, ..word.status }
    });
    aged.collect()
}

/// A site as its report to the leader shows it.
pub(crate) fn of_report(control: &Control, state: &State, report: &v1::SiteReport) -> Option<SiteStatus> {
    let site = state.site(wire::site_id(report.site)?)?;
    let shipper = report.shipper.as_ref();
    let hangs = shipper.is_some() && report.shipper_age_ms > SHIPPER_HANGS_MS;
    let held = state.held.contains(&site.id);
    let (text, why) = match shipper {
        _ if held => ("FENCED", "held: it was primary and came back, and auto_rejoin is off".to_owned()),
        _ if site.witness => ("READY", String::new()),
        None => ("NO_SHIPPER", "its shipper does not answer its control process".to_owned()),
        Some(_) if hangs => ("NO_SHIPPER", plan::hangs(site.name.as_str())),
        Some(shipper) => (shipper.status.as_str(), shipper.why.clone()),
    };
    let role = match state.primary {
        _ if site.witness => "WITNESS",
        None => "NONE",
        Some(_) => role_of_data_site(state, site.id),
    };
    Some(SiteStatus {
        site: site.name.to_string(),
        site_id: report.site,
        witness: site.witness,
        state: text.to_owned(),
        why,
        role: role.to_owned(),
        enrolled: true,
        age_ms: report.shipper_age_ms,
        reported_by: control.site().to_string(),
        epoch: shipper.map_or(state.epoch.0, |shipper| shipper.epoch),
        floor: shipper.map(|shipper| shipper.floor).unwrap_or_default(),
        lag_ms: shipper.map(|shipper| shipper.lag_ms).unwrap_or_default(),
        lag_known: shipper.is_some() && !hangs,
        version: report.version.clone(),
        level: level(report.level, shipper),
        node: site.node,
        streams: shipper.map(|shipper| shipper.streams.clone()).unwrap_or_default(),
        lease_left_ms: shipper.map(|shipper| lease_left_ms(state, shipper, report.boot_ms)).unwrap_or_default(),
        ..SiteStatus::default()
    })
}

/// What a site acts as: the older of its processes decides.
pub(crate) fn level(of_control: u32, shipper: Option<&v1::ShipperReport>) -> u32 {
    let told = |level| Level::told(level).0;
    shipper.map_or(told(of_control), |shipper| told(of_control).min(told(shipper.level)))
}

/// What is left at `boot_ms`, on the shipper's own clock, of the lease under which it accepts appends.
pub(crate) fn lease_left_ms(state: &State, shipper: &v1::ShipperReport, boot_ms: u64) -> u64 {
    if shipper.accepting { left_ms(state, shipper.lease_deadline_boot_ns / 1_000_000, boot_ms) } else { 0 }
}

/// What is left until a deadline; of a lease without an end, what one would last.
pub(crate) const fn left_ms(state: &State, deadline_ms: u64, boot_ms: u64) -> u64 {
    let left_ms = deadline_ms.saturating_sub(boot_ms);
    if deadline_ms == u64::MAX / 1_000_000 { state.lease_ms } else { left_ms }
}

/// The role of an enrolled site that stores data. While all of them take appends, the one that coordinates is primary.
pub(crate) fn role_of_data_site(state: &State, site: SiteId) -> &'static str {
    match state.primary == Some(site) {
        true => "PRIMARY",
        false if state.may_append(site) => "ACTIVE",
        false => "REPLICA",
    }
}

/// Tells the shipper of sites that it does not hear, for as long as the process lives.
pub(crate) async fn tell(control: Arc<Control>) {
    let mut client: Option<GovernorClient<tonic::transport::Channel>> = None;
    loop {
        tokio::time::sleep(TELL).await;
        let sites = unheard(&control);
        if sites.is_empty() {
            client = None;
            continue;
        }
        if client.is_none() {
            let channel = cfs_rpc::unix::connect(&control.config.shipper_socket()).await;
            client = channel.ok().map(GovernorClient::new);
        }
        let Some(shipper) = &mut client else { continue };
        let told = tokio::time::timeout(TELL_LIMIT, shipper.vouch(v1::VouchRequest { sites })).await;
        if !matches!(told, Ok(Ok(_))) {
            client = None;
        }
    }
}

fn unheard(control: &Control) -> Vec<v1::Vouched> {
    let state = control.state();
    let now_ms = control.boot_ms();
    let view = control.shipper.borrow().clone();
    let Some(report) = view.live() else { return Vec::new() };
    let silent = report.peers.iter().filter(|peer| peer.age_ms > HEARD_MS);
    let names = silent.filter_map(|peer| Some(state.site(wire::site_id(peer.site)?)?.name.clone()));
    let words = names.filter_map(|name| latest(control, &name).filter(|word| stands(control, &state, &name, word)));
    let vouched = words.map(|word| v1::Vouched {
        site: word.status.site_id,
        age_ms: now_ms.saturating_sub(word.at_ms),
        streams: word.status.streams,
    });
    vouched.filter(|vouched| !vouched.streams.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_site_said_before_it_was_gone_shows_that_it_lives() {
        assert!(outlives(1_000, None), "its link may be cut");
        assert!(!outlives(900, Some(1_000)));
        assert!(!outlives(1_050, Some(1_000)), "its last report was still on its way");
        assert!(outlives(1_000 + LAST_WORD_MS + 1, Some(1_000)), "others hear it all the same");
    }
}
