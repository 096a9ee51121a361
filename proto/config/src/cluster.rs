//! Settings that the cluster can hold for all of its sites. Where it holds one, each site's own file stands back.
//!
//! They travel as text, by name, so that a value of a version that knows more can be kept by one that knows less.

use std::collections::BTreeMap;

use cfs_model::Level;
use cfs_shipper_core::codec::Codec;

use crate::config::{Config, SyncFallback};
use crate::durability::Durability;
use crate::period::Period;
use crate::resolve::check;
use crate::schema::{KEYS, Key, Kind, Preset, suggestion};
use crate::size::ByteSize;

/// Values by name, as the cluster holds them.
pub type Values = BTreeMap<String, String>;

/// When a new value holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// At once, on every site that hears it.
    Live,
    /// When a site's shipper starts the next time.
    ShipperStart,
}

/// Where a value lives when no operator has set it for the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// In the file of each site.
    File,
    /// In the cluster, which read it from the founder's file once.
    Cluster,
}

/// One setting of the cluster.
#[derive(Debug, Clone, Copy)]
pub struct ClusterSetting {
    /// Its name, as in `audit_retention`.
    pub name: &'static str,
    /// The key of the configuration file, as in `audit.retention`.
    pub key: &'static str,
    /// When a new value holds.
    pub effect: Effect,
    /// Where its value lives before it is set.
    pub home: Home,
    /// It waits until every site knows this level.
    pub since: Level,
}

const fn setting(name: &'static str, key: &'static str, effect: Effect, home: Home) -> ClusterSetting {
    ClusterSetting { name, key, effect, home, since: Level::FIRST }
}

/// All of them, in the order in which they are printed.
pub const SETTINGS: &[ClusterSetting] = &[
    setting("compression", "replication.compression", Effect::Live, Home::File),
    setting("batch_size", "replication.batch_size", Effect::Live, Home::File),
    setting("batch_timeout_ms", "replication.batch_timeout_ms", Effect::Live, Home::File),
    setting("worker_threads", "replication.worker_threads", Effect::ShipperStart, Home::File),
    setting("durability", "replication.durability", Effect::Live, Home::Cluster),
    setting("sync_fallback", "replication.sync_fallback", Effect::Live, Home::File),
    setting("journal_retention", "journal.retention", Effect::Live, Home::File),
    setting("journal_retention_bytes", "journal.retention_bytes", Effect::Live, Home::File),
    setting("audit_retention", "audit.retention", Effect::Live, Home::File),
    setting("audit_retention_bytes", "audit.retention_bytes", Effect::Live, Home::File),
    setting("lease_ms", "control.lease_ms", Effect::Live, Home::Cluster),
    setting("restart_grace_ms", "control.restart_grace_ms", Effect::Live, Home::File),
    setting("auto_rejoin", "control.auto_rejoin", Effect::Live, Home::Cluster),
    setting("auto_failover", "control.auto_failover", Effect::Live, Home::Cluster),
    ClusterSetting {
        since: Level::ACTIVE_ACTIVE,
        ..setting("partition_policy", "control.partition_policy", Effect::Live, Home::Cluster)
    },
];

/// Longest name of a setting and longest value that is kept, known or not.
pub const MAX_TEXT_BYTES: usize = 256;
/// Most settings that are kept, known or not.
pub const MAX_SETTINGS: usize = 256;

/// The setting of this name.
pub fn find(name: &str) -> Option<&'static ClusterSetting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// Why a name is not known, and the nearest that is.
pub fn unknown(name: &str) -> String {
    let name: String = name.chars().take(64).collect();
    let near = suggestion(&name, SETTINGS.iter().map(|setting| setting.name));
    format!("{name} is no setting of the cluster{near}")
}

impl ClusterSetting {
    /// The value as it is kept and printed.
    ///
    /// # Errors
    /// Why it cannot be one, with what could.
    pub fn check(&self, text: &str) -> Result<String, String> {
        let kind = self.kind().ok_or_else(|| unknown(self.name))?;
        check(kind, text)?;
        Ok(canonical(kind, text))
    }

    /// What it is when nobody sets it.
    pub fn default_value(&self) -> &'static str {
        match key(self.key).map(|key| key.default) {
            Some(Preset::Value(text)) => text,
            _ => "",
        }
    }

    /// What it may be, in words.
    pub fn range(&self) -> String {
        match self.kind() {
            Some(Kind::Number(least, most)) => format!("{least} to {most}"),
            Some(Kind::Size(least, most)) => format!("{least} to {most}"),
            Some(Kind::Period(least, most)) => format!("{least} to {most}"),
            Some(Kind::Choice(words)) => words.join(" or "),
            Some(Kind::Codec) => "none, lz4, zstd, zstd:1 to zstd:19".into(),
            Some(Kind::Durability) => "local, remote(1) to remote(254)".into(),
            _ => String::new(),
        }
    }

    fn kind(&self) -> Option<Kind> {
        key(self.key).map(|key| key.kind)
    }
}

fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// A value that was checked, in the one way in which it is printed.
pub(crate) fn canonical(kind: Kind, text: &str) -> String {
    match kind {
        Kind::Size(..) => text.parse().map_or_else(|_| text.to_owned(), |size: ByteSize| size.to_string()),
        Kind::Period(..) => text.parse().map_or_else(|_| text.to_owned(), |period: Period| period.to_string()),
        Kind::Number(..) => text.parse().map_or_else(|_| text.to_owned(), |number: u64| number.to_string()),
        Kind::Codec => text.parse().map_or_else(|_| text.to_owned(), |codec: Codec| codec.to_string()),
        _ => text.to_owned(),
    }
}

/// What is in force at a site's shipper: the cluster's value, else the site's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// Compression of new batches.
    pub compression: Codec,
    /// Most entries in a batch.
    pub batch_size: u32,
    /// Longest time that a batch gathers entries while the disk is busy.
    pub batch_timeout_ms: u64,
    /// Threads; 0 is one for each core.
    pub worker_threads: usize,
    /// What every producer of this site gets at least.
    pub durability: Durability,
    /// What happens while that cannot be reached.
    pub sync_fallback: SyncFallback,
    /// Segments whose entries are older go, once nobody needs them.
    pub journal_retention: Period,
    /// Size that the journal is kept below, once nobody needs what is above it.
    pub journal_retention_bytes: u64,
    /// Audit records that are older go.
    pub audit_retention: Period,
    /// Size that the audit trail is kept below.
    pub audit_retention_bytes: u64,
}

impl InForce {
    /// The values of `cluster` over those of `config`. A value that does not read, which only a newer version can have
    /// set, leaves the site's own in force.
    pub fn of(config: &Config, cluster: &Values) -> Self {
        fn read<T: std::str::FromStr>(cluster: &Values, name: &str, own: T) -> T {
            let setting = cluster.get(name).zip(find(name));
            let checked = setting.and_then(|(text, setting)| setting.check(text).ok());
            checked.and_then(|text| text.parse().ok()).unwrap_or(own)
        }
        let own = &config.replication;
        let bytes = |name, own| read(cluster, name, ByteSize(own)).bytes();
        // The cluster's durability reaches a shipper as the rules by which it acknowledges.
        let durability = if cluster.contains_key("durability") { Durability::Local } else { own.durability };
        let fallback = match cluster.get("sync_fallback").map(String::as_str) {
            Some("block") => SyncFallback::Block,
            Some("degrade") => SyncFallback::Degrade,
            _ => own.sync_fallback,
        };
        Self {
            compression: read(cluster, "compression", own.compression),
            batch_size: read(cluster, "batch_size", own.batch_size),
            batch_timeout_ms: read(cluster, "batch_timeout_ms", own.batch_timeout_ms),
            worker_threads: read(cluster, "worker_threads", own.worker_threads),
            durability,
            sync_fallback: fallback,
            journal_retention: read(cluster, "journal_retention", config.journal.retention),
            journal_retention_bytes: bytes("journal_retention_bytes", config.journal.retention_bytes),
            audit_retention: read(cluster, "audit_retention", config.audit.retention),
            audit_retention_bytes: bytes("audit_retention_bytes", config.audit.retention_bytes),
        }
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
