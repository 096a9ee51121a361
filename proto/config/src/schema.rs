//! Every key, in the order in which they are printed.

use cfs_model::Level;

use crate::period::Period;
use crate::size::ByteSize;

/// What a value must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A site's name.
    SiteName,
    /// 32 hex digits as 8-4-4-4-12.
    ClusterId,
    /// Text of some characters at least.
    Text,
    /// An absolute path.
    Path,
    /// An absolute path, or empty for none.
    PathOrNone,
    /// `HOST:PORT`.
    Address,
    /// `HOST:PORT`, or empty for off.
    AddressOrOff,
    /// A whole number in a range, both ends included.
    Number(u64, u64),
    /// A number of bytes in a range, both ends included.
    Size(ByteSize, ByteSize),
    /// A length of time in a range, both ends included.
    Period(Period, Period),
    /// none, lz4, zstd, zstd:LEVEL.
    Codec,
    /// local, remote(K).
    Durability,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    /// `SECTION.NAME`.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) default: Preset,
}

/// What a key is when nobody sets it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Preset {
    /// It must be set.
    Required,
    /// It follows from other keys.
    Derived,
    /// This text.
    Value(&'static str),
}

const fn key(name: &'static str, kind: Kind, default: Preset) -> Key {
    Key { name, kind, default }
}

const MAX_MS: u64 = 10_000;
/// Ten years.
const MAX_RETENTION: Period = Period::days(3650);
const MAX_CONTROL_MS: u64 = 60_000;
const MAX_HANDOVER_MS: u64 = 3_600_000;
/// What a site is.
const KIND: Kind = Kind::Choice(&["data", "witness"]);
const SWITCH: Kind = Kind::Choice(&["on", "off"]);
/// The largest number of a site.
pub(crate) const MAX_SITE: u64 = 255;

use Preset::{Derived, Required, Value};

/// All keys outside of `[[peers]]`.
pub(crate) const KEYS: &[Key] = &[
    key("site.name", Kind::SiteName, Required),
    key("site.id", Kind::Number(1, MAX_SITE), Required),
    key("site.kind", KIND, Value("data")),
    key("site.priority", Kind::Number(0, 255), Value("100")),
    key("cluster.id", Kind::ClusterId, Required),
    // A site may act as an earlier version, so that its cluster can go back to that one.
    key("cluster.level", Kind::Number(Level::OLDEST.0 as u64, Level::THIS.0 as u64), Value("2")),
    key("paths.state", Kind::Path, Value("/var/claudefs")),
    key("paths.run", Kind::Path, Value("/run/claudefs")),
    key("paths.journal", Kind::Path, Derived),
    key("paths.meta", Kind::Path, Derived),
    key("paths.audit", Kind::Path, Derived),
    key("paths.control", Kind::Path, Derived),
    key("paths.tls", Kind::Path, Derived),
    key("listen.peer", Kind::Address, Value("0.0.0.0:9500")),
    key("listen.control", Kind::Address, Value("0.0.0.0:9501")),
    key("listen.http", Kind::AddressOrOff, Value("0.0.0.0:9502")),
    key("listen.shipper_http", Kind::AddressOrOff, Value("0.0.0.0:9503")),
    key("listen.producer", Kind::AddressOrOff, Value("0.0.0.0:9504")),
    key("replication.compression", Kind::Codec, Value("lz4")),
    key("replication.batch_size", Kind::Number(1, 65_536), Value("500")),
    key("replication.batch_timeout_ms", Kind::Number(0, MAX_MS), Value("100")),
    key("replication.worker_threads", Kind::Number(0, 256), Value("0")),
    key("replication.durability", Kind::Durability, Value("local")),
    key("replication.sync_fallback", Kind::Choice(&["block", "degrade"]), Value("block")),
    key("replication.heartbeat_ms", Kind::Number(10, MAX_MS), Value("100")),
    // The most is what a receiver ever grants.
    key("replication.credit", Kind::Size(ByteSize::mib(1), ByteSize::mib(32)), Value("32MiB")),
    // 0: a new site copies the store whatever the journal takes.
    key("replication.snapshot_above", Kind::Size(ByteSize::mib(0), ByteSize::mib(16 << 20)), Value("64MiB")),
    key("journal.segment", Kind::Size(ByteSize::mib(1), ByteSize::mib(1 << 10)), Value("64MiB")),
    key("journal.retention", Kind::Period(Period(1), MAX_RETENTION), Value("7d")),
    key("journal.retention_bytes", Kind::Size(ByteSize::mib(1), ByteSize::mib(16 << 20)), Value("4GiB")),
    key("audit.retention", Kind::Period(Period(1), MAX_RETENTION), Value("90d")),
    key("audit.retention_bytes", Kind::Size(ByteSize::mib(1), ByteSize::mib(1 << 20)), Value("1GiB")),
    key("store.map", Kind::Size(ByteSize::mib(64), ByteSize::mib(16 << 20)), Value("1TiB")),
    key("disk.reserve", Kind::Size(ByteSize::mib(1), ByteSize::mib(1 << 20)), Value("64MiB")),
    key("control.restart_grace_ms", Kind::Number(0, MAX_CONTROL_MS), Value("1000")),
    key("control.lease_ms", Kind::Number(300, MAX_CONTROL_MS), Value("1000")),
    key("control.auto_rejoin", SWITCH, Value("on")),
    key("control.auto_failover", SWITCH, Value("on")),
    key("control.partition_policy", Kind::Choice(&["fence", "continue"]), Value("fence")),
    key("control.pre_promote", Kind::PathOrNone, Derived),
    key("control.post_role_change", Kind::PathOrNone, Derived),
    key("control.hook_timeout_ms", Kind::Number(100, MAX_CONTROL_MS), Value("5000")),
    key("control.handover_ms", Kind::Number(0, MAX_HANDOVER_MS), Value("45000")),
    key("control.group", Kind::Text, Value("claudefs")),
    key("log.filter", Kind::Text, Value("info")),
    key("log.format", Kind::Choice(&["text", "json"]), Value("text")),
];

/// Keys of each table of `[[peers]]`.
pub(crate) const PEER_KEYS: &[Key] = &[
    key("name", Kind::SiteName, Required),
    key("id", Kind::Number(1, MAX_SITE), Required),
    key("kind", KIND, Value("data")),
    // A witness has no shipper; of the others it is required.
    key("peer", Kind::Address, Derived),
    key("control", Kind::Address, Required),
    key("producer", Kind::Address, Derived),
];

/// Prefix of every variable.
pub(crate) const ENV_PREFIX: &str = "CFS_";

impl Key {
    /// The variable that sets it.
    pub(crate) fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.name.replacen('.', "__", 1).to_uppercase())
    }
}

/// Whether a section of this name exists.
pub(crate) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.split_once('.').is_some_and(|(section, _)| section == name))
}

/// ", did you mean X?" for the known name nearest to `given`, or nothing if none is near.
pub(crate) fn suggestion<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    // Comparing costs the product of both lengths, and nothing that long is a slip of the finger.
    if given.len() > 64 {
        return String::new();
    }
    let near = known.into_iter().map(|name| (distance(given, name), name)).min();
    match near {
        Some((steps, name)) if steps <= 2 + name.len() / 8 => format!(", did you mean {name}?"),
        _ => String::new(),
    }
}

/// Insertions, removals and replacements between two texts.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, above) in b.iter().zip(row.iter_mut().skip(1)) {
            let cost = (diagonal + usize::from(x != *y)).min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, cost);
            left = cost;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
