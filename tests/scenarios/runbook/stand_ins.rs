//! A cluster of `cfs dev`, whose sites share this machine: stand-ins for its programs, and its paths and ports for those of the page.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::bench::{LOOK_S, Place, is_endless, looked_at};
use super::repository;
use crate::harness::{Cluster, Said};
use crate::load::{Load, RATE};
use crate::process::Running;

/// Programs of a machine that have a stand-in: all but `cfs`, and those that mean the same here.
const STAND_INS: [&str; 9] = ["systemctl", "journalctl", "chronyc", "ssh", "ping", "nc", "netstat", "ufw", "sudo"];

/// The cluster, and what stands in for the rest of its machines.
pub(super) struct StandIns {
    cluster: Option<Cluster>,
    programs: TempDir,
    loads: BTreeMap<String, Load>,
}

impl StandIns {
    pub(super) fn new() -> Self {
        let programs = tempfile::tempdir().expect("a folder");
        let script = repository().join("tests/scenarios/runbook/stand_in.sh");
        for program in STAND_INS {
            symlink(&script, programs.path().join(program)).expect("a link");
        }
        symlink(env!("CARGO_BIN_EXE_cfs"), programs.path().join("cfs")).expect("a link");
        Self { cluster: None, programs, loads: BTreeMap::new() }
    }

    fn here(&self) -> &Cluster {
        self.cluster.as_ref().expect("the page begins with a cluster")
    }

    /// `SITE KEY PORT`, a line each.
    fn ports(&self) -> String {
        let cluster = self.here();
        let lines = cluster
            .sites()
            .flat_map(|site| ["peer", "control"].map(|key| format!("{site} {key} {}\n", port(cluster, site, key))));
        lines.collect()
    }

    /// Paths and ports as a machine of its own would have them, and as they are here.
    fn table(&self, site: &str) -> [(String, String); 5] {
        let cluster = self.here();
        let shown = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
        [
            ("/var/claudefs".into(), shown(cluster.path(site, "state"))),
            ("/etc/claudefs".into(), shown(cluster.path(site, "").components().as_path().to_owned())),
            ("/etc/prometheus/prometheus.yml".into(), shown(repository().join("deploy/prometheus/prometheus.yml"))),
            ("localhost:9502".into(), format!("localhost:{}", cluster.port(site, "http"))),
            ("localhost:9503".into(), format!("localhost:{}", port(cluster, site, "shipper_http"))),
        ]
    }
}

impl Place for StandIns {
    fn cluster(&mut self, sites: &str, witness: Option<&str>) {
        self.cluster = Some(Cluster::bare(sites, witness));
    }

    fn dev(&self, words: &[&str]) {
        self.here().dev(words).ok();
    }

    fn authority(&self, site: &str) {
        let said = self.typed(site, "cp -r ../ca ca");
        assert_eq!(said.code, 0, "{said:?}");
    }

    fn start_load(&mut self, site: &str) {
        let load = Load::start(self.here(), site, "local", RATE / 5);
        self.loads.insert(site.to_owned(), load);
    }

    fn end_load(&mut self, site: &str) {
        let mut load = self.loads.remove(site).expect("it was started");
        load.until_more(self.here());
        drop(load.finish());
    }

    fn typed(&self, site: &str, text: &str) -> Said {
        let cluster = self.here();
        let table = self.table(site);
        let here = table.iter().fold(text.to_owned(), |text, (machine, here)| text.replace(machine, here));
        let endless = is_endless(text);
        let mut shell = Command::new(if endless { "timeout" } else { "bash" });
        if endless {
            shell.args(["--signal=INT", LOOK_S, "bash"]);
        }
        let path = format!("{}:{}", self.programs.path().display(), std::env::var("PATH").unwrap_or_default());
        shell
            .args(["-c", &format!("exec 2>&1\n{here}")])
            .current_dir(cluster.path(site, ""))
            .env("PATH", path)
            .env("NO_COLOR", "1")
            .env("CFS_CONFIG", cluster.path(site, "repl.toml"))
            .env("BENCH_DIR", cluster.dir())
            .env("BENCH_SITE", site)
            .env("BENCH_PORTS", self.ports())
            .stdin(Stdio::null());
        let said = Running::spawn(shell).finish();
        let out = table.iter().fold(said.out.clone(), |text, (machine, here)| text.replace(here, machine));
        let said = Said { out, ..said };
        if endless { looked_at(said) } else { said }
    }

    fn lacks(&self, program: &str) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        !std::env::split_paths(&path).any(|folder| folder.join(program).exists())
    }

    fn logs(&self) -> String {
        self.here().logs()
    }
}

/// A witness has no shipper.
fn port(cluster: &Cluster, site: &str, key: &str) -> u64 {
    cluster.layout(site)["ports"][key].as_u64().unwrap_or_default()
}
