//! What `status` shows, as data.

use cfs_rpc::v1::{ProcessUsage, Reach, SiteStatus, StatusAnswer};
use serde::Serialize;

use crate::commands::replication::cursor::StreamView;
use crate::commands::replication::gather::{Gathered, NEVER};
use crate::commands::replication::health::{findings, is_fenced_off};
use crate::commands::replication::picture::{Lag, Peer, Picture, REMOVED};
use crate::stream_names::StreamNames;

/// A site's status. Null: not known, because the process that knows does not answer.
#[derive(Debug, Serialize)]
pub(in crate::commands::replication) struct Status {
    pub(super) site: String,
    pub(super) status: String,
    pub(super) why: String,
    pub(super) role: String,
    pub(super) primary: String,
    pub(super) epoch: u64,
    pub(super) floor: Option<u64>,
    pub(super) lag_ms: Option<u64>,
    pub(super) peers: Vec<Peer>,
    pub(super) unreachable: Vec<String>,
    pub(super) streams: Vec<StreamView>,
    pub(super) cluster: String,
    pub(super) version: String,
    /// What every member knows.
    pub(super) level: Option<u32>,
    pub(super) entries_appended: Option<u64>,
    pub(super) entries_applied: Option<u64>,
    pub(super) tombstones: Option<u64>,
    pub(super) journal_bytes: Option<u64>,
    pub(super) store_bytes: Option<u64>,
    pub(super) disk_free_bytes: Option<u64>,
    pub(super) process: Option<Process>,
    pub(super) witness: bool,
    pub(super) lease: Option<Lease>,
    pub(super) automatic: Option<bool>,
    pub(super) why_not_automatic: Option<String>,
    pub(super) durability: Option<String>,
    /// Every data site takes appends, and the primary coordinates.
    pub(super) active_active: Option<bool>,
    pub(super) partition_policy: Option<String>,
    pub(super) leader: Option<String>,
    /// Null: no leader was ever heard.
    pub(super) leader_age_ms: Option<u64>,
    pub(super) quorum: Option<String>,
    pub(super) operation: Option<Operation>,
    pub(super) warnings: Vec<String>,
    pub(super) split_brain: Option<bool>,
    pub(super) group: Option<u64>,
    pub(super) sites: Vec<Site>,
    pub(super) reach: Vec<Heard>,
    /// The site whose control process answered; null: none did.
    pub(super) answered_by: Option<String>,
    pub(super) control: Answers,
    pub(super) control_process: Option<Process>,
    pub(super) shipper: Answers,
    /// The command that comes next; empty: none.
    pub(super) next: String,
    #[serde(skip)]
    pub(super) lag: Lag,
    #[serde(skip)]
    pub(super) detailed: bool,
    /// It takes part in nothing: what is known of the group is of before.
    #[serde(skip)]
    pub(super) fenced_off: bool,
}

/// Whether a process of this site answers.
#[derive(Debug, Serialize)]
pub(super) struct Answers {
    pub(super) answers: bool,
    pub(super) error: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) uptime_ms: u64,
    pub(super) cpu_s: f64,
    /// Of one core, over the last 10 s; null: not known.
    pub(super) cpu_percent: Option<f64>,
    pub(super) rss_bytes: u64,
    pub(super) rss_peak_bytes: u64,
    pub(super) mapped_bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Lease {
    pub(super) held: bool,
    pub(super) left_ms: u64,
    pub(super) lease_ms: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Operation {
    pub(super) op: u64,
    pub(super) text: String,
}

/// A site as the control processes see it.
#[derive(Debug, Serialize)]
pub(super) struct Site {
    pub(super) site: String,
    pub(super) id: u32,
    pub(super) state: String,
    pub(super) why: String,
    pub(super) next: String,
    pub(super) role: String,
    pub(super) witness: bool,
    pub(super) enrolled: bool,
    pub(super) voter: bool,
    pub(super) leader: bool,
    pub(super) counts: bool,
    pub(super) node: u64,
    /// Of what is told here; null: never heard.
    pub(super) age_ms: Option<u64>,
    pub(super) reported_by: String,
    pub(super) epoch: u64,
    pub(super) floor: u64,
    pub(super) lag_ms: Option<u64>,
    pub(super) clock_skew_ms: Option<i64>,
    pub(super) rtt_us: u64,
    pub(super) version: String,
    /// What it acts as.
    pub(super) level: Option<u32>,
    pub(super) positions: Vec<Position>,
}

#[derive(Debug, Serialize)]
pub(super) struct Position {
    pub(super) stream: String,
    /// What people call it.
    #[serde(skip)]
    pub(super) name: String,
    pub(super) durable: u64,
    pub(super) applied: u64,
}

/// How long ago one site heard another.
#[derive(Debug, Serialize)]
pub(super) struct Heard {
    pub(super) from: String,
    pub(super) to: String,
    /// `control` or `shipper`.
    pub(super) processes: &'static str,
    /// Null: never.
    pub(super) age_ms: Option<u64>,
}

const fn unless_never(age_ms: u64) -> Option<u64> {
    if age_ms == NEVER { None } else { Some(age_ms) }
}

impl Process {
    const fn of(usage: &ProcessUsage) -> Self {
        Self {
            pid: usage.pid,
            uptime_ms: usage.uptime_ms,
            cpu_s: usage.cpu_s,
            cpu_percent: usage.cpu_percent,
            rss_bytes: usage.rss_bytes,
            rss_peak_bytes: usage.rss_peak_bytes,
            mapped_bytes: usage.mapped_bytes,
        }
    }
}

impl Site {
    fn all<'a>(sites: impl Iterator<Item = &'a SiteStatus> + Clone) -> Vec<Self> {
        let shown = sites.clone().flat_map(|site| &site.streams).filter_map(|state| state.durable);
        let shown = shown.map(|at| (at.site, at.incarnation));
        let names = StreamNames::new(sites.clone().map(|site| (site.site_id, site.site.clone())), shown);
        sites.map(|site| Self::of(site, &names)).collect()
    }

    fn of(site: &SiteStatus, names: &StreamNames) -> Self {
        let position = |state: &cfs_rpc::v1::StreamState| {
            let durable = state.durable.unwrap_or_default();
            Position {
                stream: format!("{}.{}", durable.site, durable.incarnation),
                name: names.name(durable.site, durable.incarnation),
                durable: durable.lsn,
                applied: state.applied_lsn,
            }
        };
        Self {
            site: site.site.clone(),
            id: site.site_id,
            state: site.state.clone(),
            why: site.why.clone(),
            next: site.next.clone(),
            role: site.role.clone(),
            witness: site.witness,
            enrolled: site.enrolled,
            voter: site.voter,
            leader: site.leader,
            counts: site.counts,
            node: site.node,
            age_ms: unless_never(site.age_ms),
            reported_by: site.reported_by.clone(),
            epoch: site.epoch,
            floor: site.floor,
            lag_ms: site.lag_known.then_some(site.lag_ms),
            clock_skew_ms: site.clock_skew_ms,
            rtt_us: site.rtt_us,
            version: site.version.clone(),
            level: known_level(site.level),
            positions: site.streams.iter().map(position).collect(),
        }
    }

    pub(super) fn positions_text(&self) -> String {
        let all: Vec<String> =
            self.positions.iter().map(|p| format!("{}@{}/{}", p.name, p.durable, p.applied)).collect();
        if all.is_empty() { "-".to_owned() } else { all.join(" ") }
    }
}

impl Heard {
    fn of(reach: &Reach) -> Self {
        Self {
            from: reach.from.clone(),
            to: reach.to.clone(),
            processes: if reach.shippers { "shipper" } else { "control" },
            age_ms: unless_never(reach.age_ms),
        }
    }
}

impl Status {
    pub(in crate::commands::replication) fn of(gathered: &Gathered, detailed: bool) -> Self {
        let picture = Picture::of(gathered);
        let answer = gathered.control.as_ref().map(|answer| &answer.body);
        let here = answer.and_then(|answer| answer.here.as_ref());
        let shipper = gathered.shipper.as_ref();
        let state_next = here.map(|here| here.next.clone()).unwrap_or_default();
        let fenced_off = answer.is_some_and(|answer| is_fenced_off(answer, &picture));
        let found = findings(gathered, &picture);
        // What stands comes before what is over, however bad that was.
        let worst =
            found.iter().find(|finding| !finding.is_past()).or(found.first()).map(|finding| finding.next.clone());
        let mut warnings = answer.map(|answer| answer.warnings.clone()).unwrap_or_default();
        warnings.extend(found.iter().filter(|one| one.is_disagreement()).map(|one| one.reason.clone()));
        let all_sites = answer.map(|answer| Site::all(answer.here.iter().chain(&answer.sites)));
        let version = answer.map(|answer| answer.version.clone()).filter(|version| !version.is_empty());
        let cluster = answer.map(|answer| answer.cluster.clone()).filter(|cluster| !cluster.is_empty());
        Self {
            next: if state_next.is_empty() { worst.unwrap_or_default() } else { state_next },
            unreachable: unreachable(gathered, &picture, detailed),
            lag_ms: picture.lag.ms(),
            lag: picture.lag,
            floor: shipper.map(|s| s.floor).or(here.map(|here| here.floor)),
            streams: shipper.map(|s| StreamView::all(&s.cursors)).unwrap_or_default(),
            cluster: cluster.or(shipper.map(|s| s.cluster.clone())).unwrap_or_default(),
            version: version.or(shipper.map(|s| s.version.clone())).unwrap_or_default(),
            level: answer.and_then(|answer| known_level(answer.level)),
            entries_appended: shipper.map(|s| s.entries_appended),
            entries_applied: shipper.map(|s| s.entries_applied),
            tombstones: shipper.map(|s| s.tombstones),
            journal_bytes: shipper.map(|s| s.journal_bytes),
            store_bytes: shipper.map(|s| s.store_bytes),
            disk_free_bytes: shipper.map(|s| s.disk_free_bytes),
            process: shipper.and_then(|s| s.process.as_ref()).map(Process::of),
            lease: answer.and_then(|answer| answer.lease.as_ref()).map(|lease| Lease {
                held: lease.held,
                left_ms: lease.left_ms,
                lease_ms: lease.lease_ms,
            }),
            automatic: answer.map(|answer| answer.automatic).filter(|_| picture.state != REMOVED && !fenced_off),
            why_not_automatic: answer
                .map(|answer| answer.why_not_automatic.clone())
                .filter(|_| picture.state != REMOVED && !fenced_off),
            durability: answer.map(|answer| answer.durability.clone()),
            leader: answer.map(|answer| answer.leader.clone()),
            leader_age_ms: answer.and_then(|answer| unless_never(answer.leader_age_ms)),
            active_active: answer.map(|answer| answer.active_active),
            partition_policy: answer.map(|answer| answer.partition_policy.clone()),
            quorum: answer.map(|answer| answer.quorum.clone()),
            operation: answer.and_then(operation),
            warnings,
            split_brain: answer.map(|answer| answer.split_brain),
            group: answer.map(|answer| answer.group),
            sites: all_sites.unwrap_or_default(),
            reach: answer.map(|answer| answer.reach.iter().map(Heard::of).collect()).unwrap_or_default(),
            answered_by: gathered.control.as_ref().map(|answer| answer.by.clone()),
            control: Answers { answers: gathered.control.is_some(), error: gathered.control_error.clone() },
            control_process: answer.and_then(|answer| answer.process.as_ref()).map(Process::of),
            shipper: Answers { answers: shipper.is_some(), error: gathered.shipper_error.clone() },
            detailed,
            fenced_off,
            site: picture.site,
            status: picture.state,
            why: picture.why,
            role: picture.role,
            primary: picture.primary,
            epoch: picture.epoch,
            witness: picture.witness,
            peers: picture.peers,
        }
    }
}

fn known_level(level: u32) -> Option<u32> {
    (level > 0).then_some(level)
}

fn operation(answer: &StatusAnswer) -> Option<Operation> {
    (answer.op != 0).then(|| Operation { op: answer.op, text: answer.op_text.clone() })
}

/// Sites that could not be asked; where nobody was asked, those of which nothing recent is known.
fn unreachable(gathered: &Gathered, picture: &Picture, asked: bool) -> Vec<String> {
    let told = gathered.control.as_ref().map(|answer| answer.unreachable.clone()).unwrap_or_default();
    let mut all = if asked && gathered.control.is_some() { told } else { [told, picture.silent()].concat() };
    all.sort();
    all.dedup();
    all
}
