//! One picture of what both processes say: this site, and every other one. Pure.

use cfs_rpc::v1::{PeerStatus, SiteStatus, StatusAnswer, StatusReply};
use serde::Serialize;

use super::gather::{Configured, FRESH_MS, Gathered, NEVER, NOW_MS};

pub(super) const HEALTHY: &str = "HEALTHY";
pub(super) const DOWN: &str = "DOWN";
pub(super) const READY: &str = "READY";
pub(super) const PRIMARY: &str = "PRIMARY";
pub(super) const WITNESS: &str = "WITNESS";
pub(super) const NO_SHIPPER: &str = "NO_SHIPPER";
/// Its shipper serves, its control process does not.
pub(super) const NO_CONTROL: &str = "NO_CONTROL";
pub(super) const READ_ONLY: &str = "READ_ONLY";
pub(super) const REMOVED: &str = "REMOVED";
const WAITING: &str = "WAITING";
pub(super) const FENCED: &str = "FENCED";
pub(super) const DIVERGED: &str = "DIVERGED";
pub(super) const NOT_ENROLLED: &str = "NOT_ENROLLED";
/// Alive by the word of the leader, but this site's shipper does not hear its shipper.
pub(super) const UNHEARD: &str = "UNHEARD";
/// Configured, and nothing here can tell how it is.
pub(super) const UNKNOWN: &str = "UNKNOWN";

/// A shipper that was heard within this goes on: heartbeats come every second.
const SHIPPER_NOW_MS: u64 = 2_500;

/// What was heard from two processes of a site within this was heard at the same time.
const SHIPPER_SAME_MS: u64 = 200;

/// How far a site is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lag {
    /// Milliseconds.
    Known(u64),
    Unknown,
    /// It stores nothing.
    None,
}

impl Lag {
    pub(super) fn text(self) -> String {
        match self {
            Self::Known(ms) => format!("{ms}ms"),
            Self::Unknown => "unknown".to_owned(),
            Self::None => "n/a".to_owned(),
        }
    }

    pub(super) const fn ms(self) -> Option<u64> {
        match self {
            Self::Known(ms) => Some(ms),
            Self::Unknown | Self::None => None,
        }
    }
}

/// Another site.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Peer {
    pub(super) site: String,
    pub(super) state: String,
    pub(super) why: String,
    /// Null: unknown, or it stores nothing.
    pub(super) lag_ms: Option<u64>,
    /// Null: it was never heard.
    pub(super) heard_ms: Option<u64>,
    pub(super) rtt_us: u64,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    pub(super) witness: bool,
    pub(super) role: String,
    #[serde(skip)]
    pub(super) next: String,
    #[serde(skip)]
    pub(super) enrolled: bool,
    /// What is known of it is recent.
    #[serde(skip)]
    pub(super) fresh: bool,
}

/// This site and the others.
#[derive(Debug, Clone)]
pub(super) struct Picture {
    pub(super) site: String,
    pub(super) state: String,
    pub(super) why: String,
    pub(super) role: String,
    pub(super) primary: String,
    pub(super) epoch: u64,
    pub(super) lag: Lag,
    pub(super) witness: bool,
    pub(super) peers: Vec<Peer>,
}

impl Picture {
    pub(super) fn of(gathered: &Gathered) -> Self {
        let answer = gathered.control.as_ref().map(|answer| &answer.body);
        let shipper = gathered.shipper.as_ref();
        let here = answer.and_then(|answer| answer.here.as_ref());
        let witness = here.is_some_and(|here| here.witness);
        let (state, why) = state_here(here, shipper, &gathered.control_error);
        let by_control = |f: fn(&SiteStatus) -> &String| here.map(f).filter(|text| !text.is_empty()).cloned();
        let primary = answer.map(|answer| answer.primary.clone()).filter(|site| !site.is_empty());
        let role = if witness { Some(WITNESS.to_owned()) } else { by_control(|here| &here.role) };
        // Its last directive names a primary, which may be over: a lease would say that it is not.
        let stale = answer.is_none() && shipper.is_some_and(|s| s.status != READY && s.primary == s.site);
        let of_shipper = |f: fn(&StatusReply) -> &String| shipper.filter(|_| !stale).map(f).cloned();
        let mut picture = Self {
            site: by_control(|here| &here.site).or(shipper.map(|s| s.site.clone())).unwrap_or_default(),
            state,
            why,
            role: role.or(of_shipper(|s| &s.role)).unwrap_or_else(|| "NONE".to_owned()),
            primary: primary.or(of_shipper(|s| &s.primary)).unwrap_or_default(),
            epoch: answer.map(|a| a.epoch).max(shipper.map(|s| s.epoch)).unwrap_or_default(),
            lag: Lag::Unknown,
            witness,
            peers: Vec::new(),
        };
        picture.peers = peers(answer, shipper, &gathered.configured, &picture);
        for peer in picture.peers.iter_mut().filter(|peer| peer.role.is_empty() && peer.site == picture.primary) {
            PRIMARY.clone_into(&mut peer.role);
        }
        picture.lag = match (witness, shipper, here) {
            (true, _, _) => Lag::None,
            // What it calls the primary may be itself, of an older generation.
            _ if picture.state == FENCED && picture.primary == picture.site => Lag::Unknown,
            // Nobody tells it what there is.
            _ if picture.state == REMOVED => Lag::Unknown,
            (_, Some(shipper), _) => lag_here(&picture, shipper),
            (_, _, Some(here)) if here.lag_known => Lag::Known(here.lag_ms),
            _ => Lag::Unknown,
        };
        picture
    }

    /// The primary for a command; where none is known, the word that stands for a site.
    pub(super) fn primary_or_site(&self) -> &str {
        if self.primary.is_empty() { "SITE" } else { &self.primary }
    }

    /// Sites that nothing recent is known of.
    pub(super) fn silent(&self) -> Vec<String> {
        let silent = |peer: &&Peer| !peer.fresh || peer.state == DOWN || peer.state == UNKNOWN;
        self.peers.iter().filter(silent).map(|peer| peer.site.clone()).collect()
    }
}

/// The control process sees membership and fencing, the shipper sees its disk: the worse of both.
fn state_here(here: Option<&SiteStatus>, shipper: Option<&StatusReply>, control_error: &str) -> (String, String) {
    let control = here.filter(|here| !here.state.is_empty());
    match (control, shipper) {
        (Some(here), Some(shipper)) if here.state == READY && shipper.status != READY => {
            (shipper.status.clone(), shipper.why.clone())
        }
        (Some(here), _) => (here.state.clone(), here.why.clone()),
        (None, Some(shipper)) if shipper.status == READY => {
            (NO_CONTROL.to_owned(), format!("its shipper serves, its control process does not answer: {control_error}"))
        }
        // It waits for what its control process would tell it.
        (None, Some(shipper)) if shipper.status == WAITING => {
            let why = or_nothing(&shipper.why);
            (
                NO_CONTROL.to_owned(),
                format!("its shipper waits for {why}, its control process does not answer: {control_error}"),
            )
        }
        (None, Some(shipper)) => (shipper.status.clone(), shipper.why.clone()),
        (None, None) => (UNKNOWN.to_owned(), String::new()),
    }
}

fn or_nothing(why: &str) -> &str {
    if why.is_empty() { "nothing that it names" } else { why }
}

/// A site that never heard the primary cannot know how far it is behind.
fn lag_here(picture: &Picture, shipper: &StatusReply) -> Lag {
    if picture.primary.is_empty() {
        return Lag::Unknown;
    }
    let heard = shipper.peers.iter().any(|peer| peer.site == picture.primary && peer.lag_known);
    let through_another = shipper.peers.iter().any(|peer| peer.state == HEALTHY && peer.lag_known);
    if picture.primary == shipper.site || heard || through_another { Lag::Known(shipper.lag_ms) } else { Lag::Unknown }
}

/// All other sites: those that the shipper knows first, in its order, then the control process's, then the configured.
fn peers(
    answer: Option<&StatusAnswer>,
    shipper: Option<&StatusReply>,
    configured: &[Configured],
    here: &Picture,
) -> Vec<Peer> {
    let told = answer.map_or(&[][..], |answer| &answer.sites);
    let heard = shipper.map_or(&[][..], |shipper| &shipper.peers);
    let of_control = |site: &str| told.iter().find(|told| told.site == site);
    let mut peers: Vec<Peer> = heard.iter().map(|peer| Peer::of(Some(peer), of_control(&peer.site), here)).collect();
    for told in told {
        if !peers.iter().any(|peer| peer.site == told.site) {
            peers.push(Peer::of(None, Some(told), here));
        }
    }
    for known in configured {
        if !peers.iter().any(|peer| peer.site == known.site) {
            peers.push(Peer::configured(known, answer.is_some(), here));
        }
    }
    let removed = answer.map_or(&[][..], |answer| &answer.removed);
    peers.retain(|peer| !removed.contains(&peer.site));
    peers
}

impl Peer {
    fn of(shipper: Option<&PeerStatus>, control: Option<&SiteStatus>, here: &Picture) -> Self {
        let (state, why) = peer_state(shipper, control, here);
        // A fenced site knows nothing of what the others need.
        let fenced = here.state == FENCED;
        let name = shipper.map(|s| &s.site).or(control.map(|c| &c.site)).cloned().unwrap_or_default();
        let heard_by_shipper = shipper.filter(|peer| peer.lag_known).map(|peer| peer.heard_ms);
        let heard_by_control = control.map(|site| site.age_ms).filter(|age| *age != NEVER);
        let heard_ms = heard_by_shipper.into_iter().chain(heard_by_control).min();
        let lag_of_control = control.filter(|site| site.lag_known && !site.witness).map(|site| site.lag_ms);
        Self {
            site: name,
            state,
            why,
            lag_ms: shipper
                .filter(|peer| peer.lag_known)
                .map(|peer| peer.lag_ms)
                .or(lag_of_control)
                .filter(|_| !fenced),
            heard_ms,
            rtt_us: shipper.map(|p| p.rtt_us).filter(|rtt| *rtt > 0).or(control.map(|c| c.rtt_us)).unwrap_or_default(),
            sent_bytes: shipper.map_or(0, |peer| peer.sent_bytes),
            received_bytes: shipper.map_or(0, |peer| peer.received_bytes),
            witness: control.is_some_and(|site| site.witness),
            role: control.map(|site| site.role.clone()).unwrap_or_default(),
            next: control.map(|site| site.next.clone()).unwrap_or_default(),
            enrolled: control.is_none_or(|site| site.enrolled),
            fresh: heard_ms.is_some_and(|age| age <= FRESH_MS),
        }
    }

    fn configured(known: &Configured, control_answers: bool, here: &Picture) -> Self {
        let (state, why) = match control_answers {
            true if here.state == NOT_ENROLLED => (UNKNOWN, OUTSIDE),
            true => (DOWN, "it is in the configuration, and is not enrolled"),
            false => (UNKNOWN, "it is in the configuration; only the control process can tell how it is"),
        };
        let peer = Self::of(None, None, here);
        let witness = if known.witness { " --witness" } else { "" };
        let through = here.primary_or_site();
        let next = format!("on {}: cfs admin replication enroll{witness} --primary {through}", known.site);
        Self {
            site: known.site.clone(),
            state: state.into(),
            why: why.into(),
            enrolled: !control_answers,
            next,
            ..peer
        }
    }

    /// For one line: `site-b lag 3ms, heard 200ms ago, round trip 5us: why`.
    pub(super) fn line(&self) -> String {
        let lag = match (self.witness, self.lag_ms) {
            (true, _) => "witness".to_owned(),
            (_, Some(lag)) => format!("lag {lag}ms"),
            (_, None) => "lag unknown".to_owned(),
        };
        let heard = self.heard_ms.map_or_else(|| ", never heard".to_owned(), |ms| format!(", heard {ms}ms ago"));
        let round_trip = if self.rtt_us > 0 { format!(", round trip {}us", self.rtt_us) } else { String::new() };
        let why = if self.why.is_empty() { String::new() } else { format!(": {}", self.why) };
        format!("{} {lag}{heard}{round_trip}{why}", self.site)
    }
}

/// Whether only others hear the site: what is told of it is what one of them says.
pub(super) fn is_vouched(control: &SiteStatus) -> bool {
    !control.reported_by.is_empty() && control.reported_by != control.site
}

/// What a site that is no member says of those that may be.
const OUTSIDE: &str = "this site is not enrolled itself, and cannot tell";

/// HEALTHY needs recent word from the site, and nobody who says otherwise.
fn peer_state(shipper: Option<&PeerStatus>, control: Option<&SiteStatus>, here: &Picture) -> (String, String) {
    let state = |state: &str, why: &str| (state.to_owned(), why.to_owned());
    let stale = |ms: u64| match ms {
        NEVER => state(DOWN, "it was never heard"),
        ms => state(DOWN, &format!("last heard {ms}ms ago")),
    };
    if let Some(diverged) = shipper.filter(|peer| peer.state == DIVERGED) {
        return state(DIVERGED, &diverged.why);
    }
    let Some(control) = control else {
        return match shipper {
            Some(peer) if peer.state == HEALTHY && peer.heard_ms > FRESH_MS => stale(peer.heard_ms),
            Some(peer) => state(&peer.state, &peer.why),
            None => stale(NEVER),
        };
    };
    if here.state == NOT_ENROLLED && control.state != NOT_ENROLLED {
        return state(UNKNOWN, OUTSIDE);
    }
    // The runbook shows a site that is not enrolled yet as one that is down.
    if !control.enrolled || control.state == NOT_ENROLLED {
        let why = if control.why.is_empty() { "it is not enrolled" } else { &control.why };
        return state(DOWN, why);
    }
    if let Some(shipper) = shipper.filter(|shipper| serves_alone(shipper, control)) {
        if shipper.answered_ms.is_some_and(|ms| ms > SHIPPER_NOW_MS) {
            let why =
                "its shipper's words arrive here, and nothing that is sent from here is answered: the way there is cut";
            return state(UNHEARD, &after(why, &control.why));
        }
        return state(NO_CONTROL, &after("its shipper serves, its control process does not answer", &control.why));
    }
    if control.state == DOWN {
        return state(DOWN, &control.why);
    }
    if control.age_ms > FRESH_MS {
        return stale(control.age_ms);
    }
    let vouched = is_vouched(control);
    let by = &control.reported_by;
    match shipper {
        _ if control.state != READY && control.state != HEALTHY => state(&control.state, &control.why),
        _ if vouched && *by == here.site => {
            state(UNHEARD, "it is up and its reports arrive here, but it does not answer this site")
        }
        Some(peer) if peer.state != HEALTHY && vouched => {
            state(UNHEARD, &format!("it is up by the word of {by}, but this site does not hear it: {}", peer.why))
        }
        _ if vouched => {
            state(UNHEARD, &format!("it is up by the word of {by}, but its control process is not heard here"))
        }
        // Nobody exchanges streams with a fenced site: that says nothing of the others.
        Some(_) if here.state == FENCED => state(HEALTHY, ""),
        // Reports come several times a second: with none of late, that the shipper is not heard tells more.
        Some(peer) if peer.state != HEALTHY && control.age_ms > NOW_MS => state(&peer.state, &peer.why),
        Some(peer) if peer.state != HEALTHY => {
            state(UNHEARD, &format!("it is up, but this site's shipper does not hear it: {}", peer.why))
        }
        _ => state(HEALTHY, ""),
    }
}

/// Whether a site's control process is dead or hangs while its shipper goes on. Behind a cut both fall silent together.
fn serves_alone(shipper: &PeerStatus, control: &SiteStatus) -> bool {
    let heard = shipper.state == HEALTHY && shipper.lag_known;
    let silent = control.state == DOWN || control.age_ms > FRESH_MS;
    let hangs = control.age_ms > FRESH_MS && shipper.heard_ms <= SHIPPER_NOW_MS;
    // Of a site that was killed both were heard last at the same time.
    let outlived = shipper.heard_ms.saturating_add(SHIPPER_SAME_MS) < control.gone_ms;
    heard && silent && !control.witness && (hangs || outlived)
}

fn after(text: &str, why: &str) -> String {
    if why.is_empty() { text.to_owned() } else { format!("{text}: {why}") }
}

#[cfg(test)]
#[path = "picture_tests.rs"]
mod tests;
