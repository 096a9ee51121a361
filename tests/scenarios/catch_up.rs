//! Replicas that were away, and sites that serve each other.

use crate::harness::{Cluster, PATIENCE, eventually};

/// Entries that arrive one at a time become as many batches.
fn trickle(cluster: &Cluster, site: &str, entries: u32) {
    let (count, rate) = (entries.to_string(), "1500");
    let words = ["bench", "append", "--entries", &count, "--size", "200", "--producers", "2", "--rate", rate];
    cluster.at(site, &words).ok();
}

fn expect_no_refusal(cluster: &Cluster, site: &str) {
    let log = cluster.log(site);
    assert!(!log.contains("refused") && !log.contains("not written"), "{log}");
}

/// Invariants 5 and 10: however many small batches a replica has missed, they come in messages within its limits.
#[test]
fn a_replica_catches_up_on_thousands_of_small_batches() {
    let cluster = Cluster::up_with("site-a,site-b,site-c");
    cluster.settle();
    cluster.stop("site-c");
    trickle_beside_one_that_is_away(&cluster);
    cluster.start("site-c");
    eventually("site-c to catch up", PATIENCE, || {
        let (a, c) = (cluster.cursors("site-a"), cluster.cursors("site-c"));
        if a == c { Ok(()) } else { Err(format!("site-a {a:?}, site-c {c:?}\n{}", cluster.log("site-c"))) }
    });
    cluster.expect_identical();
    expect_no_refusal(&cluster, "site-c");
}

/// The bench waits for every replica in vain: its producers are done long before it is ended.
fn trickle_beside_one_that_is_away(cluster: &Cluster) {
    let words = ["bench", "append", "--entries", "4500", "--size", "200", "--producers", "2", "--rate", "1500"];
    let mut bench = cluster.spawn("site-a", &words);
    eventually("4500 entries to be appended", PATIENCE, || {
        let appended = cluster.status("site-a")["entries_appended"].as_u64().unwrap_or_default();
        if appended >= 4500 { Ok(()) } else { Err(format!("{appended} of 4500")) }
    });
    bench.kill();
}

/// Invariant 3: a stream that two sites offer moves between them without a gap and without a quarrel.
#[test]
fn three_sites_under_a_light_load_agree_at_once() {
    let cluster = Cluster::up_with("site-a,site-b,site-c");
    cluster.settle();
    trickle(&cluster, "site-a", 4500);
    cluster.expect_identical();
    for site in ["site-a", "site-b", "site-c"] {
        expect_no_refusal(&cluster, site);
    }
}
