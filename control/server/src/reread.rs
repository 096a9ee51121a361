//! SIGHUP: the configuration file is read again.

use cfs_config::{Config, Difference, Reread};

use crate::control::Control;

/// What this process takes over while it runs: what it uses itself, and what it shows of the shipper's.
const LIVE: &[&str] = &[
    "control.pre_promote",
    "control.hook_timeout_ms",
    "control.handover_ms",
    "control.restart_grace_ms",
    "log.filter",
    "replication.compression",
    "replication.batch_size",
    "replication.batch_timeout_ms",
    "replication.worker_threads",
    "replication.durability",
    "replication.sync_fallback",
    "journal.retention",
    "journal.retention_bytes",
    "audit.retention",
    "audit.retention_bytes",
];

/// Keys that only the shipper acts on.
const SHIPPERS: &[&str] = &["replication.", "journal.", "audit.", "store.", "disk.", "listen.shipper_http"];

/// Takes over what can be, and says what became of each key that differs.
pub(crate) fn take(control: &Control, now: Config) -> Vec<String> {
    let last = control.own();
    let found = Reread::of(&control.config, &last, &now, LIVE);
    // What the shipper alone uses is its own to tell.
    let own = |found: &&Difference| !SHIPPERS.iter().any(|part| found.key.starts_with(part));
    let mut said: Vec<String> = found.taken.iter().filter(own).map(Difference::taken).collect();
    said.extend(found.restart.iter().filter(own).map(|found| found.waits_for("claudefs-control")));
    said.extend(found.cluster.iter().map(Difference::held));
    control.set_own(now);
    said
}
