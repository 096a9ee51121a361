//! SIGHUP: the configuration file is read again.

use cfs_config::cluster::SETTINGS;
use cfs_config::{Config, Difference, Reread};

use crate::node::Node;

/// What this process takes over while it runs.
const LIVE: &[&str] = &[
    "log.filter",
    "replication.compression",
    "replication.batch_size",
    "replication.batch_timeout_ms",
    "replication.durability",
    "replication.sync_fallback",
    "journal.retention",
    "journal.retention_bytes",
    "audit.retention",
    "audit.retention_bytes",
];

/// Takes over what can be, and says what became of each key that differs.
pub(crate) fn take(node: &Node, now: Config) -> Vec<String> {
    let last = node.settings.own();
    let found = Reread::of(&node.config, &last, &now, LIVE);
    let taken = |found: &Difference| {
        let setting = SETTINGS.iter().find(|known| known.key == found.key);
        let held = setting.is_some_and(|setting| node.settings.cluster_holds(setting.name));
        if held { found.held() } else { found.taken() }
    };
    let mut said: Vec<String> = found.taken.iter().map(taken).collect();
    // What the control process alone uses is its own to tell.
    let others = |key: &str| key.starts_with("control.") || key == "listen.control" || key == "listen.http";
    let own = found.restart.iter().filter(|found| !others(&found.key));
    said.extend(own.map(|found| found.waits_for("claudefs-shipper")));
    node.settings.reread(now);
    node.signals.role.bump();
    said
}
