//! Certificates and authorities are replaced while all sites work.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::certificates::{line, tls_status};
use crate::harness::{Cluster, PATIENCE, eventually, http_get, limit_ms, quiet};
use crate::load::{Load, RATE};

const SERVED: [(&str, &str); 5] =
    [("site-a", "control"), ("site-a", "shipper"), ("site-b", "control"), ("site-b", "shipper"), ("site-w", "control")];

/// The serial number that each process serves, as `from` sees it.
fn serials(cluster: &Cluster, from: &str) -> BTreeMap<(String, String), String> {
    let (_, shown) = tls_status(cluster, from, &[]);
    let of = |(site, role): (&str, &str)| {
        let line = line(&shown, site, role, "served").unwrap_or_else(|| panic!("no {role} of {site}: {shown:#}"));
        ((site.to_owned(), role.to_owned()), line["serial"].as_str().expect("a serial number").to_owned())
    };
    SERVED.into_iter().map(of).collect()
}

fn ca(cluster: &Cluster) -> String {
    cluster.dir().join("ca").to_str().expect("UTF-8").to_owned()
}

/// What would show that sites lost each other: errors, and connections that were refused.
fn trouble(cluster: &Cluster) -> Vec<String> {
    let control = |site| {
        let page = http_get(cluster.port(site, "http"), "/metrics");
        let lines = page.lines().filter(|line| line.starts_with("claudefs_control_refused_connections_total"));
        format!("{site} {:?}", lines.collect::<Vec<_>>())
    };
    let errors = |site| format!("{site} {}", cluster.metrics(site).errors());
    cluster.data_sites().map(errors).chain(cluster.sites().map(control)).collect()
}

/// How often sites connected to each other so far.
fn connects(cluster: &Cluster) -> usize {
    cluster.data_sites().map(|site| cluster.log(site).matches("connected to a site").count()).sum()
}

/// Invariants 1 and 4: certificates of all sites are replaced under load: no append fails, no site loses another, the epoch
/// stays, and each connection between shippers is made anew once.
#[test]
fn certificates_are_renewed_under_load() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let (before, epoch) = (serials(&cluster, "site-a"), cluster.epoch());
    let mut load = Load::start(&cluster, "site-a", "remote(1)", RATE);
    load.until_more(&cluster);
    let (trouble_before, connects_before) = (trouble(&cluster), connects(&cluster));
    let said = cluster.at("site-a", &["admin", "tls", "renew-certificates", "--ca-dir", &ca(&cluster), "-o", "json"]);
    assert_eq!(said.code, 0, "{said:?}\n{}", cluster.logs());
    let renewal = said.json();
    for site in renewal["sites"].as_array().expect("sites") {
        assert_eq!(site["outcome"], "renewed", "{renewal:#}");
        // Where a process serves the role it is served; else nobody does, which is no fault.
        for new in site["certificates"].as_array().expect("certificates") {
            let of = |(name, role): &(&str, &str)| site["site"] == *name && new["role"] == *role;
            let served = SERVED.iter().any(of).then_some(true);
            assert_eq!(new["served"].as_bool(), served, "{renewal:#}");
        }
    }
    for from in ["site-a", "site-b", "site-w"] {
        let after = serials(&cluster, from);
        for (process, serial) in &after {
            assert_ne!(before[process], *serial, "{process:?} at {from}");
            let told =
                renewal["sites"].as_array().expect("sites").iter().find(|site| site["site"] == process.0.as_str());
            let told = told.expect("the site")["certificates"].as_array().expect("certificates").clone();
            assert!(told.iter().any(|new| new["role"] == process.1.as_str() && new["serial"] == serial.as_str()));
        }
    }
    // Both shippers' connections are made anew, once.
    eventually("connections to be made anew", PATIENCE, || match connects(&cluster) - connects_before {
        2 => Ok(()),
        n => Err(format!("{n} connections\n{}", cluster.logs())),
    });
    for _ in 0..5 {
        load.until_more(&cluster);
        for (site, other) in [("site-a", "site-b"), ("site-b", "site-a")] {
            let up = cluster.metrics(site).get(&format!("claudefs_replication_peer_up{{site=\"{other}\"}}"));
            assert_eq!(up, Some(1.0), "{site} does not hear {other}\n{}", cluster.logs());
        }
    }
    assert_eq!(connects(&cluster) - connects_before, 2, "a storm of connections:\n{}", cluster.logs());
    assert_eq!(trouble(&cluster), trouble_before, "{}", cluster.logs());
    assert_eq!(cluster.epoch(), epoch);
    let outcome = load.finish();
    assert_eq!(outcome.report["resent"], 0, "{:#}", outcome.report);
    assert!(outcome.longest_gap_ms() < limit_ms(1000) as f64, "{:#}", outcome.report);
    cluster.expect_nothing_missing(&outcome);
    cluster.converge();

    what_makes_no_sense_changes_nothing(&cluster);
    a_site_that_is_down_gets_a_bundle(&cluster);
    a_site_that_cannot_be_renewed_stops_no_other(&cluster);
}

fn what_makes_no_sense_changes_nothing(cluster: &Cluster) {
    let before = serials(cluster, "site-a");
    // The authority's key is elsewhere.
    let text = cluster.at("site-b", &["admin", "tls", "renew-certificates"]).failed();
    assert!(text.contains("CFS-E120") && text.contains("key is not here") && text.contains("next:"), "{text}");
    let renew =
        |words: &[&str]| cluster.at("site-a", &[&["admin", "tls", "renew-certificates"], words].concat()).failed();
    let text = renew(&["--ca-dir", &ca(cluster), "--site", "site-z"]);
    assert!(text.contains("site-z") && text.contains("next:"), "{text}");
    // Another cluster's authority.
    let other = tempfile::tempdir().expect("a folder");
    let place = other.path().join("ca");
    let cluster_id = crate::peers::authority(cluster).cluster();
    cfs_rpc::ca::Authority::create(&place, cluster_id, std::time::SystemTime::now()).expect("made");
    let foreign = place.to_str().expect("UTF-8");
    let rotated = cluster.at("site-a", &["admin", "tls", "rotate-ca", "--ca-dir", foreign]).failed();
    for text in [renew(&["--ca-dir", foreign]), rotated] {
        assert!(text.contains("CFS-E123") && text.contains("none of those that site-a trusts"), "{text}");
        assert!(text.contains("next:") && !text.contains("renewing") && !text.contains("is told"), "{text}");
    }
    assert!(!place.with_file_name("ca.next").exists(), "a new authority was made");
    for site in cluster.sites() {
        let waits = cluster.path(site, "state/tls/control.key.new");
        assert!(!waits.exists(), "{site} was asked for keys");
    }
    fs::write(place.join("ca.key"), "garbage").expect("written");
    assert!(renew(&["--ca-dir", place.to_str().expect("UTF-8")]).contains("no private key"));
    assert_eq!(serials(cluster, "site-a"), before, "something was changed");
}

fn a_site_that_is_down_gets_a_bundle(cluster: &Cluster) {
    let out = tempfile::tempdir().expect("a folder");
    let place = out.path().to_str().expect("UTF-8");
    cluster.kill("site-b");
    let text = cluster.at("site-a", &["admin", "tls", "rotate-ca", "--ca-dir", &ca(cluster)]).failed();
    assert!(text.contains("not every site is reached: site-b; nothing was changed"), "{text}");
    let words = [
        "admin",
        "tls",
        "renew-certificates",
        "--ca-dir",
        &ca(cluster),
        "--site",
        "site-b",
        "--out",
        place,
        "-o",
        "json",
    ];
    let said = cluster.at("site-a", &words);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("cfs admin tls install") && said.err.contains("next:"), "{}", said.err);
    let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    let site = &report["sites"][0];
    assert_eq!((&site["site"], &site["outcome"]), (&"site-b".into(), &"bundle".into()), "{report:#}");
    let bundle = site["bundle"].as_str().expect("a directory");
    // It holds what a site that stores data needs, also for those who only connect.
    let roles: Vec<&str> =
        site["certificates"].as_array().expect("certificates").iter().filter_map(|new| new["role"].as_str()).collect();
    assert_eq!(roles, ["shipper", "control", "producer", "operator"], "{report:#}");
    // It is for site-b alone.
    let text = cluster.at("site-w", &["admin", "tls", "install", bundle]).failed();
    assert!(text.contains("site-b") && text.contains("nothing was changed"), "{text}");
    let empty = Path::new(place).join("empty");
    fs::create_dir(&empty).expect("made");
    cluster.at("site-b", &["admin", "tls", "install", empty.to_str().expect("UTF-8")]).failed();
    cluster.at("site-b", &["admin", "tls", "install", bundle]).ok();
    cluster.start("site-b");
    cluster.wait_ready();
    let shown = tls_status(cluster, "site-b", &[]).1;
    for new in site["certificates"].as_array().expect("certificates") {
        let role = new["role"].as_str().expect("a role");
        let source = if ["control", "shipper"].contains(&role) { "served" } else { "connects only" };
        let line = line(&shown, "site-b", role, source).unwrap_or_else(|| panic!("no {role}: {shown:#}"));
        assert_eq!(line["serial"], new["serial"], "{report:#}");
    }
}

/// What an earlier renewal left is named, and the sites after it are renewed all the same.
fn a_site_that_cannot_be_renewed_stops_no_other(cluster: &Cluster) {
    let out = tempfile::tempdir().expect("a folder");
    let left = out.path().join("site-b");
    fs::create_dir(&left).expect("made");
    let before = serials(cluster, "site-a");
    cluster.kill("site-b");
    let place = out.path().to_str().expect("UTF-8");
    let said = cluster.at("site-a", &["admin", "tls", "renew-certificates", "--ca-dir", &ca(cluster), "--out", place]);
    assert_eq!(said.code, 1, "{said:?}");
    let left = left.to_str().expect("UTF-8");
    let row = said.out.lines().find(|row| row.starts_with("site-b")).unwrap_or_else(|| panic!("{said:?}"));
    assert!(row.contains("failed") && row.ends_with(left), "{said:?}");
    assert!(said.err.contains(&format!("{left} is left of an earlier renewal")), "{said:?}");
    let rows = said.out.lines().filter(|row| row.contains("renewed") && row.ends_with('-')).count();
    assert!(rows > 4, "{said:?}");
    assert!(said.out.contains("by nobody"), "{said:?}");
    cluster.start("site-b");
    cluster.wait_ready();
    for (process, serial) in serials(cluster, "site-a") {
        assert_eq!(before[&process] == serial, process.0 == "site-b", "{process:?}: {said:?}");
    }
}

/// The authority is replaced with an overlap, under load; afterwards the old one is trusted by nobody.
#[test]
fn the_authority_is_replaced_under_load() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let old = crate::peers::authority(&cluster);
    let epoch = cluster.epoch();
    let mut load = Load::start(&cluster, "site-b", "local", RATE);
    let rotate = |words: &[&str]| {
        cluster.at("site-a", &[&["admin", "tls", "rotate-ca", "--ca-dir", &ca(&cluster)], words].concat())
    };
    let text = rotate(&["--finish"]).failed();
    assert!(text.contains("CFS-E122"), "{text}");
    let said = rotate(&[]);
    assert_eq!(said.code, 0, "{said:?}\n{}", cluster.logs());
    let text = rotate(&[]).failed();
    assert!(text.contains("CFS-E121") && text.contains("--finish"), "{text}");
    let (_, shown) = tls_status(&cluster, "site-b", &[]);
    let trusted = shown["certificates"].as_array().expect("certificates").iter();
    assert_eq!(trusted.filter(|line| line["role"] == "authority").count(), 2, "{shown:#}");
    load.until_more(&cluster);
    let said = rotate(&["--finish"]);
    assert_eq!(said.code, 0, "{said:?}\n{}", cluster.logs());
    eventually("the new authority alone to be trusted", PATIENCE, || {
        let (code, shown) = tls_status(&cluster, "site-b", &[]);
        let lines = shown["certificates"].as_array().expect("certificates").iter();
        let authorities = lines.filter(|line| line["role"] == "authority").count();
        if (code, authorities) == (0, 1) { Ok(()) } else { Err(format!("{code} {shown:#}")) }
    });
    load.until_more(&cluster);
    let outcome = load.finish();
    cluster.expect_nothing_missing(&outcome);
    assert_eq!(cluster.epoch(), epoch);
    let new = crate::peers::authority(&cluster);
    assert_ne!(old.cert_pem(), new.cert_pem());
    // The old one is refused here, before any site is asked.
    let entries = fs::read_dir(cluster.dir()).expect("a directory").map(|entry| entry.expect("an entry").path());
    let retired = entries.filter(|path| path.to_string_lossy().contains("ca.retired-")).collect::<Vec<_>>();
    let retired = retired.first().and_then(|path| path.to_str()).expect("the old authority");
    let cold = cluster.path("site-b", "cold");
    let cold = cold.to_str().expect("UTF-8");
    cluster.at("site-a", &["admin", "tls", "issue", "site-b", "--out", cold, "--ca-dir", retired]).ok();
    let installed = cluster.at("site-b", &["admin", "tls", "install", cold]).failed();
    assert!(installed.contains("CFS-E123") && installed.contains("retired"), "{installed}");
    let text = cluster.at("site-a", &["admin", "tls", "renew-certificates", "--ca-dir", retired]).failed();
    assert!(text.contains("CFS-E123") && !text.contains("renewing"), "{text}");
    // The processes that run now could start anew with it.
    cluster.kill("site-b");
    cluster.start("site-b");
    cluster.wait_ready();
    cluster.converge();
}
