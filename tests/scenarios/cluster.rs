//! What is asked of a whole cluster: who is primary, in which epoch, whether all sites agree.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, Said, eventually, http};
use crate::load::{Outcome, Tenure};

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    u64::try_from(now.as_millis()).expect("64 bits")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

impl Cluster {
    /// `cfs dev status` of every site.
    fn layouts(&self) -> Vec<Value> {
        let status = self.dev(&["status", "-o", "json"]).json();
        status["sites"].as_array().expect("sites").clone()
    }

    /// The one site that is primary, and its epoch, once there is exactly one.
    pub(crate) fn primary_and_epoch(&self) -> (String, u64) {
        eventually("exactly one site to be primary", PATIENCE, || {
            let sites = self.layouts();
            let primaries: Vec<&Value> =
                sites.iter().filter(|s| text(s, "role") == "PRIMARY" && text(s, "status") == "READY").collect();
            match primaries.as_slice() {
                [one] => Ok((text(one, "site").to_owned(), one["epoch"].as_u64().expect("an epoch"))),
                many => Err(format!("{} primaries\n{}", many.len(), self.logs())),
            }
        })
    }

    pub(crate) fn primary(&self) -> String {
        self.primary_and_epoch().0
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.primary_and_epoch().1
    }

    /// Another site that stores data.
    pub(crate) fn other(&self, site: &str) -> String {
        self.data_sites().find(|other| *other != site).expect("there are two").to_owned()
    }

    /// Waits until every site is ready, by its own word and by that of each other one, all agree on the epoch, and there is
    /// a primary and a leader.
    pub(crate) fn wait_ready(&self) {
        eventually("every site to be ready", PATIENCE, || {
            let status = self.dev(&["status", "-o", "json"]).json();
            let sites = status["sites"].as_array().expect("sites");
            let epochs: Vec<&Value> = sites.iter().map(|site| &site["epoch"]).collect();
            let ready = sites.iter().all(|site| text(site, "status") == "READY")
                && epochs.iter().all(|epoch| !epoch.is_null() && *epoch == epochs[0])
                && sites.iter().filter(|site| text(site, "role") == "PRIMARY").count() == 1
                && !text(&status, "leader").is_empty();
            if ready { Ok(()) } else { Err(format!("{status:#}\n{}", self.logs())) }
        });
        for site in self.sites() {
            eventually("every site to hear every other one", PATIENCE, || {
                let said = self.admin(site, &["status", "-o", "json"]);
                let status: Value = serde_json::from_str(&said.out).map_err(|e| format!("{e}: {said:?}"))?;
                let peers = status["peers"].as_array().ok_or("no peers")?;
                let healthy = peers.iter().all(|peer| peer["state"] == "HEALTHY");
                // Until every vote counts, a loss may leave no majority.
                let votes = !text(&status, "why_not_automatic").contains("not voting yet");
                let ready = healthy && votes && status["status"] == "READY" && status["quorum"] == "ok";
                if ready { Ok(()) } else { Err(format!("{site}: {status:#}\n{}", self.logs())) }
            });
        }
    }

    /// The site that leads the control plane.
    pub(crate) fn leader(&self) -> String {
        text(&self.dev(&["status", "-o", "json"]).json(), "leader").to_owned()
    }

    /// Moves the control plane's leadership to a site and keeps it there.
    pub(crate) fn lead(&self, site: &str, hold_s: u64) {
        let hold = hold_s.to_string();
        eventually("leadership to move", PATIENCE, || {
            let said = self.dev(&["leader", site, "--hold", &hold]);
            if said.code == 0 { Ok(()) } else { Err(format!("{}\n{}", said.err, self.logs())) }
        });
        eventually("the leader to lead", PATIENCE, || {
            let leader = self.leader();
            if leader == site { Ok(()) } else { Err(format!("{leader:?} leads\n{}", self.logs())) }
        });
    }

    /// Sends a signal to every process of a site, with nothing in between; returns when, in ms since 1970.
    pub(crate) fn signal(&self, site: &str, signal: Signal) -> u64 {
        let layout = self.layout(site);
        let pids: Vec<Pid> = ["pid", "control_pid"]
            .iter()
            .filter_map(|key| layout[key].as_i64())
            .map(|pid| Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid"))
            .collect();
        assert!(!pids.is_empty(), "nothing runs at {site}");
        let now = unix_ms();
        for pid in pids {
            kill_process(pid, signal).expect("it runs");
        }
        now
    }

    /// Sends a signal to one process of a site: `control` or `shipper`.
    pub(crate) fn signal_part(&self, site: &str, part: &str, signal: Signal) {
        let key = if part == "control" { "control_pid" } else { "pid" };
        let pid = self.layout(site)[key].as_i64().expect("it runs");
        let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("it runs");
    }

    /// `kill -9` of every process of a site at once; returns when, in ms since 1970.
    pub(crate) fn kill_at_once(&self, site: &str) -> u64 {
        let now = self.signal(site, Signal::KILL);
        // It waits until all is gone, and forgets the processes.
        self.kill(site);
        now
    }

    pub(crate) fn partition(&self, from: &str, to: &str) {
        self.dev(&["partition", from, to]).ok();
    }

    pub(crate) fn heal(&self) {
        self.dev(&["heal"]).ok();
    }

    /// `cfs admin replication WORDS` at a site.
    pub(crate) fn admin(&self, site: &str, words: &[&str]) -> Said {
        self.at(site, &[&["admin", "replication"], words].concat())
    }

    /// Orders a planned change of primary, which must succeed.
    pub(crate) fn switch_to(&self, at: &str, to: &str) -> Value {
        let said = self.admin(at, &["failover", "--to", to, "--yes", "-o", "json"]);
        assert_eq!(said.code, 0, "{said:?}\n{}", self.logs());
        said.json()
    }

    /// Waits until these sites have applied the same, and all of it.
    pub(crate) fn catch_up(&self, sites: &[&str]) {
        eventually("all sites to hold the same", 2 * PATIENCE, || {
            let all: Vec<_> = sites.iter().map(|site| self.cursors(site)).collect();
            let idle = all.iter().flatten().all(|(_, source, applied)| source == applied);
            let same = all.iter().all(|cursors| *cursors == all[0]);
            if idle && same { Ok(()) } else { Err(format!("{sites:?}: {all:?}\n{}", self.logs())) }
        });
    }

    /// Invariants 3 and 5: all data sites come to hold the same by themselves, by the word of each of them.
    pub(crate) fn converge(&self) {
        let sites: Vec<&str> = self.data_sites().collect();
        self.catch_up(&sites);
        for site in sites {
            eventually("the digests to be compared", PATIENCE, || {
                let said = self.at(site, &["admin", "meta", "consistency-check"]);
                let matches = said.code == 0 && said.out.contains("RESULT: MATCH");
                // A heartbeat may be on its way; a difference would stay.
                if matches { Ok(()) } else { Err(format!("{site}: {said:?}\n{}", self.logs())) }
            });
        }
    }

    /// How many of the acknowledged entries of a load a site lacks.
    pub(crate) fn missing(&self, site: &str, record: &std::path::Path) -> u64 {
        let record = record.to_str().expect("UTF-8");
        let said = self.at(site, &["bench", "verify", "--record", record, "-o", "json"]);
        let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
        report["missing"].as_u64().expect("a number")
    }

    /// Invariant 4: no data site lacks an acknowledged entry.
    pub(crate) fn expect_nothing_missing(&self, outcome: &Outcome) {
        for site in self.data_sites() {
            assert_eq!(self.missing(site, outcome.record()), 0, "acknowledged entries are missing at {site}");
        }
    }

    /// Changes of primary as a site knows them, oldest first.
    pub(crate) fn changes(&self, site: &str) -> Vec<Value> {
        let history = self.admin(site, &["history", "--limit", "1000", "-o", "json"]).json();
        let mut changes = history["changes"].as_array().expect("changes").clone();
        changes.sort_by_key(|change| change["began_at_ms"].as_i64());
        changes
    }

    /// Invariant 1: in each epoch one site alone acknowledged, and it is the one for which the history says it was opened.
    pub(crate) fn expect_one_primary_per_epoch(&self, site: &str, tenures: &[Tenure]) {
        let mut owners = BTreeMap::<u64, String>::new();
        for change in self.changes(site).iter().filter(|change| change["outcome"] == "opened") {
            let epoch = change["epoch_after"].as_u64().expect("an epoch");
            let to = text(change, "to").to_owned();
            assert!(owners.insert(epoch, to).is_none(), "epoch {epoch} was opened twice: {:#?}", self.changes(site));
        }
        for tenure in tenures {
            let owner = owners.entry(tenure.epoch).or_insert_with(|| tenure.site.clone());
            assert_eq!(*owner, tenure.site, "two sites acknowledged in epoch {}", tenure.epoch);
        }
    }

    /// What a control process answers to a probe: its code.
    pub(crate) fn probe(&self, site: &str, method: &str, path: &str) -> Result<u16, String> {
        http(self.port(site, "http"), method, path).map(|(code, _)| code)
    }

    /// The metric of a site's control process that says whether there is a split-brain.
    pub(crate) fn split_brain_metric(&self, site: &str) -> f64 {
        let (code, page) = http(self.port(site, "http"), "GET", "/metrics").expect("it answers");
        assert_eq!(code, 200, "{page}");
        crate::harness::Metrics(page).get("claudefs_replication_split_brain").expect("it is exported from the start")
    }

    /// Adds to the configuration of a site, which must be down or be restarted after.
    pub(crate) fn configure(&self, site: &str, toml: &str) {
        let path = self.path(site, "repl.toml");
        let before = std::fs::read_to_string(&path).expect("a configuration");
        std::fs::write(path, format!("{before}\n{toml}\n")).expect("written");
    }

    /// Waits until a site's status is this.
    pub(crate) fn wait_status(&self, site: &str, wanted: &str, limit: Duration) -> Value {
        eventually("the status to change", limit, || {
            let said = self.admin(site, &["status", "-o", "json"]);
            let status: Value = serde_json::from_str(&said.out).map_err(|e| format!("{e}: {said:?}"))?;
            if status["status"] == wanted { Ok(status) } else { Err(format!("{site} is {status:#}\n{}", self.logs())) }
        })
    }
}
