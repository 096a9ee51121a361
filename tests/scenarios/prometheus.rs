//! The alert rules of deploy/prometheus, in Debian's Prometheus, fired by the faults they are for.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Cluster, PATIENCE, eventually, quiet, skipped};

/// Alerts of the runbook; the rules hold them word for word.
const PROMISED: [(&str, &str, &str, &str); 3] = [
    ("ReplicationLagHigh", "claudefs_replication_lag_ms > 5000", "5m", "Replication lag > 5 seconds"),
    ("ReplicationErrorRate", "rate(claudefs_replication_errors_total[5m]) > 1", "1m", "Replication errors detected"),
    ("SplitBrainDetected", "claudefs_replication_split_brain == 1", "0m", "CRITICAL: Split-brain detected"),
];
/// An alert has to be seen within this.
const ALERT_LIMIT: Duration = Duration::from_secs(90);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus")
}

fn is_installed() -> bool {
    let found = ["prometheus", "promtool"].iter().all(|tool| Command::new(tool).arg("--version").output().is_ok());
    if !found {
        println!("SKIPPED: prometheus and promtool are not installed (apt-get install prometheus)");
    }
    found
}

/// Debian's Prometheus with our rules and these targets. It ends with it.
struct Prometheus {
    child: Child,
    port: u16,
    place: TempDir,
}

impl Prometheus {
    fn start(targets: &[String]) -> Self {
        let place = tempfile::tempdir().expect("a folder");
        let rules = std::fs::read_to_string(folder().join("claudefs.rules.yml")).expect("the rules");
        // The expressions stay; only the waiting is shorter.
        let rules: String =
            rules
                .lines()
                .map(|line| {
                    if line.trim_start().starts_with("for: ") {
                        "        for: 1s\n".into()
                    } else {
                        format!("{line}\n")
                    }
                })
                .collect();
        let config = std::fs::read_to_string(folder().join("prometheus.yml")).expect("the configuration");
        let (head, _) = config.split_once("      - targets:").expect("targets");
        let list: String = targets.iter().map(|target| format!("          - {target}\n")).collect();
        let config = format!("{}      - targets:\n{list}", head.replace("5s", "1s"));
        std::fs::write(place.path().join("claudefs.rules.yml"), rules).expect("written");
        std::fs::write(place.path().join("prometheus.yml"), config).expect("written");
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", place.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", place.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(place.path().join("log")).expect("a log"))
            .spawn()
            .expect("it starts");
        Self { child, port, place }
    }

    fn of(cluster: &Cluster) -> Self {
        let mut targets = Vec::new();
        for site in cluster.sites() {
            targets.push(format!("127.0.0.1:{}", cluster.port(site, "http")));
            if cluster.data_sites().any(|data| data == site) {
                targets.push(format!("127.0.0.1:{}", cluster.port(site, "shipper_http")));
            }
        }
        Self::start(&targets)
    }

    fn ask(&self, path: &str) -> Result<Value, String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(|error| error.to_string())?;
        // In 1.0 an answer comes in one piece.
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no answer but {answer:?}"))?;
        if !head.contains(" 200 ") {
            return Err(answer);
        }
        serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))
    }

    /// Waits until an alert fires, and returns the labels it fires with.
    fn fires(&self, alert: &str) -> Vec<Value> {
        eventually(alert, ALERT_LIMIT, || {
            let alerts = self.ask("/api/v1/alerts")?;
            let all = alerts["data"]["alerts"].as_array().cloned().unwrap_or_default();
            let is_it = |one: &&Value| one["labels"]["alertname"] == alert && one["state"] == "firing";
            let labels: Vec<Value> = all.iter().filter(is_it).map(|one| one["labels"].clone()).collect();
            if labels.is_empty() { Err(format!("{all:#?}\n{}", self.log())) } else { Ok(labels) }
        })
    }

    /// The runbook's query, as it is typed; the port apart.
    fn answers_the_runbook(&self) {
        let there = |program: &str| Command::new(program).arg("--version").output().is_ok();
        if !there("curl") || !there("jq") {
            return skipped("curl or jq is not installed");
        }
        let port = self.port;
        let typed = format!(
            "curl -s http://localhost:{port}/api/v1/query?query='claudefs_replication_lag_ms' | jq '.data.result'"
        );
        eventually("the lag in Prometheus", PATIENCE, || {
            let said = Command::new("sh").args(["-c", &typed]).output().map_err(|error| error.to_string())?;
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            let rows: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
            let known = rows.as_array().is_some_and(|rows| rows.iter().any(|row| row["metric"]["site"].is_string()));
            if known { Ok(()) } else { Err(text) }
        });
    }

    fn all_targets_are_up(&self) {
        eventually("every target to be scraped", PATIENCE, || {
            let targets = self.ask("/api/v1/targets")?;
            let active = targets["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
            let well = |target: &Value| target["health"] == "up" && target["labels"]["job"] == "claudefs-repl";
            if !active.is_empty() && active.iter().all(well) {
                Ok(())
            } else {
                Err(format!("{active:#?}\n{}", self.log()))
            }
        });
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The rules are the runbook's, and promtool agrees with when they fire.
#[test]
fn the_rules_are_those_of_the_runbook() {
    let rules = std::fs::read_to_string(folder().join("claudefs.rules.yml")).expect("the rules");
    for (name, expression, duration, summary) in PROMISED {
        let start = rules.find(&format!("- alert: {name}\n")).unwrap_or_else(|| panic!("no {name}"));
        let rule = rules[start..].split("\n      - alert").next().expect("a rule");
        for line in [format!("expr: {expression}\n"), format!("for: {duration}\n"), format!("summary: \"{summary}\"\n")]
        {
            assert!(rule.contains(&line), "{name} has no {line:?}: {rule}");
        }
    }
    if !is_installed() {
        return;
    }
    for args in [["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]] {
        let output = Command::new("promtool").args(args).current_dir(folder()).output().expect("promtool runs");
        let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
        assert!(output.status.success(), "promtool {args:?}: {said}");
    }
}

/// Every query of the dashboard names metrics that the product has, and the runbook's are among them.
#[test]
fn the_dashboard_asks_for_what_there_is() {
    let path = folder().join("../grafana/claudefs-repl.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("a dashboard")).expect("JSON");
    let metrics = std::fs::read_to_string(folder().join("../../docs/metrics.md")).expect("docs/metrics.md");
    let panels = dashboard["panels"].as_array().expect("panels");
    let queries: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("targets"))
        .map(|target| target["expr"].as_str().expect("a query"))
        .collect();
    for promised in [
        "claudefs_replication_lag_ms{site=\"$site\"}",
        "rate(claudefs_replication_errors_total[5m])",
        "rate(claudefs_replication_entries_processed[1m])",
        "rate(claudefs_replication_bytes_sent[1m])",
    ] {
        assert!(queries.contains(&promised), "no panel asks {promised}");
    }
    for query in queries {
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for metric in words.filter(|word| word.starts_with("claudefs_")) {
            let metric = metric.trim_end_matches("_bucket");
            assert!(metrics.contains(&format!("`{metric}")), "{metric} is not in docs/metrics.md");
        }
    }
}

/// A site that is away, a port scan that never ends, two sides after a forced failover: each fires its alert.
#[test]
fn each_alert_fires_from_the_fault_that_it_is_for() {
    let _alone = quiet();
    if !is_installed() {
        return;
    }
    let cluster = Cluster::up();
    let prometheus = Prometheus::of(&cluster);
    prometheus.all_targets_are_up();
    prometheus.answers_the_runbook();

    // Connections that cannot prove who they are, for as long as it takes.
    let (port, stop) = (cluster.port("site-a", "peer"), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
                    let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        // A panic must not leave the other thread running.
        let fired = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| prometheus.fires("ReplicationErrorRate")));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        fired.expect("the alert fires");
    });

    // A replica that hangs falls behind by the second.
    cluster.dev(&["pause", "site-b"]).ok();
    let labels = prometheus.fires("ReplicationLagHigh");
    assert!(labels.iter().any(|labels| labels["site"] == "site-b"), "{labels:?}");
    cluster.dev(&["resume", "site-b"]).ok();

    // The replica is forced while the primary is away, and the primary returns.
    cluster.wait_ready();
    cluster.kill_at_once("site-a");
    cluster.admin("site-b", &["failover", "--force", "--to", "site-b", "--yes"]).ok();
    // It does not become ready.
    let _ = cluster.dev(&["start", "site-a"]);
    prometheus.fires("SplitBrainDetected");
}
