//! Machines under a real systemd, which `tests/nspawn/page` makes places for: nothing stands in for anything.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::bench::{LOOK_S, Place, is_endless, looked_at};
use crate::harness::{PATIENCE, Said, eventually};
use crate::load::RATE;
use crate::process::Running;

/// Machines of `tests/nspawn/order`. They end with it.
pub(super) struct Machines {
    order: OsString,
    loads: BTreeMap<String, Running>,
}

impl Machines {
    /// Unless there is nobody to order machines of.
    pub(super) fn new() -> Option<Self> {
        Some(Self { order: std::env::var_os("CFS_MACHINES")?, loads: BTreeMap::new() })
    }

    fn order(&self, words: &[&str]) -> Running {
        let mut command = Command::new(&self.order);
        command.args(words).env("CFS", env!("CARGO_BIN_EXE_cfs")).stdin(Stdio::null());
        Running::spawn(command)
    }

    fn ordered(&self, words: &[&str]) {
        self.order(words).finish().ok();
    }

    /// A script at a site that must succeed.
    fn at(&self, site: &str, script: &str) -> String {
        self.order(&["at", site, "bash", "-c", script]).finish().ok()
    }

    /// How many entries of the load of a site are acknowledged.
    fn acknowledged(&self, site: &str) -> u64 {
        let lines = self.at(site, "cat load.record 2>/dev/null | wc -l");
        lines.trim().parse().unwrap_or_else(|e| panic!("{e}: {lines:?}"))
    }

    fn until_more_than(&self, count: u64, site: &str) {
        eventually("acknowledgements to go on", PATIENCE, || {
            if self.acknowledged(site) > count { Ok(()) } else { Err(self.logs()) }
        });
    }
}

impl Place for Machines {
    fn cluster(&mut self, sites: &str, witness: Option<&str>) {
        let words: Vec<&str> = ["cluster"].into_iter().chain(sites.split(',')).chain(witness).collect();
        self.ordered(&words);
    }

    /// Whoever kills a site takes its machine's power; it boots when somebody types there, and starts nothing by itself.
    fn dev(&self, words: &[&str]) {
        match words {
            ["kill", site] => self.ordered(&["kill", site]),
            ["start", site] => drop(self.at(site, "systemctl start claudefs-repl")),
            // All links of the one machine, which is the same where there are two.
            ["partition", site, _] => self.ordered(&["cut", site]),
            ["heal"] => self.ordered(&["heal"]),
            _ => panic!("machines know no fault {words:?}"),
        }
    }

    /// `cfs admin tls init` has left it there.
    fn authority(&self, site: &str) {
        self.at(site, "test -s /etc/claudefs/ca/ca.key");
    }

    fn start_load(&mut self, site: &str) {
        let rate = RATE / 5;
        let script = format!(
            "rm -f load.record; echo $$ >load.pid; exec cfs bench append --follow-primary --duration 86400 --rate {rate} \
             --durability local --record load.record -o json"
        );
        let load = self.order(&["at", site, "bash", "-c", &script]);
        self.loads.insert(site.to_owned(), load);
        self.until_more_than(0, site);
    }

    fn end_load(&mut self, site: &str) {
        self.until_more_than(self.acknowledged(site), site);
        self.at(site, "kill -INT $(cat load.pid)");
        let report = self.loads.remove(site).expect("it was started").finish().json();
        assert_eq!(report["unknown"], 0, "{report:#}");
        eventually("the site to hold what was acknowledged", PATIENCE, || {
            let said =
                self.order(&["at", site, "cfs", "bench", "verify", "--record", "load.record", "-o", "json"]).finish();
            let report: Value = serde_json::from_str(&said.out).map_err(|e| format!("{e}: {said:?}"))?;
            if report["missing"] == 0 { Ok(()) } else { Err(format!("{report:#}")) }
        });
    }

    fn typed(&self, site: &str, text: &str) -> Said {
        let text = format!("exec 2>&1\n{text}");
        if !is_endless(&text) {
            return self.order(&["at", site, "bash", "-c", &text]).finish();
        }
        looked_at(self.order(&["at", site, "timeout", "--signal=INT", LOOK_S, "bash", "-c", &text]).finish())
    }

    /// Those of `tests/nspawn/machines.sh` have all.
    fn lacks(&self, _program: &str) -> bool {
        false
    }

    fn logs(&self) -> String {
        self.order(&["logs"]).finish().out
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        // Also after a failure.
        let _ = self.order(&["end"]).finish();
    }
}
