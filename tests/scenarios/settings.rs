//! Settings that hold on all sites: changed from any of them, in force while everything runs.

use std::collections::BTreeSet;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, Said, eventually, quiet};
use crate::load::{Load, RATE};

/// Appends entries at the primary that compress well, in one go; returns the LSN of the last.
fn append(cluster: &Cluster, site: &str, producer: &str, count: u64) -> u64 {
    let words = ["journal", "append", "--producer", producer, "-o", "jsonl"];
    let mut running = cluster.spawn_with_input(site, &words);
    let base = 10_000_000 + u64::try_from(producer.len()).expect("short") * 1_000_000;
    let line = |n: u64| {
        let name = format!("{}-{producer}-{n}", "a-name-that-compresses-well-".repeat(6));
        format!("{{\"mkdir\":{{\"parent\":1,\"name\":\"{name}\",\"inode\":{}}}}}\n", base + n)
    };
    running.write(&(1..=count).map(line).collect::<String>());
    running.close_input();
    let acks = running.finish().json_lines();
    assert_eq!(acks.len() as u64, count);
    acks.iter().filter_map(|ack| ack["lsn"].as_u64()).max().expect("an LSN")
}

/// (codecs, most entries in a batch) of what the batches of a stream say on the disk of a site after an LSN.
fn batches(cluster: &Cluster, site: &str, origin: &str, after: u64) -> (BTreeSet<String>, u64) {
    let from = (after + 1).to_string();
    let words = ["journal", "dump", "--stream", origin, "--from", &from, "-o", "jsonl"];
    let rows = cluster.at(site, &words).json_lines();
    let rows = rows.iter().filter(|row| row["batch"]["first_lsn"].as_u64() > Some(after));
    // A lone entry may be too short to compress, as the shippers' own are.
    let rows: Vec<&Value> = rows.filter(|row| row["op"]["mkdir"].is_object()).collect();
    assert!(!rows.is_empty(), "nothing was written after {after}");
    let codecs = rows.iter().map(|row| row["batch"]["codec"].as_str().expect("a codec").to_owned()).collect();
    let most = rows.iter().filter_map(|row| row["batch"]["entries"].as_u64()).max().expect("a number");
    (codecs, most)
}

fn only(codec: &str) -> BTreeSet<String> {
    [codec.to_owned()].into()
}

fn config(cluster: &Cluster, site: &str, flags: &[&str]) -> Said {
    cluster.admin(site, &[&["config"], flags].concat())
}

/// (value, origin, whether a restart is waited for) of a setting as a site shows it.
fn shown(cluster: &Cluster, site: &str, name: &str) -> (String, String, bool) {
    let all = config(cluster, site, &["-o", "json"]).json();
    let found = all["settings"].as_array().expect("settings").iter().find(|setting| setting["name"] == name);
    let found = found.unwrap_or_else(|| panic!("no {name} in {all:#}"));
    let text = |key: &str| found[key].as_str().expect("a text").to_owned();
    (text("value"), text("origin"), found["waits_for_restart"].as_bool().expect("a word"))
}

fn wait_shown(cluster: &Cluster, site: &str, name: &str, value: &str) {
    eventually("the setting to arrive", PATIENCE, || {
        let found = shown(cluster, site, name);
        if found.0 == value { Ok(()) } else { Err(format!("{site}: {name} = {found:?}\n{}", cluster.logs())) }
    });
}

/// Waits until the shipper of a site goes by this, as its log says: a batch made before would tell of the old one.
fn wait_in_force(cluster: &Cluster, site: &str, what: &str) {
    eventually("the setting to be in force", PATIENCE, || {
        let log = cluster.log(site);
        let last = log.lines().rev().find(|line| line.contains("other settings are in force"));
        if last.is_some_and(|line| line.contains(what)) { Ok(()) } else { Err(format!("{last:?}")) }
    });
}

fn events(cluster: &Cluster, site: &str) -> Vec<Value> {
    let history = cluster.admin(site, &["history", "--events", "--limit", "1000", "-o", "json"]).json();
    let events = history["events"].as_array().expect("events");
    events.iter().filter(|event| event["kind"] == "settings").cloned().collect()
}

/// Issue 4: changed on a replica, in force on the primary with the next batch, as the bytes on every site's disk say; kept
/// across a restart of everything.
#[test]
fn a_change_on_a_replica_is_live_everywhere_and_survives_a_restart_of_all() {
    let cluster = Cluster::up_with_witness();
    let before = append(&cluster, "site-a", "x", 200);
    assert_eq!(batches(&cluster, "site-a", "site-a", 0).0, only("lz4"), "the default");

    let said =
        config(&cluster, "site-b", &["--compression", "zstd:9", "--batch-size", "7", "--audit-retention", "30d"]);
    let text = said.ok();
    for line in [
        "compression = zstd:9 (was lz4): live, no restart needed",
        "batch_size = 7 (was 500): live, no restart needed",
        "audit_retention = 30d (was 90d): live, no restart needed",
        &format!("Answered by: {}", cluster.leader()),
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in:\n{text}");
    }
    wait_in_force(&cluster, "site-a", "Zstd(9)");
    let middle = append(&cluster, "site-a", "xx", 100);
    cluster.settle();
    for site in ["site-a", "site-b"] {
        let (codecs, most) = batches(&cluster, site, "site-a", before);
        assert_eq!((codecs, most), (only("zstd"), 7), "on the disk of {site}");
    }
    for site in ["site-a", "site-b", "site-w"] {
        wait_shown(&cluster, site, "batch_size", "7");
        assert_eq!(shown(&cluster, site, "audit_retention"), ("30d".into(), "cluster".into(), false), "{site}");
        assert_eq!(shown(&cluster, site, "batch_timeout_ms"), ("100".into(), "default".into(), false), "{site}");
    }

    // Threads are counted when a process starts, and the command says so.
    let text = config(&cluster, "site-w", &["--worker-threads", "3", "--compression", "none"]).ok();
    assert!(text.contains("worker_threads = 3 (was 0): needs a restart"), "{text}");
    assert!(text.contains("compression = none (was zstd:9): live, no restart needed"), "{text}");
    wait_in_force(&cluster, "site-a", "compression: None");
    append(&cluster, "site-a", "xxx", 100);
    assert_eq!(batches(&cluster, "site-a", "site-a", middle).0, only("none"));
    for site in ["site-a", "site-b"] {
        eventually("the restart to be waited for", PATIENCE, || {
            let found = shown(&cluster, site, "worker_threads");
            if found == ("3".into(), "cluster".into(), true) { Ok(()) } else { Err(format!("{site}: {found:?}")) }
        });
    }

    for site in ["site-a", "site-b", "site-w"] {
        cluster.kill_at_once(site);
    }
    for site in ["site-a", "site-b", "site-w"] {
        cluster.start(site);
    }
    cluster.wait_ready();
    for site in ["site-a", "site-b", "site-w"] {
        assert_eq!(shown(&cluster, site, "compression"), ("none".into(), "cluster".into(), false), "{site}");
        assert_eq!(shown(&cluster, site, "worker_threads"), ("3".into(), "cluster".into(), false), "{site}");
    }
    let primary = cluster.primary();
    let stream = cluster.cursors(&primary);
    let last = stream.iter().map(|(_, source, _)| *source).max().expect("a stream");
    append(&cluster, &primary, "xxxx", 50);
    let (codecs, most) = batches(&cluster, &primary, &primary, if primary == "site-a" { last } else { 0 });
    assert_eq!((codecs, most), (only("none"), 7), "after the restart");
    let said = config(&cluster, "site-a", &["--reset", "compression", "--reset", "batch-size"]).ok();
    assert!(said.contains("compression = lz4 (was none): live, no restart needed; each site's own"), "{said}");
    assert_eq!(shown(&cluster, "site-a", "compression"), ("lz4".into(), "default".into(), false));
    cluster.converge();
}

/// Issue 4, bad input: settings out of range or unknown are refused with the range, all at once, and nothing is changed.
#[test]
fn bad_values_are_refused_with_their_range_and_nothing_is_changed() {
    let cluster = Cluster::up_with_witness();
    let before = config(&cluster, "site-b", &["-o", "json"]).json();
    for (flags, says) in [
        (&["--batch-size", "1000", "--compression", "gzip"][..], "zstd:LEVEL with LEVEL from 1 to 19"),
        (&["--compression", "zstd:20"], "from 1 to 19"),
        (&["--batch-size", "0"], "use a whole number from 1 to 65536"),
        (&["--batch-size", "-5"], "use a whole number from 1 to 65536"),
        (&["--batch-timeout-ms", "soon"], "from 0 to 10000"),
        (&["--durability", "remote(2)"], "1 are enrolled: use local, or remote(1) to remote(1)"),
        (&["--durability", "everywhere"], "use local, or remote(K)"),
        (&["--audit-retention", "30"], "as in 30d"),
        (&["--journal-retention-bytes", "1KiB"], "use 1MiB to 16TiB"),
        (&["--lease-ms", "20"], "from 300 to 60000"),
        (&["--auto-rejoin", "maybe"], "use on or off"),
        (&["--reset", "batchsize"], "did you mean batch_size?"),
        (&["--reset", "lease_ms"], "set it to another"),
        (&["--partition-policy", "stop"], "use fence or continue"),
        (&["--active-active-mode", "maybe"], "use on or off"),
        (&["--active-active-mode", "on", "--batch-size", "10"], "is switched by itself"),
        (&["--reset", "active_active_mode"], "set it to another"),
    ] {
        let said = config(&cluster, "site-b", flags);
        assert_eq!(said.code, 2, "{flags:?}: {said:?}");
        assert!(said.err.contains(says) && said.out.is_empty(), "{flags:?} does not say {says:?}: {said:?}");
    }
    let both = config(&cluster, "site-a", &["--batch-size", "0", "--lease-ms", "1"]).failed();
    assert!(both.contains("batch_size = 0") && both.contains("lease_ms = 1"), "{both}");
    let after = config(&cluster, "site-b", &["-o", "json"]).json();
    assert_eq!(after["settings"], before["settings"]);
    assert_eq!((&after["version"], events(&cluster, "site-a")), (&0.into(), Vec::new()));

    // As the runbook greps.
    let page = config(&cluster, "site-a", &[]).ok();
    for word in [
        "active_active_mode = off",
        "audit_retention = 90d",
        "compression = lz4",
        "lease_ms = 1000",
        "partition_policy = fence",
    ] {
        assert!(page.lines().any(|line| line.starts_with(word)), "{word} is not in:\n{page}");
    }
    let same = config(&cluster, "site-b", &["--active-active-mode", "off"]).ok();
    assert!(same.contains("Nothing was changed"), "{same}");
}

/// Two operators at once: every change is made as a whole, and the trail tells in which order, each with what was before.
#[test]
fn the_changes_of_two_operators_follow_one_another() {
    let cluster = Cluster::up_with_witness();
    const EACH: u64 = 5;
    std::thread::scope(|scope| {
        for (site, base) in [("site-a", 1000), ("site-b", 2000)] {
            let cluster = &cluster;
            scope.spawn(move || {
                for n in 1..=EACH {
                    let (size, timeout) = ((base + n).to_string(), (base + n).to_string());
                    config(cluster, site, &["--batch-size", &size, "--batch-timeout-ms", &timeout]).ok();
                }
            });
        }
    });
    let leader = cluster.leader();
    let events = events(&cluster, &leader);
    assert_eq!(events.len() as u64, 2 * EACH, "{events:#?}");
    let mut value = "each site's own".to_owned();
    for event in &events {
        // batch_size: OLD -> NEW, batch_timeout_ms: OLD -> NEW
        let text = event["text"].as_str().expect("a text");
        let changes: Vec<(&str, &str)> = text
            .split(", ")
            .map(|change| change.split_once(": ").and_then(|(_, values)| values.split_once(" -> ")).expect("a change"))
            .collect();
        assert_eq!(changes.len(), 2, "{text}");
        assert!(changes.iter().all(|change| *change == (value.as_str(), changes[0].1)), "{text}, before: {value}");
        value = changes[0].1.to_owned();
        assert!(event["by"].as_str().is_some_and(|by| by.contains('@')), "{event:#}");
    }
    for site in ["site-a", "site-b", "site-w"] {
        wait_shown(&cluster, site, "batch_size", &value);
        wait_shown(&cluster, site, "batch_timeout_ms", &value);
    }
}

/// A site that is down while settings change is named, and goes by them when it is back, as replica and as primary.
#[test]
fn a_site_that_was_down_takes_the_change_when_it_is_back() {
    let cluster = Cluster::up_with_witness();
    cluster.kill_at_once("site-b");
    let changed = eventually("the loss to be noticed", PATIENCE, || {
        config(&cluster, "site-w", &["--compression", "lz4"]).ok();
        let said = config(&cluster, "site-a", &["--compression", "zstd", "-o", "json"]).json();
        if said["unreachable"].as_array().is_some_and(|sites| !sites.is_empty()) {
            Ok(said)
        } else {
            Err(said.to_string())
        }
    });
    assert_eq!(changed["unreachable"], serde_json::json!(["site-b"]), "{changed:#}");
    cluster.start("site-b");
    cluster.wait_ready();
    wait_in_force(&cluster, "site-b", "Zstd(3)");
    cluster.switch_to("site-a", "site-b");
    append(&cluster, "site-b", "x", 100);
    cluster.settle();
    for site in ["site-a", "site-b"] {
        assert_eq!(batches(&cluster, site, "site-b", 0).0, only("zstd"), "{site}");
    }
}

/// Durability is a promise to producers: raised live, it holds for what is acknowledged from then on (invariant 4).
#[test]
fn durability_is_raised_and_lowered_live() {
    let cluster = Cluster::up_with_witness();
    let said = config(&cluster, "site-b", &["--durability", "remote(1)"]).ok();
    assert!(said.contains("durability = remote(1) (was local): live, no restart needed"), "{said}");
    eventually("the promise to be shown", PATIENCE, || {
        let status = cluster.status("site-a");
        if status["durability"] == "remote(1)" { Ok(()) } else { Err(format!("{:#}", status["durability"])) }
    });
    append(&cluster, "site-a", "x", 50);
    let (held, _) = (cluster.cursors("site-b"), cluster.stop("site-b"));
    assert!(held.iter().any(|(_, source, _)| *source >= 50), "{held:?}");
    // Nobody else can hold it: an append waits.
    let words = ["journal", "append", "--producer", "waits", "-o", "jsonl"];
    let mut waiting = cluster.spawn_with_input("site-a", &words);
    waiting.write("{\"mkdir\":{\"parent\":1,\"name\":\"waits\",\"inode\":77}}\n");
    waiting.close_input();
    // One that is told to gives up, and says why.
    let words = ["journal", "append", "--producer", "gives-up", "-o", "jsonl", "--timeout", "4s"];
    let mut gives_up = cluster.spawn_with_input("site-a", &words);
    gives_up.write("{\"mkdir\":{\"parent\":1,\"name\":\"gives-up\",\"inode\":78}}\n");
    gives_up.close_input();
    let said = gives_up.finish();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.out.contains("unknown") && said.out.contains("gave up after 4s"), "{said:?}");
    assert!(said.err.contains("waiting: ") && said.err.contains("durability is not reached"), "{said:?}");
    assert!(!waiting.has_ended(), "an append was acknowledged that no other site holds\n{}", cluster.logs());
    cluster.start("site-b");
    assert_eq!(waiting.finish().code, 0);
    cluster.wait_ready();
    config(&cluster, "site-a", &["--durability", "local"]).ok();
    wait_shown(&cluster, "site-b", "durability", "local");
}

/// Invariants 4 and 5: the promise is raised from one copy to two, and right then the primary's site dies. Nothing that was
/// acknowledged under either promise is missing while the site is dead, and the new primary waits for two copies, which
/// there are only once it is back.
#[test]
fn the_primary_dies_as_the_promise_is_raised() {
    let _alone = quiet();
    let cluster = Cluster::up_with("site-a,site-b,site-c");
    cluster.wait_ready();
    config(&cluster, "site-b", &["--durability", "remote(1)"]).ok();
    wait_shown(&cluster, "site-a", "durability", "remote(1)");
    let epoch = cluster.epoch();
    let mut load = Load::start(&cluster, "site-b", "remote(1)", RATE / 5);
    load.until_more(&cluster);
    config(&cluster, "site-c", &["--durability", "remote(2)"]).ok();
    cluster.kill_at_once("site-a");
    eventually("the role to move", PATIENCE, || {
        let status = cluster.status("site-b");
        if status["epoch"] == epoch + 1 { Ok(()) } else { Err(format!("{status:#}\n{}", cluster.logs())) }
    });
    let new = cluster.primary();
    eventually("what was acknowledged to be at the new primary", PATIENCE, || {
        match cluster.missing(&new, load.record()) {
            0 => Ok(()),
            missing => Err(format!("{missing} entries are missing\n{}", cluster.logs())),
        }
    });
    wait_shown(&cluster, &new, "durability", "remote(2)");
    cluster.start("site-a");
    load.until_after(&cluster, epoch);
    let outcome = load.finish();
    cluster.converge();
    cluster.wait_ready();
    cluster.expect_nothing_missing(&outcome);
    assert_eq!(cluster.primary_and_epoch(), (new, epoch + 1), "{}", cluster.logs());
}

/// SIGHUP: what can be read again is in force, what cannot is named, a file with a problem changes nothing.
#[test]
fn at_a_hangup_the_file_is_read_again() {
    let cluster = Cluster::up_with_witness();
    let file = cluster.path("site-a", "repl.toml");
    let good = std::fs::read_to_string(&file).expect("a configuration");
    let hang_up = |text: &str| {
        std::fs::write(&file, text).expect("written");
        let layout = cluster.layout("site-a");
        for key in ["pid", "control_pid"] {
            let pid = i32::try_from(layout[key].as_i64().expect("a pid")).expect("a pid");
            kill_process(Pid::from_raw(pid).expect("a pid"), Signal::HUP).expect("it runs");
        }
    };
    let logged = |shipper: &[&str], control: &[&str]| {
        eventually("both processes to read the file", PATIENCE, || {
            let has = |log: String, what: &[&str]| what.iter().all(|word| log.lines().any(|line| line.contains(word)));
            let both = has(cluster.log("site-a"), shipper) && has(cluster.control_log("site-a"), control);
            if both { Ok(()) } else { Err(format!("{shipper:?} {control:?}\n{}", cluster.logs())) }
        });
    };
    hang_up(&format!("{good}\n[replication]\nbatch_size = 0\n"));
    logged(&["cannot be used", "1 to 65536"], &["cannot be used", "1 to 65536"]);
    // The command reads the file too.
    std::fs::write(&file, &good).expect("written");
    assert_eq!(shown(&cluster, "site-a", "batch_size"), ("500".into(), "default".into(), false));

    hang_up(&format!(
        "{good}\n[replication]\nbatch_size = 9\n[journal]\nsegment = \"8MiB\"\n\
         [control]\nlease_ms = 3000\ngroup = \"root\"\n[log]\nfilter = \"debug\"\n"
    ));
    logged(
        &[
            "replication.batch_size = \"9\" is in force",
            "journal.segment = \"8MiB\" takes effect after a restart",
            "DEBUG",
        ],
        &["control.group = \"root\" takes effect after a restart", "the cluster holds it", "DEBUG"],
    );
    assert_eq!(shown(&cluster, "site-a", "batch_size"), ("9".into(), "file".into(), false));
    let last = append(&cluster, "site-a", "x", 100);
    assert_eq!(batches(&cluster, "site-a", "site-a", 0).1, 9);

    // The cluster's word stands before the file's.
    config(&cluster, "site-b", &["--batch-size", "4"]).ok();
    wait_in_force(&cluster, "site-a", "batch_size: 4");
    hang_up(&format!("{good}\n[replication]\nbatch_size = 11\n"));
    eventually("the shipper to read the file", PATIENCE, || {
        let log = cluster.log("site-a");
        if log.contains("replication.batch_size = \"11\" has no effect: the cluster holds it") {
            Ok(())
        } else {
            Err(log)
        }
    });
    append(&cluster, "site-a", "xx", 50);
    assert_eq!(batches(&cluster, "site-a", "site-a", last).1, 4);
    assert_eq!(shown(&cluster, "site-a", "batch_size"), ("4".into(), "cluster".into(), false));
}
