//! The journal's front goes, and nothing is lost: garbage collection, restarts, a replica that stays away for too long.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use cfs_model::op::op::Kind;
use cfs_model::op::{Op, Rmdir};
use prost::Message;
use serde_json::Value;

use crate::disk_full::incompressible;
use crate::harness::{Cluster, PATIENCE, cfs, eventually};
use crate::producers::{Session, entry, socket};

/// Segments of 1 MiB, and as much of them as the first argument says.
fn keep(cluster: &Cluster, sites: &[&str], toml: &str) {
    for site in sites {
        cluster.configure(site, &format!("[journal]\nsegment = \"1MiB\"\n{toml}"));
        cluster.stop(site);
        cluster.start(site);
    }
    let primary = cluster.primary();
    cluster.wait_status(&primary, "READY", PATIENCE);
}

/// Appends entries that no codec makes smaller, 2 KiB each, until they are acknowledged.
async fn write(cluster: &Cluster, entries: u64) {
    let primary = cluster.primary();
    let (mut session, reply) = Session::hello(&socket(cluster, &primary), "writer", "").await;
    let epoch = reply.role.expect("a primary").epoch;
    let mut acked = reply.highest_seq;
    if acked == 0 {
        session.append(epoch, 1, vec![entry(1)]).await;
        acked = 1;
    }
    let end = acked + entries;
    while acked < end {
        let count = (end - acked).min(100);
        session.append(epoch, acked + 1, (0..count).map(|_| incompressible(1_000_001)).collect()).await;
        acked += count;
        session.acked(acked).await;
    }
}

fn journal(cluster: &Cluster, site: &str) -> Value {
    cluster.at(site, &["admin", "replication", "journal-status", "-o", "json"]).json()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number, not {value}"))
}

/// Bytes of all files in the journal of a site.
fn on_disk(cluster: &Cluster, site: &str) -> u64 {
    fn sum(dir: &Path) -> u64 {
        let files = fs::read_dir(dir).expect("a folder").flatten();
        let one = |file: fs::DirEntry| match file.metadata() {
            Ok(found) if found.is_dir() => sum(&file.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        };
        files.map(one).sum()
    }
    sum(&cluster.path(site, "state/journal"))
}

/// What a site's journal holds of each stream; fails if anything is damaged or missing in between.
fn expect_sound(cluster: &Cluster, site: &str) -> Value {
    let dir = cluster.path(site, "state/journal");
    let report = cfs(["journal", "verify", dir.to_str().expect("UTF-8"), "-o", "json"]).json();
    report["journals"][0]["streams"].clone()
}

/// Invariants 3, 5 and 6: what every site has is removed at an operator's word and for good; the sites go on where they
/// were, also after a restart, and hold the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_every_site_has_is_removed_and_nothing_is_lost() {
    let cluster = Cluster::up();
    keep(&cluster, &["site-a", "site-b"], "");
    write(&cluster, 3000).await;
    cluster.settle();
    eventually("site-b to have told its cursor", PATIENCE, || {
        let before = journal(&cluster, "site-a");
        assert!(number(&before["segments"]) >= 5, "{before:#}");
        assert_eq!(before["compaction_pending"], false, "within the budget: {before:#}");
        if number(&before["removable_bytes"]) > 4 << 20 { Ok(()) } else { Err(format!("{before:#}")) }
    });
    let plain = cluster.admin("site-a", &["gc", "-o", "json"]).json();
    assert_eq!(plain["freed_bytes"], 0, "nothing is past the budget: {plain:#}");

    for site in ["site-a", "site-b"] {
        let (held, taken) = (number(&journal(&cluster, site)["removable_bytes"]), on_disk(&cluster, site));
        let gc = eventually("the cursors of the other site", PATIENCE, || {
            let gc = cluster.admin(site, &["gc", "--aggressive", "-o", "json"]).json();
            if number(&gc["freed_bytes"]) > 0 { Ok(gc) } else { Err(gc.to_string()) }
        });
        assert!(number(&gc["freed_bytes"]) >= held.min(4 << 20), "{gc:#}");
        // A few bytes say where the stream begins now.
        assert!(on_disk(&cluster, site) <= taken - number(&gc["freed_bytes"]) + 4096, "it is off the disk: {gc:#}");
        let holds = gc["journal"]["holds"].as_array().expect("holds");
        assert!(holds.iter().all(|hold| hold["why"] == "it is being written"), "{gc:#}");
        let table = cluster.admin(site, &["journal-status"]).ok();
        assert!(table.contains("\ncompaction_pending = false\n"), "{table}");
    }
    let first = number(&journal(&cluster, "site-a")["streams"][0]["first"]);
    assert!(first > 1);
    for site in ["site-a", "site-b"] {
        cluster.kill(site);
        cluster.start(site);
    }
    write(&cluster, 500).await;
    cluster.expect_identical();
    assert_eq!(number(&journal(&cluster, "site-a")["streams"][0]["first"]), first, "what has gone stays away");
    let metrics = cluster.metrics("site-a");
    assert_eq!(metrics.get("claudefs_replication_journal_exhaustion_seconds"), Some(f64::INFINITY));
    assert_eq!(metrics.get("claudefs_replication_sites_behind"), Some(0.0));
    let streams = expect_sound(&cluster, "site-b");
    assert!(number(&streams[0]["begins_after"]) > 0, "{streams:#}");
    cluster.expect_same_journals();
}

/// Invariant 10: a replica that stays away does not fill the disk. It is told apart as one that needs a snapshot, and is
/// never given a journal with a gap.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stays_away_beyond_the_budget_needs_a_snapshot() {
    let cluster = Cluster::up();
    keep(&cluster, &["site-a", "site-b"], "retention_bytes = \"4MiB\"");
    write(&cluster, 100).await;
    cluster.settle();
    cluster.stop("site-b");
    write(&cluster, 5000).await;
    let status = eventually("the journal to be within its budget", PATIENCE, || {
        let status = journal(&cluster, "site-a");
        let within = number(&status["bytes"]) <= 4 << 20 && status["compaction_pending"] == false;
        let within = within && status["sites"][0]["state"] == "down";
        if within { Ok(status) } else { Err(format!("{status:#}\n{}", cluster.log("site-a"))) }
    });
    let site = &status["sites"][0];
    assert_eq!((&site["site"], &site["state"]), (&"site-b".into(), &"down".into()), "{status:#}");
    assert!(site["needs_snapshot"].as_str().is_some_and(|why| why.contains("is kept from LSN")), "{status:#}");
    let health = cluster.admin("site-a", &["health", "-o", "json"]);
    assert!(health.out.contains("CFS-H032"), "{health:?}");
    assert_eq!(cluster.metrics("site-a").get("claudefs_replication_sites_behind"), Some(1.0));

    cluster.start("site-b");
    // It waits for a snapshot, or has had one.
    eventually("site-b to know", PATIENCE, || {
        let status = cluster.status("site-b");
        let waits = status["status"] == "WAITING" && status["why"].as_str().is_some_and(|why| why.contains("snapshot"));
        if waits || cluster.cursors("site-a") == cluster.cursors("site-b") { Ok(()) } else { Err(status.to_string()) }
    });
    let streams = expect_sound(&cluster, "site-b");
    for stream in streams.as_array().expect("streams") {
        assert_eq!(stream["damage"], Value::Array(Vec::new()), "{streams:#}");
    }
    // The primary goes on meanwhile.
    write(&cluster, 100).await;
}

/// Any site serves any stream: what one has removed comes from another that still has it.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_site_removed_comes_from_another() {
    let cluster = Cluster::up_with("site-a,site-b,site-c");
    cluster.settle();
    keep(&cluster, &["site-a"], "retention_bytes = \"4MiB\"");
    cluster.wait_ready();
    // A change of primary may have come with the restart.
    let primary = cluster.primary();
    let away = if primary == "site-c" { "site-b" } else { "site-c" };
    write(&cluster, 100).await;
    cluster.converge();
    cluster.stop(away);
    write(&cluster, 5000).await;
    eventually("site-a to remove what the site that is away lacks", PATIENCE, || {
        let status = journal(&cluster, "site-a");
        if number(&status["bytes"]) <= 4 << 20 { Ok(()) } else { Err(format!("{status:#}")) }
    });
    assert_eq!(cluster.metrics("site-a").get("claudefs_replication_sites_behind"), Some(0.0), "another has it all");
    cluster.start(away);
    cluster.converge();
    let log = cluster.log(away);
    assert!(!log.contains("needs a snapshot"), "{log}");
}

/// Invariant 5: what was removed is forgotten by every site at the same entry, once all of them have applied it; and not
/// while one is away.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_removed_is_forgotten_once_every_site_has_applied_it() {
    let cluster = Cluster::up();
    let (mut session, reply) = Session::hello(&socket(&cluster, "site-a"), "writer", "").await;
    let epoch = reply.role.expect("a primary").epoch;
    session.append(epoch, 1, vec![entry(1), entry(2)]).await;
    session.acked(2).await;
    cluster.settle();
    cluster.stop("site-b");
    let rmdir = Rmdir { parent: 1, name: Bytes::from_static(b"d1"), inode: 1_000_001 };
    session.append(epoch, 3, vec![Op { kind: Some(Kind::Rmdir(rmdir)) }.encode_to_vec().into()]).await;
    session.acked(3).await;
    let tombstones = |site: &str| number(&cluster.status(site)["tombstones"]);
    eventually("a tombstone", PATIENCE, || if tombstones("site-a") > 0 { Ok(()) } else { Err("none".into()) });
    // More than two looks of the primary.
    tokio::time::sleep(Duration::from_secs(65)).await;
    assert!(tombstones("site-a") > 0, "site-b has not applied the removal");
    cluster.start("site-b");
    eventually("both sites to forget", 4 * PATIENCE, || {
        let left = (tombstones("site-a"), tombstones("site-b"));
        if left == (0, 0) { Ok(()) } else { Err(format!("{left:?}\n{}", cluster.logs())) }
    });
    cluster.expect_identical();
}
