//! What is checked before a site goes into production.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::Cluster;
use crate::process::{Said, cfs};

fn preflight(config: &std::path::Path, prometheus: &std::path::Path) -> (i32, Value) {
    let path = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let said: Said = cfs(["--config", &path(config), "preflight", "-o", "json", "--prometheus", &path(prometheus)]);
    (said.code, serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}")))
}

fn checks<'a>(shown: &'a Value, check: &str) -> Vec<&'a Value> {
    shown["checks"].as_array().expect("checks").iter().filter(|one| one["check"] == check).collect()
}

/// Every check tells what it found; whatever does not pass says what comes next.
#[test]
fn preflight_tells_what_is_not_ready() {
    let cluster = Cluster::up_with_witness();
    let config = cluster.path("site-a", "repl.toml");
    let place = tempfile::tempdir().expect("a folder");
    let prometheus = place.path().join("prometheus.yml");
    let (code, shown) = preflight(&config, &prometheus);
    for check in ["configuration", "clock", "port", "certificate", "monitoring", "disk", "memory"] {
        assert!(!checks(&shown, check).is_empty(), "{check} is missing: {shown:#}");
    }
    // A connection to each site's ports: two of site-b, one of the witness.
    let ports = checks(&shown, "port");
    assert_eq!(ports.len(), 3, "{shown:#}");
    assert!(ports.iter().all(|port| port["result"] == "PASS"), "{shown:#}");
    assert!(checks(&shown, "certificate").iter().all(|one| one["result"] == "PASS"), "{shown:#}");
    assert_eq!(checks(&shown, "monitoring")[0]["result"], "WARN");
    assert!((1..=2).contains(&code), "there is no Prometheus: {shown:#}");
    for one in shown["checks"].as_array().expect("checks") {
        let silent = one["next"].as_str().expect("text").is_empty();
        assert_eq!(silent, one["result"] == "PASS", "{one:#}");
    }
    fs::write(&prometheus, "scrape_configs:\n  - job_name: claudefs-repl\n").expect("written");
    assert_eq!(checks(&preflight(&config, &prometheus).1, "monitoring")[0]["result"], "PASS");
    let table = cluster.at("site-a", &["preflight"]);
    assert!(table.out.contains("CHECK") && table.out.contains("RESULT: "), "{table:?}");

    a_port_that_hangs_fails(&cluster, &config, &prometheus);

    // Before the first start: files are read. A refused connection warns, one that comes to nothing fails.
    for site in ["site-a", "site-b", "site-w"] {
        cluster.stop(site);
    }
    let text = fs::read_to_string(&config).expect("it reads");
    let (own, peers) = text.split_once("[[peers]]").expect("peers");
    let mut n = 0;
    let peers: Vec<String> = peers
        .lines()
        .map(|line| match line.split_once(" = \"127.0.0.1:") {
            Some((key @ ("peer" | "control"), _)) => {
                n += 1;
                let address = if n == 1 { "no-such-name.invalid:9500".to_owned() } else { format!("127.0.0.1:{n}") };
                format!("{key} = \"{address}\"")
            }
            _ => line.to_owned(),
        })
        .collect();
    let changed = config.with_file_name("changed.toml");
    fs::write(&changed, format!("{own}[[peers]]{}\n", peers.join("\n"))).expect("written");
    let (code, shown) = preflight(&changed, &prometheus);
    let mut results: Vec<&str> = checks(&shown, "port").iter().filter_map(|port| port["result"].as_str()).collect();
    results.sort_unstable();
    assert_eq!(results, ["FAIL", "WARN", "WARN"], "{shown:#}");
    assert_eq!(code, 2, "{shown:#}");
    for one in checks(&shown, "certificate") {
        let here = one["subject"].as_str().expect("text").starts_with("site-a");
        assert_eq!(one["result"], if here { "PASS" } else { "WARN" }, "{shown:#}");
    }
    fs::remove_file(cluster.path("site-a", "state/tls/shipper.pem")).expect("removed");
    let (_, shown) = preflight(&changed, &prometheus);
    let missing = checks(&shown, "certificate").into_iter().find(|one| one["subject"] == "site-a shipper");
    assert_eq!(missing.expect("it is named")["result"], "FAIL", "{shown:#}");

    fs::write(&changed, "nonsense = [").expect("written");
    let (code, shown) = preflight(&changed, &prometheus);
    assert_eq!((code, &checks(&shown, "configuration")[0]["result"]), (2, &Value::from("FAIL")), "{shown:#}");
}

/// The machine takes connections for a process that is stopped, and nobody answers them.
fn a_port_that_hangs_fails(cluster: &Cluster, config: &Path, prometheus: &Path) {
    cluster.signal("site-b", Signal::STOP);
    let (code, shown) = preflight(config, prometheus);
    cluster.signal("site-b", Signal::CONT);
    assert_eq!(code, 2, "{shown:#}");
    let of = |check: &str, subject: &str| {
        let one = checks(&shown, check).into_iter().find(|one| one["subject"] == subject);
        one.unwrap_or_else(|| panic!("no {check} of {subject}: {shown:#}")).clone()
    };
    for subject in ["site-b control", "site-b shipper"] {
        let port = of("port", subject);
        assert_eq!(port["result"], "FAIL", "{port:#}");
        assert!(port["found"].as_str().is_some_and(|found| found.contains("TLS does not complete")), "{port:#}");
        let certificate = of("certificate", subject);
        assert_eq!(certificate["result"], "WARN", "{certificate:#}");
        let found = certificate["found"].as_str().expect("text");
        assert!(found.starts_with("it could not be looked at: "), "{certificate:#}");
    }
    assert_eq!(of("port", "site-w control")["result"], "PASS", "{shown:#}");
    cluster.wait_ready();
}
