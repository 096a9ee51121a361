//! A site that holds nothing comes to hold what the others hold, by a copy of a store, whatever dies on the way.

use std::time::Duration;

use bytes::Bytes;
use cfs_model::op::op::Kind;
use cfs_model::op::{Create, InodeKind, Mkdir, Op, SetXattr};
use prost::Message;
use rand::RngCore;
use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, Running, eventually, quiet};
use crate::load::Load;
use crate::process::command;
use crate::producers::{Session, socket};

/// Longest that a small copy may take beside other work.
const COPY_LIMIT: Duration = Duration::from_secs(120);

/// How long nobody looks at a large copy.
const SELDOM: Duration = Duration::from_secs(1);

/// How long appends are measured before a large copy.
const BEFORE: Duration = Duration::from_secs(20);

/// A file, and 2 KiB at it that no codec makes smaller.
fn file(number: u64) -> [Bytes; 2] {
    let inode = 5_000_000 + number;
    let name = format!("f{number}").into_bytes().into();
    let create = Create {
        parent: 1,
        name,
        inode,
        kind: InodeKind::File.into(),
        attributes: Some(Default::default()),
        ..Create::default()
    };
    let mut value = vec![0; 2048];
    rand::rng().fill_bytes(&mut value);
    let set = SetXattr { inode, name: Bytes::from_static(b"user.noise"), value: value.into() };
    [Kind::Create(create), Kind::SetXattr(set)].map(|kind| Op { kind: Some(kind) }.encode_to_vec().into())
}

/// The directory that they are in.
fn root() -> Bytes {
    let attributes = Some(Default::default());
    let mkdir = Mkdir { parent: 0, name: Bytes::from_static(b"/"), inode: 1, attributes };
    Op { kind: Some(Kind::Mkdir(mkdir)) }.encode_to_vec().into()
}

/// Appends so many files at the primary.
async fn fill(cluster: &Cluster, primary: &str, files: u64) {
    let (mut session, reply) = Session::hello(&socket(cluster, primary), "filler", "").await;
    let epoch = reply.role.expect("a role").epoch;
    let mut seq = reply.highest_seq;
    for first in (0..files).step_by(50) {
        let entries: Vec<Bytes> = (first..(first + 50).min(files)).flat_map(file).collect();
        let count = entries.len() as u64;
        session.append(epoch, seq + 1, entries).await;
        seq += count;
        session.acked(seq).await;
    }
}

/// Takes a site's state away but for its certificates: to the cluster it is a site that lost its disk.
fn wipe(cluster: &Cluster, site: &str) {
    for part in ["control", "journal", "meta", "shipper"] {
        std::fs::remove_dir_all(cluster.path(site, "state").join(part)).expect("it was there");
    }
}

/// Starts a site without waiting until it is ready.
pub(crate) fn start_only(cluster: &Cluster, site: &str) -> Running {
    let dir = cluster.dir().to_str().expect("UTF-8");
    Running::spawn(command(["dev", "start", "--dir", dir, site]))
}

fn bootstrap(cluster: &Cluster, site: &str) -> Result<Value, String> {
    let said = cluster.admin(site, &["bootstrap-status", "-o", "json"]);
    serde_json::from_str(&said.out).map_err(|e| format!("{e}: {said:?}"))
}

/// Waits until a site's enrolment is so far.
fn until(cluster: &Cluster, site: &str, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    eventually(what, COPY_LIMIT, || {
        let status = bootstrap(cluster, site)?;
        if is_it(&status) { Ok(status) } else { Err(format!("{status:#}\n{}", cluster.logs())) }
    })
}

fn enrol(cluster: &Cluster, site: &str, through: &str) {
    eventually("the site to be enrolled", PATIENCE, || {
        let said = cluster.admin(site, &["enroll", "--primary", through]);
        if said.code == 0 && said.out.contains("bootstrap-status") { Ok(()) } else { Err(format!("{said:?}")) }
    });
}

fn copied(status: &Value) -> u64 {
    status["bytes"].as_u64().expect("a number")
}

/// kill -9 of a shipper and its control process, and both come back.
fn kill_and_start(cluster: &Cluster, site: &str) -> Running {
    cluster.kill_at_once(site);
    start_only(cluster, site)
}

/// Invariants 5 and 6: a third site enrols under load by a copy, is killed on the way as is its source, goes on from where
/// it was, and ends with the digest of the others; the phases stay on record.
#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::await_holding_lock, reason = "the test has its runtime for itself")]
async fn a_site_enrols_by_a_copy_and_goes_on_after_kills() {
    let _alone = quiet();
    let cluster = Cluster::up_with("site-a,site-b,site-c");
    cluster.wait_ready();
    cluster.stop("site-c");
    wipe(&cluster, "site-c");
    cluster.configure("site-c", "[replication]\nsnapshot_above = \"0\"");
    fill(&cluster, "site-a", 12_000).await;
    let mut load = Load::start(&cluster, "site-a", "local", 100);

    let _starting = start_only(&cluster, "site-c");
    enrol(&cluster, "site-c", "site-a");
    let before = until(&cluster, "site-c", "a part of the copy", |s| s["phase"] == "SNAPSHOT" && copied(s) > 0);
    let source = before["source"].as_str().expect("a source").to_owned();
    assert_ne!(source, "site-a", "the replica gives its store, not the primary");
    let status = cluster.status("site-c");
    assert_eq!(status["status"], "ENROLLING", "{status:#}");
    let refused = cluster.admin("site-a", &["failover", "--to", "site-c", "--yes"]);
    assert!(refused.code == 1 && refused.err.contains("bootstrap-status"), "{refused:?}");

    let _again = kill_and_start(&cluster, "site-c");
    let after =
        until(&cluster, "site-c", "the copy to go on", |s| s["phase"] != "SNAPSHOT" || copied(s) > copied(&before));
    let _source = (after["phase"] == "SNAPSHOT").then(|| kill_and_start(&cluster, &source));
    let end = until(&cluster, "site-c", "the enrolment to be complete", |s| s["phase"] == "COMPLETE");
    let phases: Vec<&str> = end["phases"].as_array().unwrap().iter().map(|p| p["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["IDLE", "ENROLLING", "SNAPSHOT", "CATCHUP", "COMPLETE"], "{end:#}");
    assert_eq!(end["way"], "snapshot");
    let log = cluster.log("site-c");
    assert!(log.contains("resumed=true"), "it went on, and did not begin again:\n{log}");
    assert!(!log.contains("the copy begins again"), "{log}");

    load.until_more(&cluster);
    let outcome = load.finish();
    cluster.converge();
    cluster.expect_nothing_missing(&outcome);
    let said = cluster.at("site-c", &["admin", "meta", "consistency-check", "--local"]);
    assert_eq!(said.code, 0, "{said:?}");
    // What is on record outlasts the process.
    cluster.stop("site-c");
    cluster.start("site-c");
    assert_eq!(bootstrap(&cluster, "site-c").unwrap()["phases"], end["phases"]);
    let text = cluster.admin("site-c", &["bootstrap-status"]).ok();
    assert!(text.contains("COMPLETE (100.0%)") && text.contains("SNAPSHOT"), "{text}");
}

/// A small journal is pulled from its first entry; the phases are the same.
#[test]
fn a_site_enrols_by_the_journal_when_that_is_small() {
    let cluster = Cluster::up();
    let status = until(&cluster, "site-b", "the enrolment to be complete", |s| s["phase"] == "COMPLETE");
    assert_eq!((&status["way"], &status["bytes"]), (&Value::from("journal"), &Value::from(0)), "{status:#}");
    assert_eq!(status["phases"].as_array().map(Vec::len), Some(5), "{status:#}");
    assert_eq!(bootstrap(&cluster, "site-a").unwrap()["phase"], "COMPLETE", "it founded the cluster");
}

/// A site that is enrolled and stands in nobody's configuration is dialled at the address that it was enrolled with.
#[test]
fn a_site_that_no_configuration_names_is_dialled_all_the_same() {
    let cluster = Cluster::up_with("site-a,site-b,site-c");
    cluster.wait_ready();
    for site in ["site-a", "site-b"] {
        let path = cluster.path(site, "repl.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, after) = text.split_once("\n[[peers]]\nname = \"site-c\"").expect("site-c is a peer");
        let rest = after.split_once("\n[[peers]]").map(|(_, rest)| format!("\n[[peers]]{rest}")).unwrap_or_default();
        std::fs::write(&path, format!("{before}{rest}")).unwrap();
        cluster.stop(site);
        cluster.start(site);
    }
    cluster.wait_ready();
    let load = Load::start(&cluster, "site-c", "local", 50);
    let outcome = load.finish();
    cluster.converge();
    cluster.expect_nothing_missing(&outcome);
}

/// Leaving hands the role over, costs nothing that was acknowledged, and `enroll` brings the site back.
#[test]
fn a_primary_leaves_and_comes_back() {
    let cluster = Cluster::up_with("site-a,site-b,site-c");
    cluster.wait_ready();
    let mut load = Load::start(&cluster, "site-b", "local", 50);
    let said = cluster.admin("site-a", &["shutdown", "--graceful", "--yes"]);
    assert_eq!(said.code, 0, "{said:?}\n{}", cluster.logs());
    load.until_more(&cluster);
    eventually("the others to list it no more", PATIENCE, || {
        let status = cluster.status("site-b");
        let named = status["peers"]
            .as_array()
            .unwrap()
            .iter()
            .any(|peer| peer["site"] == "site-a" && peer["enrolled"] != false);
        if named { Err(format!("{status:#}")) } else { Ok(()) }
    });
    cluster.wait_status("site-a", "REMOVED", PATIENCE);
    // It gets nothing any more, and where it is switched off nobody misses it.
    let applied = || {
        let cursors = cluster.admin("site-a", &["cursor", "status", "-o", "json"]).json();
        let streams = cursors["streams"].as_array().expect("streams").iter();
        streams.map(|cursor| (cursor["stream"].to_string(), cursor["applied"].to_string())).collect::<Vec<_>>()
    };
    eventually("site-a to get nothing any more", PATIENCE, || {
        let before = applied();
        load.until_more(&cluster);
        let after = applied();
        if after == before { Ok(()) } else { Err(format!("{before:?} {after:?}\n{}", cluster.logs())) }
    });
    cluster.dev(&["stop", "site-a"]).ok();
    load.until_more(&cluster);
    for site in ["site-b", "site-c"] {
        for words in [&["meta", "consistency-check"][..], &["tls", "status"], &["replication", "split-brain", "status"]]
        {
            let said = cluster.at(site, &[&["admin"], words].concat());
            let named = said.out.contains("site-a ") || said.out.contains("site-a:");
            assert!(said.code == 0 && !named, "{words:?} at {site}: {said:?}\n{}", cluster.logs());
        }
        // Its shipper may hear of the removal a moment later.
        eventually("the metrics to forget it", PATIENCE, || {
            let metrics = cluster.admin(site, &["metrics"]);
            if metrics.out.contains("site=\"site-a\"") { Err(format!("{site}: {metrics:?}")) } else { Ok(()) }
        });
    }
    let _starting = start_only(&cluster, "site-a");
    cluster.wait_status("site-a", "REMOVED", PATIENCE);
    let again = cluster.admin("site-a", &["shutdown", "--graceful", "--yes"]);
    assert_eq!(again.code, 0, "{again:?}");
    enrol(&cluster, "site-a", "site-b");
    load.until_more(&cluster);
    let outcome = load.finish();
    cluster.wait_ready();
    cluster.converge();
    cluster.expect_nothing_missing(&outcome);
}

/// What is left of old data at a site.
fn aside(cluster: &Cluster, site: &str) -> Vec<String> {
    let entries = std::fs::read_dir(cluster.path(site, "state")).expect("it has state");
    let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains("before-rebuild")).collect()
}

fn incarnation(cluster: &Cluster, site: &str) -> Option<u64> {
    let kept = std::fs::read(cluster.path(site, "state/shipper/governed.json")).ok()?;
    serde_json::from_slice::<Value>(&kept).ok()?["incarnation"].as_u64()
}

fn rebuild(cluster: &Cluster, site: &str, through: &str) -> crate::process::Said {
    cluster.admin(site, &["enroll", "--primary", through, "--force-rebuild"])
}

/// Invariants 4 to 6: a replica is rebuilt while writes go on, is killed on the way, ends with the others' digest, another
/// incarnation and no old data; and once more with a store that does not open, when the old data stay.
#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::await_holding_lock, reason = "the test has its runtime for itself")]
async fn a_site_is_rebuilt_under_load_and_with_a_store_that_does_not_open() {
    let _alone = quiet();
    let cluster = Cluster::up_with("site-a,site-b,site-c");
    cluster.wait_ready();
    fill(&cluster, "site-a", 6_000).await;
    for (site, through, why) in [
        ("site-a", "site-b", "site-a is primary"),
        ("site-b", "site-b", "rebuilt from itself"),
        ("site-b", "site-z", "neither enrolled nor in the configuration"),
    ] {
        let refused = rebuild(&cluster, site, through);
        assert!(refused.code == 1 && refused.err.contains(why), "{refused:?}");
        assert_eq!(aside(&cluster, site), [""; 0], "nothing was changed");
    }
    let before = eventually("an incarnation", PATIENCE, || incarnation(&cluster, "site-b").ok_or("none".to_owned()));

    let mut load = Load::start(&cluster, "site-a", "local", 100);
    let said = rebuild(&cluster, "site-b", "site-a");
    assert!(said.code == 0 && said.out.contains("bootstrap-status"), "{said:?}\n{}", cluster.logs());
    let begun = |s: &Value| s["phase"] != "COMPLETE" || s["way"] == "snapshot";
    until(&cluster, "site-b", "the rebuild to begin", begun);
    let _again = kill_and_start(&cluster, "site-b");
    let end =
        until(&cluster, "site-b", "the rebuild to be complete", |s| s["phase"] == "COMPLETE" && s["aside"].is_null());
    let phases: Vec<&str> = end["phases"].as_array().unwrap().iter().map(|p| p["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["IDLE", "ENROLLING", "SNAPSHOT", "CATCHUP", "COMPLETE"], "{end:#}");
    assert_eq!(end["way"], "snapshot", "{end:#}");
    assert_eq!(aside(&cluster, "site-b"), [""; 0], "the old data are removed");
    eventually("another incarnation", PATIENCE, || match incarnation(&cluster, "site-b") {
        Some(now) if now > before => Ok(()),
        other => Err(format!("{other:?} after {before}")),
    });

    cluster.stop("site-b");
    std::fs::write(cluster.path("site-b", "state/meta/data.mdb"), vec![0xa5; 1 << 16]).expect("damaged");
    let dir = cluster.dir().to_str().expect("UTF-8");
    let _control = Running::spawn(command(["dev", "start", "--dir", dir, "site-b", "--only", "control"]));
    let said = eventually("the order to be left", PATIENCE, || {
        let said = rebuild(&cluster, "site-b", "site-a");
        if said.code == 0 { Ok(said) } else { Err(format!("{said:?}")) }
    });
    assert!(said.out.contains("systemctl start claudefs-shipper"), "{said:?}");
    let _starting = start_only(&cluster, "site-b");
    let end = until(&cluster, "site-b", "the second rebuild", |s| {
        s["phase"] == "COMPLETE" && s["aside"].as_str().is_some_and(|aside| aside.contains("kept because"))
    });
    assert_eq!(aside(&cluster, "site-b").len(), 2, "{end:#}");
    load.until_more(&cluster);
    let outcome = load.finish();
    cluster.converge();
    cluster.expect_nothing_missing(&outcome);
    let said = cluster.at("site-b", &["admin", "meta", "consistency-check", "--local"]);
    assert_eq!(said.code, 0, "{said:?}");
}

/// A store that is gone while the journal begins later, and one that is damaged in the middle of a rebuild: the first mends itself, the
/// second by the command that began it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_is_copied_again_and_a_broken_rebuild_is_begun_anew() {
    let cluster = Cluster::bare("site-a,site-b", None);
    cluster.configure("site-b", "[replication]\nsnapshot_above = \"0\"");
    for site in ["site-a", "site-b"] {
        cluster.start(site);
    }
    fill(&cluster, "site-a", 300).await;
    enrol(&cluster, "site-b", "site-a");
    let end = until(&cluster, "site-b", "the copy", |s| s["phase"] == "COMPLETE");
    assert_eq!(end["way"], "snapshot", "{end:#}");
    let complete_at = end["phases"].clone();

    cluster.stop("site-b");
    let store = cluster.path("site-b", "state").join("meta");
    std::fs::remove_dir_all(&store).unwrap();
    let _starting = start_only(&cluster, "site-b");
    until(&cluster, "site-b", "another copy", |s| s["phase"] == "COMPLETE" && s["phases"] != complete_at);
    cluster.settle();

    cluster.admin("site-b", &["enroll", "--primary", "site-a", "--force-rebuild"]).ok();
    let at_once = bootstrap(&cluster, "site-b");
    assert!(at_once.is_err() || at_once.as_ref().is_ok_and(|s| s["phase"] != "COMPLETE"), "{at_once:?}");
    until(&cluster, "site-b", "the rebuild to have begun", |s| s["phase"] != "IDLE");
    cluster.kill("site-b");
    let order = cluster.path("site-b", "state").join("shipper/rebuild.json");
    if !order.exists() {
        return eprintln!("the rebuild was over before the kill: nothing is left to damage");
    }
    std::fs::write(store.join("data.mdb"), vec![0x5a; 8192]).unwrap();
    // Its shipper does not start over that.
    let said = cluster.dev(&["start", "site-b"]);
    assert_ne!(said.code, 0, "{said:?}");
    let begun = cluster.admin("site-b", &["enroll", "--primary", "site-a", "--force-rebuild"]);
    assert!(begun.code == 0 && begun.out.contains("removes what it has copied"), "{begun:?}\n{}", cluster.logs());
    let _starting = start_only(&cluster, "site-b");
    until(&cluster, "site-b", "the rebuild", |s| s["phase"] == "COMPLETE");
    cluster.settle();
    assert_eq!(aside(&cluster, "site-b"), Vec::<String>::new(), "the old data went with its end");
}

/// A number from the environment.
fn set(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// The same as [`until`], looking seldom: a look starts a program, and shares the processors with what is measured.
fn until_seldom(cluster: &Cluster, site: &str, limit: Duration, is_it: impl Fn(&Value) -> bool) -> Value {
    eventually("the copy to go on", limit, || {
        std::thread::sleep(SELDOM);
        let status = bootstrap(cluster, site)?;
        if is_it(&status) { Ok(status) } else { Err(format!("{status:#}\n{}", cluster.logs())) }
    })
}

/// Within this 99 of 100 appends of a load were acknowledged, in ms.
fn p99_ms(outcome: &crate::load::Outcome) -> f64 {
    outcome.report["ack_ms"]["p99"].as_f64().expect("a number")
}

/// `CFS_INODES` inodes (2 million) enrol while `CFS_RATE` entries a second (5000) arrive, killed -9 twice on the way. Appends take at
/// most twice as long as before.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a campaign: it takes minutes"]
#[allow(clippy::await_holding_lock, reason = "the test has its runtime for itself")]
async fn campaign_a_large_site_enrols_under_load() {
    let _alone = quiet();
    let (inodes, rate) = (set("CFS_INODES", 2_000_000), set("CFS_RATE", 5000));
    let limit = Duration::from_secs(set("CFS_LIMIT_S", 3600));
    let cluster = Cluster::up_with("site-a,site-b,site-c");
    cluster.wait_ready();
    cluster.stop("site-c");
    wipe(&cluster, "site-c");
    cluster.configure("site-c", "[replication]\nsnapshot_above = \"0\"");
    let (mut session, reply) = Session::hello(&socket(&cluster, "site-a"), "filler", "").await;
    let (epoch, mut seq) = (reply.role.expect("a role").epoch, reply.highest_seq + 1);
    session.append(epoch, seq, vec![root()]).await;
    for first in (0..inodes).step_by(1000) {
        let entries: Vec<Bytes> = (first..(first + 1000).min(inodes)).map(|n| file(n)[0].clone()).collect();
        seq += entries.len() as u64;
        session.append(epoch, seq + 1 - entries.len() as u64, entries).await;
        session.acked(seq).await;
    }
    cluster.catch_up(&["site-a", "site-b"]);
    let load = Load::start(&cluster, "site-a", "local", rate);
    tokio::time::sleep(BEFORE).await;
    let before_ms = p99_ms(&load.finish());
    let load = Load::start(&cluster, "site-a", "local", rate);
    let _starting = start_only(&cluster, "site-c");
    enrol(&cluster, "site-c", "site-a");
    let mut kept = Vec::new();
    for percent in [20.0, 60.0] {
        let at = until_seldom(&cluster, "site-c", limit, |status| {
            let far = status["phase"] != "SNAPSHOT" || status["percent"].as_f64().is_some_and(|p| p >= percent);
            far && status["way"] == "snapshot"
        });
        eprintln!("killed at {at:#}");
        assert_eq!(at["phase"], "SNAPSHOT", "the copy was over before it was killed: give CFS_INODES more");
        kept.push(kill_and_start(&cluster, "site-c"));
    }
    let end = until_seldom(&cluster, "site-c", limit, |status| status["phase"] == "COMPLETE");
    eprintln!("{end:#}");
    let outcome = load.finish();
    let during_ms = p99_ms(&outcome);
    eprintln!("99 of 100 acknowledged within {before_ms} ms before, {during_ms} ms meanwhile; {:#}", outcome.report);
    cluster.converge();
    cluster.expect_nothing_missing(&outcome);
    assert!(during_ms <= 2.0 * before_ms, "appends took {during_ms} ms during the copy, {before_ms} ms before");
}
