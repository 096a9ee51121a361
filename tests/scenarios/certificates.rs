//! Certificates as they are served, on disk, and in trouble.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use cfs_rpc::ca::{Authority, CA_CERTIFICATE, Validity, certificate_file, install, key_file};
use cfs_rpc::identity::Role;
use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, Said, eventually, http_get};
use crate::peers::{authority, identity};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// `cfs admin tls status` of a site: its exit code and what it shows.
pub(crate) fn tls_status(cluster: &Cluster, site: &str, flags: &[&str]) -> (i32, Value) {
    let said = cluster.at(site, &[&["admin", "tls", "status", "-o", "json"], flags].concat());
    let shown = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    (said.code, shown)
}

/// The one line of a site's role that has this source.
pub(crate) fn line(shown: &Value, site: &str, role: &str, source: &str) -> Option<Value> {
    let lines = shown["certificates"].as_array().expect("certificates");
    lines.iter().find(|l| l["site"] == site && l["role"] == role && l["source"] == source).cloned()
}

fn expect_line(shown: &Value, site: &str, role: &str, source: &str, state: &str) -> Value {
    let line = line(shown, site, role, source).unwrap_or_else(|| panic!("no {source} {role} of {site}: {shown:#}"));
    assert_eq!(line["state"], state, "{shown:#}");
    line
}

/// Installs another certificate for a role of a site, as an operator would by hand.
fn put(cluster: &Cluster, by: &Authority, site: &str, role: Role, validity: Validity) {
    let issued = by.issue(&identity(by.cluster(), site, role), validity).expect("issued");
    install(&cluster.path(site, "state/tls"), role, by.cert_pem(), &issued).expect("installed");
}

#[test]
fn certificates_are_shown_as_served_from_every_site() {
    let cluster = Cluster::up_with_witness();
    let errors = cluster.metrics("site-a").errors();
    for from in ["site-a", "site-b", "site-w"] {
        let (code, shown) = tls_status(&cluster, from, &[]);
        assert_eq!((code, &shown["result"]), (0, &Value::from("OK")), "{shown:#}");
        for (site, role) in [
            ("site-a", "shipper"),
            ("site-a", "control"),
            ("site-b", "shipper"),
            ("site-b", "control"),
            ("site-w", "control"),
        ] {
            let line = expect_line(&shown, site, role, "served", "OK");
            assert!(matches!(line["days_left"].as_i64(), Some(364 | 365)), "{line:#}");
        }
        expect_line(&shown, from, "authority", "trusted", "OK");
    }
    // Looking is neither an error nor a refusal, whoever looks.
    assert_eq!(cluster.metrics("site-a").errors(), errors, "{}", cluster.logs());
    assert!(!cluster.logs().contains("refused a connection"), "{}", cluster.logs());
    let page = http_get(cluster.port("site-w", "http"), "/metrics");
    let left = crate::harness::Metrics(page).get("claudefs_control_certificate_expiry_seconds").expect("it is there");
    let own = cluster.metrics("site-b").get("claudefs_replication_certificate_expiry_seconds").expect("it is there");
    for left in [left, own] {
        assert!(left > 364.0 * 86_400.0 && left <= 365.0 * 86_400.0, "{left}");
    }
    let (code, shown) = tls_status(&cluster, "site-a", &["--warn-days", "400"]);
    assert_eq!((code, &shown["result"]), (1, &Value::from("WARNING")), "{shown:#}");
    let table = cluster.at("site-w", &["admin", "tls", "status"]).ok();
    assert!(table.contains("DAYS LEFT") && table.contains("RESULT: OK"), "{table}");

    a_newer_file_shows_until_it_is_served(&cluster);
    an_expired_one_is_critical_and_unusable_files_are_named(&cluster);
    with_processes_down_files_are_read(&cluster);
    what_has_expired_here_is_the_reason(&cluster);
}

fn a_newer_file_shows_until_it_is_served(cluster: &Cluster) {
    let before = tls_status(cluster, "site-a", &[]).1;
    let before = expect_line(&before, "site-a", "shipper", "served", "OK")["serial"].clone();
    put(cluster, &authority(cluster), "site-a", Role::Shipper, Validity::lasting(SystemTime::now(), 20 * DAY));
    let (code, shown) = tls_status(cluster, "site-a", &[]);
    // It may be taken over already.
    if let Some(newer) = line(&shown, "site-a", "shipper", "newer file") {
        assert!(matches!(newer["days_left"].as_i64(), Some(19 | 20)), "{shown:#}");
        assert_ne!(newer["serial"], before, "{shown:#}");
    }
    assert_eq!(code, 1, "20 days are fewer than 30: {shown:#}");
    eventually("the new one to be served", PATIENCE, || {
        let (_, shown) = tls_status(cluster, "site-b", &[]);
        let served = expect_line(&shown, "site-a", "shipper", "served", shown_state(&shown, "site-a", "shipper"));
        if served["serial"] != before { Ok(()) } else { Err(format!("{shown:#}")) }
    });
    let (code, shown) = tls_status(cluster, "site-b", &[]);
    expect_line(&shown, "site-a", "shipper", "served", "EXPIRES SOON");
    assert_eq!(code, 1, "{shown:#}");
    put(cluster, &authority(cluster), "site-a", Role::Shipper, Validity::lasting(SystemTime::now(), 365 * DAY));
}

fn shown_state<'a>(shown: &'a Value, site: &str, role: &str) -> &'a str {
    let lines = shown["certificates"].as_array().expect("certificates");
    let line = lines.iter().find(|l| l["site"] == site && l["role"] == role && l["source"] == "served");
    line.and_then(|line| line["state"].as_str()).unwrap_or_default()
}

fn an_expired_one_is_critical_and_unusable_files_are_named(cluster: &Cluster) {
    let now = SystemTime::now();
    let expired = Validity { from: now - 2 * DAY, to: now - DAY };
    put(cluster, &authority(cluster), "site-w", Role::Control, expired);
    eventually("the expired one to be served", PATIENCE, || {
        let (code, shown) = tls_status(cluster, "site-a", &[]);
        let state = shown_state(&shown, "site-w", "control");
        if (state, code) == ("EXPIRED", 2) { Ok(()) } else { Err(format!("{code} {shown:#}")) }
    });
    put(cluster, &authority(cluster), "site-w", Role::Control, Validity::lasting(now, 365 * DAY));
    let well = || {
        eventually("all to be well again", PATIENCE, || {
            let (code, shown) = tls_status(cluster, "site-b", &[]);
            if code == 0 { Ok(()) } else { Err(format!("{shown:#}")) }
        });
    };
    well();
    // A key that is not the certificate's: what is served stays, and the file says why.
    let dir = cluster.path("site-b", "state/tls");
    let key = dir.join(key_file(Role::Control));
    let kept = fs::read(&key).expect("a key");
    fs::copy(dir.join(key_file(Role::Shipper)), &key).expect("copied");
    let (code, shown) = tls_status(cluster, "site-b", &[]);
    let lines = shown["certificates"].as_array().expect("certificates");
    let wrong = lines.iter().find(|l| l["role"] == "control" && l["state"] == "UNUSABLE").expect("it is named");
    assert!(wrong["why"].as_str().expect("text").contains("control.key is not the key of"), "{wrong:#}");
    assert_eq!(code, 1, "{shown:#}");
    fs::write(&key, kept).expect("written");
    well();
}

fn with_processes_down_files_are_read(cluster: &Cluster) {
    cluster.kill("site-b");
    let (code, shown) = tls_status(cluster, "site-a", &[]);
    assert_eq!((code, &shown["unreachable"][0]), (1, &Value::from("site-b")), "{shown:#}");
    // At the site that is down: its files, and what the others serve.
    let (code, shown) = tls_status(cluster, "site-b", &[]);
    assert_eq!(code, 0, "{shown:#}");
    assert!(shown["looked"].as_str().expect("text").contains("this command"), "{shown:#}");
    for role in ["shipper", "control"] {
        expect_line(&shown, "site-b", role, "not served", "OK");
        expect_line(&shown, "site-a", role, "served", "OK");
    }
    let dir = cluster.path("site-b", "state/tls");
    let without = |name: &str, state: &str, word: &str| {
        let (path, aside) = (dir.join(name), dir.join("aside"));
        fs::rename(&path, &aside).expect("moved");
        let (code, shown) = tls_status(cluster, "site-b", &[]);
        fs::rename(&aside, &path).expect("moved back");
        let line = expect_line(&shown, "site-b", "control", "not served", state);
        assert!(line["why"].as_str().expect("text").contains(word), "{line:#}");
        assert_eq!(code, 2, "{shown:#}");
    };
    without(&certificate_file(Role::Control), "MISSING", "tls/control.pem: No such file");
    without(&key_file(Role::Control), "UNUSABLE", "control.key");
    without(CA_CERTIFICATE, "UNUSABLE", "ca.pem");
    let key = dir.join(key_file(Role::Control));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("set");
    let (code, shown) = tls_status(cluster, "site-b", &[]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("set");
    let exposed = expect_line(&shown, "site-b", "control", "not served", "UNUSABLE");
    assert!(exposed["why"].as_str().expect("text").contains("may be read by others"), "{exposed:#}");
    assert_eq!(code, 2, "{shown:#}");
    let said: Said = cluster.at("site-b", &["admin", "tls", "status"]);
    assert!(said.out.contains("not served"), "{said:?}");
}

/// Others refuse a site whose certificate has expired, so that from there they look as if they were down.
fn what_has_expired_here_is_the_reason(cluster: &Cluster) {
    let now = SystemTime::now();
    // While neither process answers, files tell it; and those of another cluster are found there too.
    let config = cluster.path("site-b", "repl.toml");
    let text = fs::read_to_string(&config).expect("it reads");
    let own = authority(cluster).cluster().to_string();
    fs::write(&config, text.replace(&own, "09090909-0909-0909-0909-090909090909")).expect("written");
    let (code, shown) = tls_status(cluster, "site-b", &[]);
    for (role, source) in [("control", "not served"), ("shipper", "not served"), ("operator", "connects only")] {
        let wrong = expect_line(&shown, "site-b", role, source, "WRONG HOLDER");
        assert!(wrong["why"].as_str().is_some_and(|why| why.contains(&own)), "{wrong:#}");
    }
    assert_eq!(code, 2, "{shown:#}");
    let preflight = cluster.at("site-b", &["preflight"]).out;
    assert!(preflight.contains("FAIL certificate site-b control"), "{preflight}");
    fs::write(&config, text).expect("written");
    let control = cluster.path("site-b", "state/tls").join(certificate_file(Role::Control));
    let kept = fs::read(&control).expect("a certificate");
    fs::write(&control, "garbage").expect("written");
    let said = cluster.at("site-b", &["admin", "replication", "health"]);
    let named = format!("{}: the certificate cannot be parsed", control.display());
    assert!(said.code == 2 && said.out.contains(&named) && said.out.contains("CFS-H025"), "{said:?}");
    fs::write(&control, kept).expect("written");

    cluster.start("site-b");
    cluster.wait_ready();
    let expired = Validity { from: now - 2 * DAY, to: now - DAY };
    put(cluster, &authority(cluster), "site-b", Role::Control, expired);
    let codes = || {
        let said = cluster.at("site-b", &["admin", "replication", "health", "-o", "json"]);
        let health: Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
        let findings = health["findings"].as_array().expect("findings");
        findings.iter().filter_map(|finding| finding["code"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let await_code = |code: &str| {
        eventually("health to find it", PATIENCE, || {
            let codes = codes();
            if codes.iter().any(|known| known == code) { Ok(()) } else { Err(format!("{code} is not in {codes:?}")) }
        });
    };
    await_code("CFS-H025");
    // Connections of before stay; those that are made now are refused.
    for other in ["site-a", "site-w"] {
        cluster.kill(other);
        cluster.start(other);
    }
    await_code("CFS-H002");
    let said = cluster.at("site-b", &["admin", "replication", "health"]);
    let first = said.out.lines().find(|line| line.starts_with("CRITICAL")).unwrap_or_default();
    assert!(first.contains("CFS-H025") && first.contains("has expired"), "{said:?}");
    assert!(said.out.contains("next: cfs admin tls status\n") && !said.out.contains("--force"), "{said:?}");
    put(cluster, &authority(cluster), "site-b", Role::Control, Validity::lasting(now, 365 * DAY));
    cluster.wait_ready();
}
