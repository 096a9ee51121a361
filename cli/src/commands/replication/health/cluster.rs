//! What is wrong with the cluster as a whole. Pure.

use std::collections::BTreeSet;

use cfs_rpc::v1::{SiteStatus, StatusAnswer};

use super::checks::{SKEW_MS, finding};
use super::finding::{self as code, Finding, Level};
use crate::commands::replication::gather::{Configured, FRESH_MS, NEVER, SITE_UNIT, bring_back, hangs};
use crate::commands::replication::picture::{
    DOWN, FENCED, HEALTHY, NO_CONTROL, NOT_ENROLLED, Picture, READY, REMOVED, UNHEARD, UNKNOWN,
};
use crate::commands::replication::status::duration_text;

const FORCE: &str = "cfs admin replication failover --force --to";

/// Whether what this site knows of the cluster is not of now: it is no member, or one of an older generation.
pub(super) fn is_outside(answer: &StatusAnswer, picture: &Picture) -> bool {
    [NOT_ENROLLED, REMOVED].contains(&picture.state.as_str()) || is_fenced_off(answer, picture)
}

/// Whether this site takes part in nothing: its group is over, or an operator sealed it for another site.
pub(in crate::commands::replication) fn is_fenced_off(answer: &StatusAnswer, picture: &Picture) -> bool {
    let sealed = answer.here.as_ref().is_some_and(|here| !here.sealed_for.is_empty());
    picture.state == FENCED && (answer.split_brain || sealed)
}

/// How many voters more than those that are down may go before there is no majority.
pub(super) fn spare_voters(answer: &StatusAnswer, picture: &Picture) -> usize {
    let voters = answer.here.iter().chain(&answer.sites).filter(|site| site.voter).count();
    let down = answer.sites.iter().filter(|site| site.voter && is_silent(picture, &site.site)).count();
    voters.saturating_sub(down).saturating_sub(voters / 2 + 1)
}

fn is_silent(picture: &Picture, site: &str) -> bool {
    let peer = picture.peers.iter().find(|peer| peer.site == site);
    peer.is_some_and(|peer| [DOWN, UNKNOWN, NO_CONTROL].contains(&peer.state.as_str()))
}

/// Whether nothing gets from here to a site's control process, although the site is up.
fn is_cut_off(picture: &Picture, site: &SiteStatus) -> bool {
    let unheard = picture.peers.iter().any(|peer| peer.site == site.site && peer.state == UNHEARD);
    unheard && (site.state == DOWN || site.age_ms > FRESH_MS)
}

pub(super) fn has_majority(answer: &StatusAnswer) -> bool {
    answer.quorum == "ok"
}

/// What brings a majority back; or, if that cannot be, what works without one.
fn majority_back(answer: &StatusAnswer, picture: &Picture) -> String {
    // A majority answers, whoever else does not: nothing has to be started, and nothing forced.
    let out_of_reach = |site: &SiteStatus| is_silent(picture, &site.site) || is_cut_off(picture, site);
    let silent = |site: &&SiteStatus| !answer.electing && site.voter && out_of_reach(site);
    let cut_off = answer.sites.iter().filter(silent).all(|site| is_cut_off(picture, site));
    let silent: Vec<&str> = answer.sites.iter().filter(silent).map(|site| site.site.as_str()).collect();
    let force = match picture.witness {
        true => format!("on a data site that is left: {FORCE} SITE"),
        false => format!("{FORCE} {}", picture.site),
    };
    match silent.as_slice() {
        [] => "wait some seconds until a leader is elected; then see which sites are awaited".to_owned(),
        silent if cut_off => {
            format!("mend the link to {}: cfs preflight tries it; if that cannot be: {force}", silent.join(", "))
        }
        silent => {
            let whys = picture.peers.iter().filter(|peer| silent.contains(&peer.site.as_str())).map(|peer| &peer.why);
            let why = whys.clone().find(|why| hangs(why)).map_or("", String::as_str);
            format!("on {}: {}; if that cannot be: {force}", silent.join(", "), bring_back(SITE_UNIT, why))
        }
    }
}

/// Members that store data.
fn data_sites(answer: &StatusAnswer) -> impl Iterator<Item = &SiteStatus> {
    answer.here.iter().chain(&answer.sites).filter(|site| site.enrolled && !site.witness)
}

/// Who would be primary after the present one's loss: rather a site that is well.
fn successor<'a>(answer: &'a StatusAnswer, picture: &Picture) -> &'a str {
    let others = || data_sites(answer).filter(|site| site.site != picture.primary);
    let well = |site: &&SiteStatus| {
        site.site == picture.site || picture.peers.iter().any(|peer| peer.site == site.site && peer.state == HEALTHY)
    };
    others().find(well).or_else(|| others().next()).map_or("SITE", |site| &site.site)
}

/// How an operator moves the role after a loss. The only voter of two sites is the primary: without it nobody leads.
fn by_hand(answer: &StatusAnswer, picture: &Picture, configured: &[Configured]) -> String {
    if data_sites(answer).count() == 1 {
        let known = |site: &str| data_sites(answer).any(|known| known.site == site);
        let new = configured.iter().find(|site| !site.witness && !known(&site.site));
        let on = new.map_or_else(|| "on a second data site".to_owned(), |site| format!("on {}", site.site));
        return format!("{on}: cfs admin replication enroll --primary {}", picture.primary_or_site());
    }
    if !answer.without_vote.is_empty() {
        return "cfs admin replication status --detailed".to_owned();
    }
    let to = successor(answer, picture);
    let voters = answer.here.iter().chain(&answer.sites).filter(|site| site.voter).count();
    match (has_majority(answer), picture.witness) {
        (true, _) if voters > 1 => format!("after a loss: cfs admin replication failover --to {to} --dry-run"),
        (false, _) if answer.electing => format!("after a loss: cfs admin replication failover --to {to} --dry-run"),
        (false, false) => format!("{FORCE} {} --dry-run", picture.site),
        _ => format!("after the primary's loss, on {to}: {FORCE} {to} --dry-run"),
    }
}

/// Whether this site takes appends although it is cut off: active-active is on, and the operator wants that.
fn goes_on_alone(answer: &StatusAnswer, picture: &Picture) -> bool {
    let wanted = answer.active_active && answer.partition_policy == "continue";
    wanted && picture.state == READY && !has_majority(answer)
}

/// What concerns no single site.
pub(super) fn cluster(answer: &StatusAnswer, picture: &Picture, configured: &[Configured], found: &mut Vec<Finding>) {
    let mut push = |code, level, reason: String, impact: &str, next: &str| {
        found.push(finding(code, level, "", reason, impact, next.to_owned()));
    };
    if !has_majority(answer) {
        let awaited = if answer.quorum.is_empty() { "more sites" } else { &answer.quorum };
        let goes_on = goes_on_alone(answer, picture);
        let impact = match picture.primary == picture.site {
            _ if goes_on => "appends go on here, as partition_policy says; nothing else can be changed from here",
            true => "no lease is renewed and no primary can be opened: writes stop here",
            false => "from here no primary can be opened; whether others go on without this site is not known",
        };
        let back = majority_back(answer, picture);
        // Nothing has to be forced where appends go on.
        let next = back.split("; if that cannot be: ").next().filter(|_| goes_on).unwrap_or(&back);
        let level = if goes_on { Level::Warning } else { Level::Critical };
        push(code::NO_QUORUM, level, format!("there is no quorum; awaited: {awaited}"), impact, next);
    } else if answer.leader_age_ms > FRESH_MS {
        let reason = match answer.leader_age_ms {
            NEVER => "this site never heard a leader".to_owned(),
            age => format!("this site last heard a leader {} ago", duration_text(age)),
        };
        push(
            code::OLD_NEWS,
            Level::Unknown,
            reason,
            "what is shown of other sites may be over",
            "nc -zv SITE 9501, for each other site",
        );
    }
    if answer.primary.is_empty() {
        let next = "cfs admin replication status --detailed";
        push(code::NO_PRIMARY, Level::Critical, "there is no primary".into(), "there are no writes", next);
    } else if answer.lease.as_ref().is_some_and(|lease| !lease.held) && !goes_on_alone(answer, picture) {
        let going_on = if answer.op == 0 {
            String::new()
        } else {
            format!(" (operation {} goes on: {})", answer.op, answer.op_text)
        };
        let heard = answer.leader_age_ms <= FRESH_MS || answer.primary == picture.site;
        let (reason, impact) = match heard {
            true => (format!("{} holds no lease{going_on}", answer.primary), "appends are not acknowledged"),
            false => (
                format!("whether {} holds a lease is not known: this site hears no leader", answer.primary),
                "appends may not be acknowledged",
            ),
        };
        let next = if answer.op_next.is_empty() { "cfs admin replication status --detailed" } else { &answer.op_next };
        push(code::NO_LEASE, Level::Critical, reason, impact, next);
    }
    // Where this site goes on by itself there is nothing to fail over.
    if !answer.automatic && !goes_on_alone(answer, picture) {
        let why = if answer.why_not_automatic.is_empty() { "no reason was given" } else { &answer.why_not_automatic };
        let impact = "when the primary is lost, writes wait for an operator";
        push(
            code::NOT_AUTOMATIC,
            Level::Warning,
            format!("failover is by hand: {why}"),
            impact,
            &by_hand(answer, picture, configured),
        );
    }
    found.extend(durability(answer, picture));
    let all: Vec<&SiteStatus> = answer.here.iter().chain(&answer.sites).collect();
    found.extend(all.iter().filter_map(|site| skew(site)));
    found.extend(versions(&all));
    found.extend(answer.sites.iter().filter_map(|site| number(answer, picture, site)));
}

/// What a site knows whether it is a member or not.
pub(super) fn member_or_not(answer: &StatusAnswer, found: &mut Vec<Finding>) {
    let mut push = |code, level, reason: String, impact: &str, next: &str| {
        found.push(finding(code, level, "", reason, impact, next.to_owned()));
    };
    if answer.split_brain {
        let impact = "two sites acted for different epochs: each may hold entries that the other lacks";
        push(
            code::SPLIT_BRAIN,
            Level::Critical,
            "split-brain detected".into(),
            impact,
            "cfs admin replication split-brain status",
        );
    }
    for warning in &answer.warnings {
        push(
            code::CONTROL_WARNS,
            Level::Warning,
            warning.clone(),
            "see the reason",
            "cfs admin replication status --detailed",
        );
    }
}

/// Sites that would have to confirm an append, and do not.
fn durability(answer: &StatusAnswer, picture: &Picture) -> Option<Finding> {
    let copies: usize = answer.durability.strip_prefix("remote(")?.split(')').next()?.parse().ok()?;
    let counts = |site: &&SiteStatus| site.counts && site.site != picture.primary;
    let up = |site: &&SiteStatus| {
        site.site == picture.site || picture.peers.iter().any(|peer| peer.site == site.site && peer.state == HEALTHY)
    };
    let confirming = answer.here.iter().chain(&answer.sites).filter(counts).filter(up).count();
    (confirming < copies).then(|| {
        finding(
            code::DURABILITY,
            Level::Critical,
            "",
            format!("{} wants {copies} other sites, {confirming} can confirm", answer.durability),
            "appends wait until enough sites confirm, or go on with less, as `replication.sync_fallback` says",
            "cfs admin replication health --detailed, and start the sites that are down".into(),
        )
    })
}

fn skew(site: &SiteStatus) -> Option<Finding> {
    let apart_ms = site.clock_skew_ms.filter(|ms| ms.unsigned_abs() > SKEW_MS)?;
    Some(finding(
        code::CLOCK_SKEW,
        Level::Warning,
        &site.site,
        format!("the clock of {} differs by {apart_ms}ms; at most {SKEW_MS}ms is allowed", site.site),
        "in merges the later clock wins, and times in audit trails do not compare; leases are not affected",
        format!("on {}, and here: chronyc tracking", site.site),
    ))
}

/// A site that the group knows under another number than this one's configuration.
fn number(answer: &StatusAnswer, picture: &Picture, site: &SiteStatus) -> Option<Finding> {
    let (name, enrolled, configured) = (&site.site, site.site_id, site.configured_id);
    let file = if answer.config_file.is_empty() { "its configuration" } else { &answer.config_file };
    (site.enrolled && configured != 0 && configured != enrolled).then(|| {
        finding(
            code::NUMBERS,
            Level::Warning,
            name,
            format!("{name} is enrolled as number {enrolled}, and {} has {configured} for it: {file}", picture.site),
            "sites name each other by number: what is meant for this one, or comes from it, may be taken for another's",
            format!(
                "on {}: in {file}, `id = {enrolled}` in the [[peers]] of {name}, then systemctl restart {SITE_UNIT}",
                picture.site
            ),
        )
    })
}

fn versions(sites: &[&SiteStatus]) -> Option<Finding> {
    let known = sites.iter().filter(|site| !site.version.is_empty());
    let by_version: BTreeSet<&str> = known.clone().map(|site| site.version.as_str()).collect();
    let listed: Vec<String> = known.map(|site| format!("{} {}", site.site, site.version)).collect();
    let by_level: BTreeSet<u32> = sites.iter().map(|site| site.level).filter(|level| *level > 0).collect();
    let listed = match by_level.len() {
        0 | 1 => listed,
        _ => sites
            .iter()
            .filter(|site| site.level > 0)
            .map(|site| format!("{} {} (level {})", site.site, site.version, site.level))
            .collect(),
    };
    (by_version.len() > 1 || by_level.len() > 1).then(|| {
        finding(
            code::VERSIONS,
            Level::Warning,
            "",
            format!("sites differ in version: {}", listed.join(", ")),
            "fine during an upgrade, not for long: what only the newer ones know waits",
            "upgrade the older ones, the primary's site last, and see cluster.level in their configurations".into(),
        )
    })
}
