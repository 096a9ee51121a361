//! The runbook's table of metrics: each figure with what is healthy, a warning and critical. Pure.

use cfs_rpc::v1::{MachineUsage, ProcessUsage, StatusReply};
use serde::Serialize;

use super::checks::{LAG_CRITICAL_MS, LAG_WARNING_MS, SKEW_MS};
use super::cluster::is_outside;
use super::finding::{self as code, Finding, Level};
use super::journal::{LARGE_BYTES, TOO_LARGE_BYTES};
use crate::commands::replication::gather::Gathered;
use crate::commands::replication::picture::{DOWN, Picture};

/// A build without optimisation, as tests run it, takes several times as much to do the same.
const CPU_FACTOR: f64 = if cfg!(debug_assertions) { 10.0 } else { 1.0 };
/// Errors are counted over so many minutes.
const ERROR_MINUTES: f64 = 5.0;

/// From where on a figure is no longer good.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) code: &'static str,
    pub(super) metric: &'static str,
    pub(super) unit: &'static str,
    warning: f64,
    /// `None`: it is never critical.
    critical: Option<f64>,
    /// Less is worse.
    below: bool,
    /// The worst level that it leads to by itself.
    worst: Level,
    /// From this level on it is among what is wrong; below it stands in the table alone.
    told_from: Level,
    impact: &'static str,
    next: &'static str,
}

const fn above(
    code: &'static str,
    metric: &'static str,
    unit: &'static str,
    warning: f64,
    critical: Option<f64>,
) -> Limits {
    let (worst, told_from) = (Level::Critical, Level::Warning);
    Limits { code, metric, unit, warning, critical, below: false, worst, told_from, impact: "", next: "" }
}

const LAG: Limits = above(code::LAG, "replication lag", "ms", LAG_WARNING_MS as f64, Some(LAG_CRITICAL_MS as f64));
const SKEW: Limits = above(code::CLOCK_SKEW, "clock skew", "ms", SKEW_MS as f64, None);
const JOURNAL: Limits =
    above(code::JOURNAL_LARGE, "journal size", "GB", LARGE_BYTES as f64 / 1e9, Some(TOO_LARGE_BYTES as f64 / 1e9));
const ERRORS: Limits = Limits {
    // A restart or an enrolment leaves one or two, and is over when they are counted.
    told_from: Level::Critical,
    impact: "something wants a look; each episode counts once, for five minutes",
    next: "cfs admin replication metrics | grep errors_by_kind, and journalctl -u claudefs-shipper -p warning",
    ..above(code::ERRORS, "error rate", "/min", 0.0, Some(1.0))
};
const CONFLICTS: Limits = Limits {
    impact: "sites wrote the same at the same time, and not the same value; what lost is in the audit trail",
    next: "cfs admin replication audit --filter conflict",
    ..above(code::CONFLICTS, "conflicts", "/h", 5.0, Some(20.0))
};
const LATENCY: Limits = Limits {
    impact: "acknowledgements by other sites and changes of primary take that much longer",
    next: "cfs preflight",
    ..above(code::LATENCY, "network latency", "ms", 50.0, Some(200.0))
};
const CPU: Limits = Limits {
    worst: Level::Warning,
    impact: "none by itself, while lag and refusals are low",
    next: "cfs admin replication metrics summary",
    ..above(code::CPU, "CPU", "%", 5.0 * CPU_FACTOR, Some(10.0 * CPU_FACTOR))
};
const MEMORY: Limits = Limits {
    impact: "the machine may run short of memory",
    next: "cfs admin replication metrics | grep memory; if it keeps growing: cfs admin replication debug bundle",
    ..above(code::PROCESS_MEMORY, "memory", "MB", 100.0, Some(300.0))
};
const DISK: Limits = Limits {
    impact: "once it is nearly full the site is read-only",
    next: "df -h /var/claudefs; cfs admin replication journal-status",
    ..above(code::DISK_USED, "disk used", "%", 80.0, Some(90.0))
};
const AVAILABLE: Limits = Limits {
    below: true,
    impact: "the store is read from the disk more often, and processes may be ended for lack of memory",
    next: "free -h; give the machine more memory, or move other work away",
    ..above(code::MACHINE_MEMORY, "memory available", "GB", 2.0, Some(0.5))
};

impl Limits {
    fn level(&self, value: f64) -> Level {
        let beyond = |limit: f64| if self.below { value < limit } else { value > limit };
        let level = match self.critical {
            Some(critical) if beyond(critical) => Level::Critical,
            _ if beyond(self.warning) => Level::Warning,
            _ => Level::Ok,
        };
        level.min(self.worst)
    }

    /// What is healthy, a warning and critical, in words.
    fn words(&self) -> [String; 3] {
        let (unit, warning) = (self.unit, self.warning);
        let space = if unit.starts_with(['/', '%']) { "" } else { " " };
        let (good, bad) = if self.below { (">=", "<") } else { ("<=", ">") };
        let critical = self.critical.map_or_else(|| "-".to_owned(), |limit| format!("{bad}{limit}{space}{unit}"));
        let healthy = if warning == 0.0 { format!("0{space}{unit}") } else { format!("{good}{warning}{space}{unit}") };
        [healthy, format!("{bad}{warning}{space}{unit}"), critical]
    }
}

/// One figure.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    metric: &'static str,
    /// The site; and the process, where it is one's.
    pub(super) of: String,
    /// Null: not known.
    value: Option<f64>,
    unit: &'static str,
    healthy: String,
    warning: String,
    critical: String,
    pub(super) level: Level,
    #[serde(skip)]
    site: String,
    #[serde(skip)]
    limits: &'static Limits,
}

impl Row {
    fn new(limits: &'static Limits, site: &str, process: &str, value: Option<f64>) -> Self {
        let [healthy, warning, critical] = limits.words();
        Self {
            metric: limits.metric,
            of: if process.is_empty() { site.to_owned() } else { format!("{site} {process}") },
            value,
            unit: limits.unit,
            healthy,
            warning,
            critical,
            level: value.map_or(Level::Unknown, |value| limits.level(value)),
            site: site.to_owned(),
            limits,
        }
    }

    fn number(&self) -> String {
        let space = if self.unit.starts_with(['/', '%']) { "" } else { " " };
        self.value.map_or_else(|| "n/a".to_owned(), |value| format!("{}{space}{}", short(value), self.unit))
    }

    /// As the table shows it.
    pub(super) fn cells(&self) -> [String; 7] {
        let text = |text: &str| text.to_owned();
        let (healthy, warning, critical) = (text(&self.healthy), text(&self.warning), text(&self.critical));
        [text(self.metric), text(&self.of), self.number(), healthy, warning, critical, text(self.level.text())]
    }

    /// What is wrong, if it is nothing that another check finds.
    fn finding(&self) -> Option<Finding> {
        if self.level < self.limits.told_from || self.limits.impact.is_empty() {
            return None;
        }
        let critical = match self.limits.worst {
            Level::Critical => format!("{} critical", self.critical),
            _ => "alone it is never critical".to_owned(),
        };
        Some(Finding {
            code: self.limits.code,
            level: self.level,
            site: self.site.clone(),
            reason: format!(
                "{} of {} is {}; {} is a warning, {critical}",
                self.metric,
                self.of,
                self.number(),
                self.warning
            ),
            impact: self.limits.impact.to_owned(),
            next: self.limits.next.to_owned(),
        })
    }
}

/// Two decimals at most.
fn short(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// All figures: those of this site's processes and machine, and of every other site as far as it is known here.
pub(super) fn rows(gathered: &Gathered, picture: &Picture) -> Vec<Row> {
    let site = picture.site.as_str();
    let mut rows = Vec::new();
    if !picture.witness {
        rows.push(Row::new(&LAG, site, "", picture.lag.ms().map(|ms| ms as f64)));
    }
    for peer in picture.peers.iter().filter(|peer| !peer.witness) {
        // What was heard long ago is no lag of now.
        let lag_ms = peer.lag_ms.filter(|_| peer.fresh && peer.state != DOWN);
        rows.push(Row::new(&LAG, &peer.site, "", lag_ms.map(|ms| ms as f64)));
    }
    let shipper = gathered.shipper.as_ref();
    if !picture.witness {
        let counted = |count: fn(&StatusReply) -> Option<u64>| shipper.and_then(count).map(|count| count as f64);
        let errors = counted(|shipper| shipper.errors_5min);
        rows.push(Row::new(&ERRORS, site, "", errors.map(|errors| errors / ERROR_MINUTES)));
        rows.push(Row::new(&CONFLICTS, site, "", counted(|shipper| shipper.conflicts_1h)));
    }
    for peer in &picture.peers {
        let known = Some(peer.rtt_us).filter(|rtt| *rtt > 0 && peer.fresh && peer.state != DOWN);
        rows.push(Row::new(&LATENCY, &peer.site, "", known.map(|us| us as f64 / 1e3)));
    }
    if !picture.witness {
        rows.push(Row::new(&JOURNAL, site, "", shipper.map(|shipper| shipper.journal_bytes as f64 / 1e9)));
    }
    let answer = gathered.control.as_ref().map(|answer| &answer.body);
    let mut processes = vec![("control", answer.and_then(|answer| answer.process.as_ref()))];
    if !picture.witness {
        processes.insert(0, ("shipper", shipper.and_then(|shipper| shipper.process.as_ref())));
    }
    for (process, usage) in &processes {
        rows.push(Row::new(&CPU, site, process, usage.and_then(|usage| usage.cpu_percent)));
    }
    for (process, usage) in &processes {
        rows.push(Row::new(&MEMORY, site, process, usage.and_then(memory_mb)));
    }
    if let Some(answer) = answer.filter(|answer| !is_outside(answer, picture)) {
        for other in &answer.sites {
            let heard = picture.peers.iter().any(|peer| peer.site == other.site && peer.fresh && peer.state != DOWN);
            let skew_ms = other.clock_skew_ms.filter(|_| heard).map(|ms| ms.unsigned_abs() as f64);
            rows.push(Row::new(&SKEW, &other.site, "", skew_ms));
        }
    }
    let machine = shipper.and_then(|shipper| shipper.machine).or(answer.and_then(|answer| answer.machine));
    rows.push(Row::new(&DISK, site, "", machine.and_then(disk_used)));
    rows.push(Row::new(&AVAILABLE, site, "", machine.and_then(available_gb)));
    rows
}

/// What is wrong by the table alone.
pub(super) fn findings(gathered: &Gathered, picture: &Picture) -> Vec<Finding> {
    rows(gathered, picture).iter().filter_map(Row::finding).collect()
}

/// A process uses some: 0 is that of one that does not tell.
fn memory_mb(usage: &ProcessUsage) -> Option<f64> {
    (usage.rss_bytes > 0).then_some(usage.rss_bytes as f64 / 1e6)
}

/// As df counts.
fn disk_used(machine: MachineUsage) -> Option<f64> {
    let all = machine.disk_used_bytes.saturating_add(machine.disk_free_bytes);
    (all > 0).then(|| machine.disk_used_bytes as f64 * 100.0 / all as f64)
}

fn available_gb(machine: MachineUsage) -> Option<f64> {
    (machine.memory_total_bytes > 0).then_some(machine.memory_available_bytes as f64 / 1e9)
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
