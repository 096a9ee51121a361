//! All sites die, and come back in any order; one never does.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, eventually, is_long, quiet};
use crate::load::{Load, RATE};

const ORDERS: [[&str; 3]; 6] = [
    ["site-w", "site-b", "site-a"],
    ["site-a", "site-b", "site-w"],
    ["site-b", "site-a", "site-w"],
    ["site-a", "site-w", "site-b"],
    ["site-w", "site-a", "site-b"],
    ["site-b", "site-w", "site-a"],
];

/// A site that is alone answers, and says what it waits for.
fn waits_and_says_for_what(cluster: &Cluster, site: &str) {
    let others: Vec<&str> = cluster.sites().filter(|other| *other != site).collect();
    let named = |text: &str| others.iter().any(|other| text.contains(other));
    // What it last knew of the leader may be seconds old.
    let status = eventually("it to say what it waits for", Duration::from_secs(6), || {
        let said = cluster.admin(site, &["status", "-o", "json"]);
        let status: Value = serde_json::from_str(&said.out).map_err(|e| format!("{e}: {said:?}"))?;
        let waits = status["quorum"].as_str().is_some_and(|quorum| quorum != "ok" && named(quorum));
        if waits { Ok(status) } else { Err(format!("{status:#}\n{}", cluster.logs())) }
    });
    let asked = Instant::now();
    assert_ne!(status["status"], "READY", "{status:#}");
    if site != "site-w" {
        let said = cluster.at(site, &["admin", "meta", "consistency-check", "--timeout", "2"]);
        assert_ne!(said.code, 0, "it compared with nobody: {said:?}");
        assert!(named(&said.out) || named(&said.err), "{said:?}");
    }
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(6), "an answer took {took:?}");
}

fn cold_starts(orders: &[[&str; 3]]) {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    for order in orders {
        for switched in [false, true] {
            if switched {
                let (old, _) = cluster.primary_and_epoch();
                cluster.switch_to(&old, &cluster.other(&old));
                cluster.wait_ready();
            }
            a_cold_start(&cluster, order);
        }
    }
}

fn a_cold_start(cluster: &Cluster, order: &[&str; 3]) {
    let (primary, epoch) = cluster.primary_and_epoch();
    eprintln!("all die, {primary} was primary in epoch {epoch}; they come back as {order:?}");
    let mut load = Load::start(cluster, "site-a", "local", RATE / 5);
    load.until_more(cluster);
    for site in order {
        cluster.kill_at_once(site);
    }
    let [first, second, third] = *order;
    cluster.start(first);
    waits_and_says_for_what(cluster, first);
    cluster.start(second);
    // Two of three are a majority, and one of them stores data.
    load.until_more(cluster);
    cluster.start(third);
    load.until_more(cluster);
    let outcome = load.finish();
    cluster.converge();
    cluster.wait_ready();
    cluster.expect_nothing_missing(&outcome);
    cluster.expect_one_primary_per_epoch("site-w", outcome.tenures());
    assert!(cluster.epoch() >= epoch, "invariant 6: the epoch went back");
}

/// Invariants 1, 4 and 6: after all sites died the cluster comes back by itself as soon as a majority is back, whichever
/// site was primary and whichever comes first; before that each says what it waits for.
#[test]
fn a_cold_start_needs_no_command() {
    cold_starts(&ORDERS[..if is_long() { 6 } else { 1 }]);
}

#[test]
#[ignore = "campaign: every order takes several minutes"]
fn campaign_cold_start() {
    cold_starts(&ORDERS);
}

/// A site that never returns is removed from any other, and when it does return it says that it was.
#[test]
fn a_dead_site_is_removed_from_any_other() {
    let cluster = Cluster::up_with_witness();
    let (primary, epoch) = cluster.primary_and_epoch();
    let dead = cluster.other(&primary);
    let unconfirmed = cluster.admin("site-w", &["remove", &dead]);
    assert!(unconfirmed.failed().contains("--yes"), "it does not name the flag");
    let nobody = cluster.admin("site-w", &["remove", "site-z", "--yes"]).failed();
    assert!(nobody.contains("site-z"), "{nobody}");
    cluster.kill_at_once(&dead);
    let removed = cluster.admin("site-w", &["remove", &dead, "--yes"]);
    assert_eq!(removed.code, 0, "it never was primary, so it holds nothing that others lack: {removed:?}");
    let load = Load::start(&cluster, &primary, "local", RATE / 5);
    let outcome = load.finish();
    assert_eq!((&outcome.tenures()[0].site, outcome.tenures()[0].epoch), (&primary, epoch), "{}", cluster.logs());
    let status = cluster.status(&primary);
    assert_eq!(status["automatic"], false, "there is one data site left: {status:#}");
    assert!(status["why_not_automatic"].as_str().is_some_and(|why| !why.is_empty()), "{status:#}");
    // It may say so as an error, since it cannot become ready.
    let _ = cluster.dev(&["start", &dead]);
    let status = cluster.wait_status(&dead, "REMOVED", PATIENCE);
    assert!(status["next"].as_str().is_some_and(|next| next.contains("enroll")), "{status:#}");
    // What the status names brings it back.
    let enrolled = cluster.admin(&dead, &["enroll", "--primary", &primary]);
    assert_eq!(enrolled.code, 0, "{enrolled:?}\n{}", cluster.logs());
    cluster.converge();
    cluster.wait_ready();
    assert_eq!(cluster.primary_and_epoch(), (primary, epoch));
    cluster.expect_nothing_missing(&outcome);
}
