//! A rolling upgrade: sites that act as the version before work with those of this one.

use crate::harness::{Cluster, PATIENCE, eventually, quiet};
use crate::load::{Load, RATE};

impl Cluster {
    /// The level that a site acts as from its next start on; `None`: that of its version.
    fn act_as(&self, site: &str, level: Option<u32>) {
        let path = self.path(site, "repl.toml");
        let text = std::fs::read_to_string(&path).expect("a configuration");
        let lines = text.lines().filter(|line| !line.starts_with("level = "));
        let set = level.map(|level| format!("level = {level}"));
        let lines = lines.flat_map(|line| [Some(line.to_owned()), set.clone().filter(|_| line == "[cluster]")]);
        let lines: Vec<String> = lines.flatten().collect();
        std::fs::write(path, lines.join("\n")).expect("written");
    }

    /// The leadership may be on the move after a restart.
    fn expect_refused(&self, at: &str, words: &[&str], why: &str) {
        eventually("it to be refused for the level", PATIENCE, || {
            let said = self.admin(at, words).failed();
            if said.contains(why) { Ok(()) } else { Err(said) }
        });
    }

    fn level(&self, site: &str) -> u64 {
        self.admin(site, &["status", "-o", "json"]).json()["level"].as_u64().expect("a level")
    }
}

/// What the older version does not know waits until both processes of every site know it; no append fails meanwhile, and
/// there is no way back into a cluster that has gone on. Invariants 1, 4 and 8.
#[test]
fn what_only_the_newer_version_knows_waits_for_the_last_site() {
    let _alone = quiet();
    let cluster = Cluster::bare("site-a,site-b", Some("site-w"));
    for site in ["site-a", "site-b", "site-w"] {
        cluster.act_as(site, Some(1));
        cluster.start(site);
    }
    cluster.admin("site-b", &["enroll", "--primary", "site-a"]).ok();
    cluster.admin("site-w", &["enroll", "--witness", "--primary", "site-a"]).ok();
    cluster.wait_ready();
    let load = Load::start(&cluster, "site-a", "local", RATE);
    let on = ["config", "--active-active-mode", "on"];
    let policy = ["config", "--partition-policy", "continue"];
    for site in ["site-b", "site-w", "site-a"] {
        assert_eq!(cluster.level("site-a"), 1);
        cluster.expect_refused("site-a", &on, "acts as level 1");
        cluster.expect_refused("site-b", &policy, "waits until every site knows level 2");
        cluster.act_as(site, None);
        cluster.dev(&["restart", site]).ok();
        cluster.wait_ready();
    }
    eventually("the cluster to go on", PATIENCE, || {
        let level = cluster.level("site-b");
        if level == 2 { Ok(()) } else { Err(format!("level {level}\n{}", cluster.logs())) }
    });
    cluster.admin("site-b", &policy).ok();
    let outcome = load.finish();
    cluster.converge();
    cluster.expect_nothing_missing(&outcome);

    cluster.act_as("site-b", Some(1));
    let _ = cluster.dev(&["restart", "site-b"]);
    let why = "the cluster works at level 2, this site acts as level 1";
    eventually("the older version to end with the reason", PATIENCE, || {
        let log = cluster.control_log("site-b");
        if log.contains(why) { Ok(()) } else { Err(log) }
    });
    cluster.act_as("site-b", None);
    cluster.dev(&["restart", "site-b"]).ok();
    cluster.wait_ready();
    cluster.converge();
}
