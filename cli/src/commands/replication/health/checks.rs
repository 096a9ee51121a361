//! From what both processes say to what is wrong. Pure.

use cfs_rpc::v1::StatusReply;

use super::certificates;
use super::cluster::{self, cluster, member_or_not};
use super::finding::{self as code, Finding, Level};
use crate::commands::replication::gather::{CONTROL_UNIT, Gathered, SHIPPER_UNIT, bring_back};
use crate::commands::replication::picture::{
    DIVERGED, DOWN, FENCED, HEALTHY, NO_CONTROL, NO_SHIPPER, NOT_ENROLLED, PRIMARY, Picture, READ_ONLY, READY, REMOVED,
    UNHEARD, UNKNOWN,
};
use crate::stream_names::StreamNames;

/// Lag above which the runbook warns.
pub(super) const LAG_WARNING_MS: u64 = 500;
/// Lag that the runbook calls critical.
pub(super) const LAG_CRITICAL_MS: u64 = 2_000;
/// Largest difference between clocks that the runbook allows.
pub(super) const SKEW_MS: u64 = 100;

/// A site to be checked: this one and every other alike.
struct Site<'a> {
    name: &'a str,
    state: &'a str,
    why: &'a str,
    next: &'a str,
    /// Where its shipper listens, by the configuration.
    peer: &'a str,
    lag_ms: Option<u64>,
    witness: bool,
    primary: bool,
    enrolled: bool,
    here: bool,
    /// A site through which it can be enrolled.
    through: &'a str,
    /// Whether the group has a majority, as far as is known.
    majority: bool,
    /// It votes.
    voter: bool,
    /// How many voters more may go.
    spare: usize,
}

/// Everything that is not as it should be, the worst first.
pub(in crate::commands::replication) fn findings(gathered: &Gathered, picture: &Picture) -> Vec<Finding> {
    let mut found = Vec::new();
    let answer = gathered.control.as_ref().map(|answer| &answer.body);
    for site in sites(gathered, picture) {
        found.extend(state_of(&site));
        found.extend(lag_of(&site));
    }
    match answer {
        // A site that is no member, or only of an older generation, knows nothing of the cluster.
        Some(answer) if cluster::is_outside(answer, picture) => member_or_not(answer, &mut found),
        Some(answer) => {
            cluster(answer, picture, &gathered.configured, &mut found);
            member_or_not(answer, &mut found);
        }
        None => {
            let reason = format!("the control process of {} does not answer: {}", picture.site, gathered.control_error);
            found.push(control_down(&picture.site, picture.role == PRIMARY, reason, &gathered.control_error, true));
        }
    }
    if gathered.shipper.is_none() && !picture.witness && picture.state != NO_SHIPPER {
        found.push(shipper_down(&picture.site, picture.role == PRIMARY, &gathered.shipper_error, true));
    }
    // Nothing is sent to a site that was removed.
    if let Some(shipper) = gathered.shipper.as_ref().filter(|_| picture.state != REMOVED) {
        found.extend(stuck(shipper));
        found.extend(super::journal::findings(shipper));
    }
    found.extend(super::rows::findings(gathered, picture));
    if let Some(own) = certificates::own(&picture.site, &gathered.useless_certificates) {
        certificates::force_nothing(&mut found);
        found.push(own);
    }
    // What comes first is what `status` names as the next command.
    found.sort_by_key(|finding| (std::cmp::Reverse(finding.level), code::order(finding.code)));
    found
}

fn sites<'a>(gathered: &'a Gathered, picture: &'a Picture) -> Vec<Site<'a>> {
    let answer = gathered.control.as_ref().map(|answer| &answer.body);
    let here = answer.and_then(|answer| answer.here.as_ref());
    let majority = answer.is_none_or(cluster::has_majority);
    let spare = answer.map_or(0, |answer| cluster::spare_voters(answer, picture));
    let votes = |site: &str| {
        let told = answer.and_then(|answer| answer.sites.iter().find(|told| told.site == site));
        told.is_none_or(|told| told.voter)
    };
    let own = Site {
        name: &picture.site,
        state: &picture.state,
        why: &picture.why,
        next: here.map_or("", |here| &here.next),
        peer: "",
        lag_ms: picture.lag.ms(),
        witness: picture.witness,
        primary: picture.role == PRIMARY,
        enrolled: picture.state != NOT_ENROLLED,
        here: true,
        through: if picture.primary == picture.site { "SITE" } else { picture.primary_or_site() },
        majority,
        voter: here.is_none_or(|here| here.voter),
        spare,
    };
    let others = picture.peers.iter().map(|peer| Site {
        name: &peer.site,
        state: &peer.state,
        why: &peer.why,
        next: &peer.next,
        peer: gathered.configured.iter().find(|known| known.site == peer.site).map_or("", |known| &known.peer),
        // What was heard long ago is no lag of now; the site's state tells that.
        lag_ms: peer.lag_ms.filter(|_| peer.fresh && peer.state != DOWN),
        witness: peer.witness,
        primary: peer.site == picture.primary,
        enrolled: peer.enrolled,
        here: false,
        through: picture.primary_or_site(),
        majority,
        voter: votes(&peer.site),
        spare,
    });
    // Nobody speaks with a site that was removed, or is no member yet: that says nothing of the others.
    let others = others.filter(|_| picture.state != REMOVED && picture.state != NOT_ENROLLED);
    std::iter::once(own).chain(others).collect()
}

pub(super) fn finding(
    code: &'static str,
    level: Level,
    site: &str,
    reason: String,
    impact: &str,
    next: String,
) -> Finding {
    Finding { code, level, site: site.to_owned(), reason, impact: impact.to_owned(), next }
}

fn state_of(site: &Site<'_>) -> Option<Finding> {
    let because = if site.why.is_empty() { String::new() } else { format!(": {}", site.why) };
    let next = |own: String| if site.next.is_empty() { own } else { site.next.to_owned() };
    let name = site.name;
    let worse_at_primary = if site.primary { Level::Critical } else { Level::Warning };
    Some(match site.state {
        READY | HEALTHY => return None,
        _ if !site.enrolled => finding(
            code::NOT_ENROLLED_YET,
            Level::Warning,
            name,
            format!("{name} is not enrolled{because}"),
            "it takes no part: it holds no copy and has no vote",
            next(format!(
                "on {name}: cfs admin replication enroll{} --primary {}",
                if site.witness { " --witness" } else { "" },
                site.through
            )),
        ),
        DOWN if site.witness => finding(
            code::WITNESS_DOWN,
            Level::Warning,
            name,
            format!("witness {name} is down{because}"),
            match site.majority {
                true if !site.voter => "writes go on: it has no vote now",
                true if site.spare > 0 => "writes go on, also without one more site",
                true => "writes go on, but losing one more site stops them: there would be no quorum",
                false => "it is missing from the majority that the other sites need: there are no writes",
            },
            format!("on {name}: systemctl status {CONTROL_UNIT}"),
        ),
        DOWN => finding(
            code::SITE_DOWN,
            worse_at_primary,
            name,
            format!("{name} is down{because}"),
            match site.primary {
                true if site.majority => "there are no writes until a primary is up",
                true => "if it is down, and not only cut off from here, there are no writes until a primary is up",
                false => "there is one copy less",
            },
            format!("on {name}: systemctl status {CONTROL_UNIT} {SHIPPER_UNIT}"),
        ),
        // What this site's own does not say is found below.
        NO_CONTROL if site.here => return None,
        NO_CONTROL => control_down(name, site.primary, format!("{name}: {}", site.why), site.why, false),
        REMOVED => finding(
            code::NOT_ENROLLED_YET,
            Level::Warning,
            name,
            format!("{name} was removed from the cluster"),
            "it takes no part: it gets no entries and has no vote; what it holds is kept",
            next(format!("on {name}: cfs admin replication enroll --primary {}", site.through)),
        ),
        NO_SHIPPER => shipper_down(name, site.primary, site.why, site.here),
        FENCED => finding(
            code::SITE_FENCED,
            Level::Critical,
            name,
            format!("{name} is fenced{because}"),
            "it takes part in nothing, and may hold entries that no other site has",
            fenced_next(site),
        ),
        DIVERGED => finding(
            code::SITE_DIVERGED,
            Level::Critical,
            name,
            format!("{name} holds another history{because}"),
            "no streams are exchanged with it",
            next("cfs admin replication split-brain status".into()),
        ),
        READ_ONLY => finding(
            code::DISK_READ_ONLY,
            Level::Critical,
            name,
            format!("{name} is read-only{because}"),
            if site.primary { "appends are refused" } else { "it stores nothing new and falls behind" },
            format!("on {name}: df -h /var/claudefs, and free some space; it goes on by itself"),
        ),
        UNHEARD => finding(
            code::SITE_UNHEARD,
            Level::Warning,
            name,
            format!("{name}: {}", site.why),
            "entries reach it through a third site, or not at all",
            unheard_next(site),
        ),
        UNKNOWN => finding(
            code::OLD_NEWS,
            Level::Unknown,
            name,
            format!("nothing is known of {name}{because}"),
            "it may be up or down",
            format!("systemctl start {CONTROL_UNIT}"),
        ),
        other => finding(
            code::NOT_READY,
            worse_at_primary,
            name,
            format!("{name} is {other}{because}"),
            match (site.primary, site.witness) {
                (true, _) => "appends wait",
                (_, true) => "its vote does not count yet",
                _ => "it cannot take over yet",
            },
            next("cfs admin replication status --detailed".into()),
        ),
    })
}

/// The way to its shipper is tried where the configuration says that it listens.
fn unheard_next(site: &Site<'_>) -> String {
    match site.peer.rsplit_once(':') {
        Some((host, port)) => format!("nc -zv {} {port}", host.trim_matches(['[', ']'])),
        None if site.witness => format!("on {}: systemctl status {CONTROL_UNIT}", site.name),
        None => "cfs preflight (it tries the way to every site)".to_owned(),
    }
}

/// A fenced site names the command that lets it take part again; it is to be run there.
fn fenced_next(site: &Site<'_>) -> String {
    match site.next {
        "" => "cfs admin replication split-brain status".to_owned(),
        next if site.here || next.starts_with("on ") || !next.contains("rejoin") => next.to_owned(),
        next => format!("on {}: {next}", site.name),
    }
}

fn shipper_down(site: &str, primary: bool, why: &str, here: bool) -> Finding {
    let because = if why.is_empty() { String::new() } else { format!(": {why}") };
    let level = if primary { Level::Critical } else { Level::Warning };
    let impact = if primary { "appends are not taken" } else { "this copy does not move, and cannot take over" };
    let start = bring_back(SHIPPER_UNIT, why);
    let next = if here { start } else { format!("on {site}: {start}") };
    finding(code::SHIPPER_DOWN, level, site, format!("the shipper of {site} does not answer{because}"), impact, next)
}

fn control_down(site: &str, primary: bool, reason: String, why: &str, here: bool) -> Finding {
    let level = if primary { Level::Critical } else { Level::Warning };
    let impact = match primary {
        true => "the lease is not renewed, and appends stop",
        false => "this site has no vote and cannot take over",
    };
    let start = bring_back(CONTROL_UNIT, why);
    let next = if here { start } else { format!("on {site}: {start}") };
    finding(code::CONTROL_DOWN, level, site, reason, impact, next)
}

fn lag_of(site: &Site<'_>) -> Option<Finding> {
    // Where no shipper runs, that is what there is to do.
    let moves = !site.witness && site.state != NO_SHIPPER;
    let lag = site.lag_ms.filter(|lag| *lag > LAG_WARNING_MS && moves)?;
    let level = if lag > LAG_CRITICAL_MS { Level::Critical } else { Level::Warning };
    Some(finding(
        code::LAG,
        level,
        site.name,
        format!(
            "{} is {lag}ms behind; above {LAG_WARNING_MS}ms is a warning, above {LAG_CRITICAL_MS}ms critical",
            site.name
        ),
        "reads there are stale, and with local durability losing the primary now would leave that much behind",
        "cfs admin replication lag".into(),
    ))
}

fn stuck(shipper: &StatusReply) -> Vec<Finding> {
    let stuck = shipper.cursors.iter().filter(|cursor| cursor.state == "stuck");
    let sites = shipper.cursors.iter().map(|c| (c.site, c.site_name.clone()));
    let names = StreamNames::new(sites, shipper.cursors.iter().map(|c| (c.site, c.incarnation)));
    let one = |cursor: &cfs_rpc::v1::StreamCursor| {
        let stream = names.name(cursor.site, cursor.incarnation);
        finding(
            code::STREAM_STUCK,
            Level::Critical,
            &shipper.site,
            format!("the stream of {stream} is stuck at {}: {}", cursor.applied, cursor.reason),
            "this site falls behind and cannot take over",
            "cfs admin replication cursor status".into(),
        )
    };
    stuck.map(one).collect()
}
