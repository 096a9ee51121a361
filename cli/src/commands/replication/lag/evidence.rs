//! What is known of how far each site is, and what may be concluded from it. Pure.

use std::collections::BTreeMap;

use cfs_rpc::v1::{PeerStatus, SiteStatus, StatusReply, StreamCursor, StreamState};

use crate::commands::replication::gather::{FRESH_MS, Gathered, NEVER, NOW_MS};
use crate::commands::replication::picture::{DOWN, FENCED, HEALTHY, NO_SHIPPER, PRIMARY, READY, is_vouched};

const ENROLLING: &str = "ENROLLING";
/// What was heard of a shipper less than this before its site was found gone was heard from the site that is gone.
const SAME_MS: u64 = 200;

/// A position in each stream, by its site's number and its incarnation.
pub(super) type Positions = BTreeMap<(u32, u64), u64>;

/// How a site stands now, which decides what its positions are worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is heard, or somebody who is heard speaks for it; with what there is to know beside.
    Heard(String),
    /// It is heard, and still on its way to hold what the others hold.
    Enrolling(String),
    /// It takes part in nothing.
    Fenced(String),
    /// Its shipper does not serve.
    NoShipper(String),
    /// For so long nothing came from it.
    Silent(u64, String),
    /// Nothing ever came from it.
    Never(String),
    /// It is well, but what there is to hold is not known here.
    Unsure(String),
}

/// What is known of one site.
#[derive(Debug, Clone)]
pub(super) struct Evidence {
    pub(super) site: String,
    pub(super) standing: Standing,
    /// What it has applied, as last known; `None`: that was never known.
    pub(super) applied: Option<Positions>,
    pub(super) lag_ms: Option<u64>,
    /// Of what is known; `None`: nothing is.
    pub(super) age_ms: Option<u64>,
    pub(super) reported_by: String,
}

impl Evidence {
    pub(super) fn none(site: &str) -> Self {
        Self {
            site: site.to_owned(),
            standing: Standing::Never(String::new()),
            applied: None,
            lag_ms: None,
            age_ms: None,
            reported_by: String::new(),
        }
    }

    /// The verdict and what keeps it from being better. `in sync` takes a site that is heard, has applied all that is known
    /// to exist, and is not behind in time either.
    pub(super) fn verdict(&self, ends: &Positions) -> (&'static str, String) {
        let applied = |stream| self.applied.as_ref().and_then(|applied| applied.get(stream)).copied().unwrap_or(0);
        let lacks = ends.iter().any(|(stream, end)| applied(stream) < *end);
        let behind = lacks || self.lag_ms.is_none_or(|lag_ms| lag_ms > 0);
        match &self.standing {
            Standing::Fenced(why) => ("fenced", why.clone()),
            Standing::NoShipper(why) => ("no shipper", why.clone()),
            Standing::Silent(ms, why) => ("not heard", format!("last heard {ms}ms ago{}", after_colon(why))),
            Standing::Never(why) => ("unknown", format!("never heard{}", after_colon(why))),
            Standing::Enrolling(why) => ("behind", why.clone()),
            Standing::Heard(why) if behind => ("behind", why.clone()),
            Standing::Unsure(why) if lacks && self.lag_ms.is_some() => ("behind", why.clone()),
            Standing::Unsure(why) => ("unknown", why.clone()),
            Standing::Heard(why) => ("in sync", why.clone()),
        }
    }
}

/// What is known to exist of each stream, and what is known of each site that stores data: this one first.
pub(super) fn collect(gathered: &Gathered) -> (Positions, Vec<Evidence>) {
    let answer = gathered.control.as_ref().map(|answer| &answer.body);
    let here = answer.and_then(|answer| answer.here.as_ref());
    let told = answer.map_or(&[][..], |answer| &answer.sites);
    match &gathered.shipper {
        Some(reply) => {
            // A stream that nobody wrote to yet is nothing to be behind of.
            let written = reply.cursors.iter().filter(|c| c.source > 0);
            (written.map(|c| ((c.site, c.incarnation), c.source)).collect(), of_shipper(reply, here, told))
        }
        None => {
            let members = here.into_iter().chain(told).filter(|member| !member.witness && member.enrolled);
            (ends(members.clone()), members.map(of_member).collect())
        }
    }
}

/// The names of sites by number.
pub(super) fn site_names(gathered: &Gathered) -> Vec<(u32, String)> {
    let answer = gathered.control.as_ref().map(|answer| &answer.body);
    let told = answer.into_iter().flat_map(|answer| answer.here.iter().chain(&answer.sites));
    let told = told.map(|site| (site.site_id, site.site.clone()));
    let cursors = gathered.shipper.iter().flat_map(|reply| &reply.cursors).map(|c| (c.site, c.site_name.clone()));
    cursors.chain(told).collect()
}

fn of_shipper(reply: &StatusReply, here: Option<&SiteStatus>, told: &[SiteStatus]) -> Vec<Evidence> {
    let control = |peer: &PeerStatus| told.iter().find(|told| told.site == peer.site);
    let fenced = here.map_or(reply.status == FENCED, |here| here.state == FENCED);
    let peers: Vec<Evidence> = reply.peers.iter().map(|peer| of_peer(peer, control(peer), fenced)).collect();
    let silent = peers.iter().find(|peer| !matches!(peer.standing, Standing::Heard(_) | Standing::Enrolling(_)));
    std::iter::once(of_self(reply, here, silent)).chain(peers).collect()
}

/// This site knows its own position, but only fresh word from the others tells what it lacks.
fn of_self(reply: &StatusReply, here: Option<&SiteStatus>, silent: Option<&Evidence>) -> Evidence {
    // A sole primary is where entries come from: nobody can hold more while its lease lasts.
    let sole = reply.role == PRIMARY && reply.status == READY && !reply.active_active;
    let fenced = here.filter(|here| here.state == FENCED).map(|here| here.why.clone());
    let fenced = fenced.or_else(|| (reply.status == FENCED).then(|| reply.why.clone()));
    let standing = match (fenced, silent) {
        (Some(why), _) => Standing::Fenced(why),
        (None, _) if reply.status == ENROLLING => Standing::Enrolling(reply.why.clone()),
        (None, Some(peer)) if !sole => Standing::Unsure(format!("{} is not heard and may hold more", peer.site)),
        (None, _) => Standing::Heard(String::new()),
    };
    Evidence {
        site: reply.site.clone(),
        lag_ms: Some(reply.lag_ms).filter(|_| !matches!(standing, Standing::Fenced(_))),
        standing,
        applied: Some(applied(&reply.cursors)),
        age_ms: Some(0),
        reported_by: reply.site.clone(),
    }
}

/// Another site, by this site's shipper and by the control processes' word: each of them may know what the other cannot.
fn of_peer(peer: &PeerStatus, told: Option<&SiteStatus>, fenced_here: bool) -> Evidence {
    let heard = peer.lag_known && peer.state == HEALTHY && peer.heard_ms <= FRESH_MS;
    // Found gone, and its shipper was not heard after that.
    let gone = told.is_some_and(|told| told.gone_ms > 0 && peer.heard_ms.saturating_add(SAME_MS) >= told.gone_ms);
    let current = told.filter(|told| told.age_ms <= FRESH_MS);
    let word = told.filter(|told| is_told(told));
    let why = match told.filter(|told| told.state == DOWN) {
        Some(down) if peer.why.is_empty() => &down.why,
        _ => &peer.why,
    };
    let by_shipper = Evidence {
        site: peer.site.clone(),
        standing: Standing::Heard(String::new()),
        applied: Some(applied(&peer.cursors)).filter(|applied| heard || !applied.is_empty()),
        lag_ms: peer.lag_known.then_some(peer.lag_ms).filter(|_| !fenced_here),
        age_ms: peer.lag_known.then_some(peer.heard_ms),
        reported_by: peer.site.clone(),
    };
    let last_known = |standing| match told.map(of_member) {
        Some(told) if told.applied.is_some() && (by_shipper.applied.is_none() || told.age_ms < by_shipper.age_ms) => {
            Evidence { standing, lag_ms: by_shipper.lag_ms, ..told }
        }
        _ => Evidence { standing, ..by_shipper.clone() },
    };
    match (current.map(|told| told.state.as_str()), word) {
        (Some(FENCED), _) => {
            let why = current.map(|told| told.why.clone()).unwrap_or_default();
            Evidence { lag_ms: None, ..last_known(Standing::Fenced(why)) }
        }
        (Some(NO_SHIPPER), _) => last_known(Standing::NoShipper(current.map(|t| t.why.clone()).unwrap_or_default())),
        _ if fenced_here => {
            last_known(Standing::Unsure("this site is fenced and does not know what the others hold".into()))
        }
        (Some(ENROLLING), _) => {
            let why = current.map(|told| told.why.clone()).unwrap_or_default();
            Evidence { applied: None, ..last_known(Standing::Enrolling(why)) }
        }
        _ if heard && !gone => by_shipper,
        (_, Some(told)) if !gone => {
            let standing = Standing::Heard("this site's shipper does not hear it".into());
            Evidence { standing, ..of_member(told) }
        }
        _ if peer.lag_known => {
            let heard_ms = told.map_or(peer.heard_ms, |told| told.age_ms.min(peer.heard_ms));
            last_known(Standing::Silent(heard_ms, why.clone()))
        }
        _ => match told.map(of_member) {
            Some(told) if told.applied.is_some() => told,
            _ => Evidence { standing: Standing::Never(why.clone()), ..Evidence::none(&peer.site) },
        },
    }
}

/// A site by what the control processes told each other.
fn of_member(member: &SiteStatus) -> Evidence {
    let known = if member.streams.is_empty() { &member.last_streams } else { &member.streams };
    let at_all = member.age_ms != NEVER;
    let fresh = member.age_ms <= FRESH_MS && member.state != DOWN;
    let standing = match member.state.as_str() {
        _ if !at_all => Standing::Never(member.why.clone()),
        FENCED if fresh => Standing::Fenced(member.why.clone()),
        NO_SHIPPER if fresh => Standing::NoShipper(member.why.clone()),
        ENROLLING if fresh => Standing::Enrolling(member.why.clone()),
        _ if fresh && member.lag_known => Standing::Heard(String::new()),
        _ => Standing::Silent(member.age_ms, member.why.clone()),
    };
    let spoken = member.lag_known && member.state != ENROLLING;
    let since_ms = if member.streams.is_empty() { member.last_streams_age_ms } else { 0 };
    Evidence {
        site: member.site.clone(),
        applied: (at_all && (spoken || !known.is_empty())).then(|| applied_states(known)),
        lag_ms: (at_all && member.lag_known && member.state != FENCED).then_some(member.lag_ms),
        age_ms: at_all.then(|| member.age_ms.saturating_add(since_ms)),
        reported_by: member.reported_by.clone(),
        standing,
    }
}

fn applied(cursors: &[StreamCursor]) -> Positions {
    cursors.iter().map(|c| ((c.site, c.incarnation), c.applied)).collect()
}

fn applied_states(states: &[StreamState]) -> Positions {
    let one = |state: &StreamState| state.durable.map(|at| ((at.site, at.incarnation), state.applied_lsn));
    states.iter().filter_map(one).collect()
}

/// The furthest of each stream that any site holds.
fn ends<'a>(members: impl Iterator<Item = &'a SiteStatus>) -> Positions {
    let mut ends = Positions::new();
    for durable in members.flat_map(|m| m.streams.iter().chain(&m.last_streams)).filter_map(|state| state.durable) {
        let end = ends.entry((durable.site, durable.incarnation)).or_default();
        *end = durable.lsn.max(*end);
    }
    ends
}

/// Whether a site's own word came, through whomever, a moment ago: sites report several times a second.
fn is_told(told: &SiteStatus) -> bool {
    !told.witness && told.lag_known && told.state != DOWN && (is_vouched(told) || told.age_ms <= NOW_MS)
}

fn after_colon(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}
