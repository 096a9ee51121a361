//! What may be wrong, each with its stable code. docs/status.md explains them; a test keeps that page in step.

use serde::Serialize;

/// How bad it is; the worst finding is the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(in crate::commands::replication) enum Level {
    /// Nothing is wrong.
    Ok,
    /// It cannot be said.
    Unknown,
    /// It goes on, with less in reserve than there should be.
    Warning,
    /// Data or writes are in danger, or writes stand still.
    Critical,
}

impl Level {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Unknown => "UNKNOWN",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
        }
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::commands::replication) struct Finding {
    /// `CFS-H…`.
    pub(in crate::commands::replication) code: &'static str,
    pub(in crate::commands::replication) level: Level,
    /// The site it concerns; empty: the cluster.
    pub(in crate::commands::replication) site: String,
    pub(in crate::commands::replication) reason: String,
    pub(in crate::commands::replication) impact: String,
    /// The command or the step that comes next.
    pub(in crate::commands::replication) next: String,
}

/// Whose word a check rests on; without it nothing is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rests {
    /// Whoever answers.
    Anybody,
    /// The control process of a member.
    Control,
    /// The shipper.
    Shipper,
    /// Both processes: each sees a part.
    Both,
}

use Rests::{Anybody, Both, Control, Shipper};

/// Everything that is checked: code, what holds when all is well, and on whose word.
pub(super) const CHECKS: &[(&str, &str, Rests)] = &[
    (SITE_DOWN, "every data site is up", Anybody),
    (NO_QUORUM, "the control processes have a quorum", Control),
    (NO_LEASE, "the primary holds its lease", Control),
    (NOT_AUTOMATIC, "failover is automatic", Control),
    (LAG, "lag is below 500ms everywhere", Anybody),
    (SPLIT_BRAIN, "no other group acts for this cluster", Control),
    (SITE_FENCED, "no site is fenced", Control),
    (WITNESS_DOWN, "every witness is up", Control),
    (SHIPPER_DOWN, "every data site's shipper answers", Control),
    (DISK_READ_ONLY, "no disk is full", Both),
    (CLOCK_SKEW, "clocks differ by at most 100ms", Control),
    (DURABILITY, "enough sites confirm appends", Control),
    (VERSIONS, "all sites are of one version", Control),
    (CONTROL_DOWN, "every control process of a data site answers", Anybody),
    (OLD_NEWS, "what is shown is recent", Control),
    (NOT_ENROLLED_YET, "every configured site is enrolled", Control),
    (STREAM_STUCK, "no stream is stuck", Shipper),
    (SITE_DIVERGED, "no site holds another history", Shipper),
    (NOT_READY, "every site is ready", Both),
    (NO_PRIMARY, "there is a primary", Anybody),
    (SITE_UNHEARD, "this site's shipper hears every other", Both),
    (NUMBERS, "sites are configured under the numbers that they are enrolled under", Control),
    (OWN_CERTIFICATES, "this site's own certificates are of use to others", Control),
    (CONTROL_WARNS, "the control process has no warning", Control),
    (JOURNAL_LARGE, "the journal takes less than 5 GB", Shipper),
    (JOURNAL_EXHAUSTION, "no site is about to fall behind what the journal keeps", Shipper),
    (NEEDS_SNAPSHOT, "no site needs a snapshot", Shipper),
    (TOMBSTONES, "removed names do not pile up", Shipper),
    (ERRORS, "at most one error a minute in the last five", Shipper),
    (CONFLICTS, "at most 5 conflicts with a loss in the last hour", Shipper),
    (LATENCY, "round trips take at most 50ms", Anybody),
    (CPU, "no process takes more than a twentieth of a core", Both),
    (PROCESS_MEMORY, "no process takes more than 100 MB", Both),
    (DISK_USED, "at most 80% of the disk are used", Anybody),
    (MACHINE_MEMORY, "at least 2 GB of memory are available", Anybody),
    (NOTHING_ANSWERS, "this site's processes answer", Anybody),
];

pub(super) const SITE_DOWN: &str = "CFS-H001";
pub(super) const NO_QUORUM: &str = "CFS-H002";
pub(super) const NO_LEASE: &str = "CFS-H003";
pub(super) const NOT_AUTOMATIC: &str = "CFS-H004";
pub(super) const LAG: &str = "CFS-H005";
pub(super) const SPLIT_BRAIN: &str = "CFS-H006";
pub(super) const SITE_FENCED: &str = "CFS-H007";
pub(super) const WITNESS_DOWN: &str = "CFS-H008";
pub(super) const SHIPPER_DOWN: &str = "CFS-H009";
pub(super) const DISK_READ_ONLY: &str = "CFS-H010";
pub(super) const CLOCK_SKEW: &str = "CFS-H011";
pub(super) const DURABILITY: &str = "CFS-H012";
pub(super) const VERSIONS: &str = "CFS-H013";
pub(super) const CONTROL_DOWN: &str = "CFS-H014";
pub(super) const OLD_NEWS: &str = "CFS-H015";
pub(super) const NOT_ENROLLED_YET: &str = "CFS-H016";
pub(super) const STREAM_STUCK: &str = "CFS-H017";
pub(super) const SITE_DIVERGED: &str = "CFS-H018";
pub(super) const NOT_READY: &str = "CFS-H019";
pub(super) const NO_PRIMARY: &str = "CFS-H020";
pub(super) const SITE_UNHEARD: &str = "CFS-H021";
pub(super) const CONTROL_WARNS: &str = "CFS-H022";
pub(super) const NOTHING_ANSWERS: &str = "CFS-H023";
pub(super) const NUMBERS: &str = "CFS-H024";
pub(super) const OWN_CERTIFICATES: &str = "CFS-H025";
pub(super) const JOURNAL_LARGE: &str = "CFS-H030";
pub(super) const JOURNAL_EXHAUSTION: &str = "CFS-H031";
pub(super) const NEEDS_SNAPSHOT: &str = "CFS-H032";
pub(super) const TOMBSTONES: &str = "CFS-H033";
pub(super) const ERRORS: &str = "CFS-H040";
pub(super) const CONFLICTS: &str = "CFS-H041";
pub(super) const LATENCY: &str = "CFS-H042";
pub(super) const CPU: &str = "CFS-H043";
pub(super) const PROCESS_MEMORY: &str = "CFS-H044";
pub(super) const DISK_USED: &str = "CFS-H045";
pub(super) const MACHINE_MEMORY: &str = "CFS-H046";

impl Finding {
    /// Whether this site's configuration and the cluster disagree: `status` says so too.
    pub(in crate::commands::replication) fn is_disagreement(&self) -> bool {
        self.code == NUMBERS
    }

    /// Whether it tells of something that is over: there may be nothing to mend any more.
    pub(in crate::commands::replication) fn is_past(&self) -> bool {
        [ERRORS, CONFLICTS].contains(&self.code)
    }
}

/// Among findings of one level, those that explain others come first, and those that others explain last.
pub(super) fn order(code: &str) -> u8 {
    match code {
        SPLIT_BRAIN | SITE_FENCED | OWN_CERTIFICATES => 0,
        NO_QUORUM | CONTROL_DOWN => 1,
        NO_LEASE | NO_PRIMARY | LAG | NOT_READY | DURABILITY | OLD_NEWS | CONTROL_WARNS | NOT_AUTOMATIC => 3,
        // What is told in figures is seldom the cause.
        ERRORS | CONFLICTS | LATENCY | CPU | PROCESS_MEMORY => 4,
        _ => 2,
    }
}
