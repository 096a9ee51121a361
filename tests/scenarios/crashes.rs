//! Processes that end without warning.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::Rng;

use crate::harness::{Cluster, PATIENCE, eventually};
use crate::producers::in_journal;
use crate::tree::{at_site, expect_same, on_disk};

/// Waits for a moment that nobody chose.
pub(crate) fn random_pause(longest_ms: u64) {
    let pause = Duration::from_millis(rand::rng().random_range(20..longest_ms));
    eprintln!("kill after {pause:?}");
    std::thread::sleep(pause);
}

fn grow(tree: &Path, round: usize) {
    for directory in 0..20 {
        let directory = tree.join(format!("{round}/{directory}"));
        fs::create_dir_all(&directory).unwrap();
        (0..100).for_each(|file| fs::write(directory.join(file.to_string()), b"x").unwrap());
    }
}

/// Invariants 3, 4, 6 and 8: `kill -9` of either shipper at any moment of an import; resumed or repeated, the import
/// ends with the same tree on both sites and the same bytes in both journals.
#[test]
fn an_import_survives_the_death_of_either_site() {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    let cluster = Cluster::up();
    for (round, site) in ["site-a", "site-b", "site-a", "site-b"].into_iter().enumerate() {
        grow(&tree, round);
        let importing = cluster.spawn("site-a", &["journal", "import", "--tree", tree.to_str().unwrap()]);
        random_pause(900);
        cluster.kill(site);
        random_pause(300);
        cluster.start(site);
        // It may have given up, but then it says so and a second one ends.
        let said = importing.finish();
        if said.code != 0 {
            eprintln!("the import ended with: {}", said.err);
            cluster.import(&tree).ok();
        }
        cluster.settle();
    }
    // Whatever was interrupted, repeating it leaves nothing out and nothing double.
    cluster.import(&tree).ok();
    cluster.expect_identical();
    let disk = on_disk(&tree);
    expect_same(&disk, &at_site(&cluster, "site-a"));
    expect_same(&disk, &at_site(&cluster, "site-b"));
    cluster.expect_same_journals();
}

/// Invariants 4 and 8: every acknowledged entry of `cfs journal append` is in both journals, and each line is there once,
/// however often the shippers died in between.
#[test]
fn appends_survive_the_death_of_either_site() {
    const LINES: u64 = 3000;
    let cluster = Cluster::up();
    let mut appending =
        cluster.spawn_with_input("site-a", &["journal", "append", "--producer", "lines", "-o", "jsonl"]);
    let started = Instant::now();
    for number in 1..=LINES {
        let inode = 1_000_000 + number;
        appending.write(&format!("{{\"mkdir\":{{\"parent\":1,\"name\":\"d{number}\",\"inode\":{inode}}}}}\n"));
        match number {
            500 | 1500 => kill_and_start(&cluster, "site-a"),
            1000 | 2000 => kill_and_start(&cluster, "site-b"),
            _ => {}
        }
    }
    appending.close_input();
    let said = appending.finish();
    assert_eq!(said.code, 0, "{} (after {:?})", said.err, started.elapsed());
    let acks = said.json_lines();
    assert_eq!(acks.len() as u64, LINES, "one ack for each line");
    cluster.settle();
    let (a, b) = (in_journal(&cluster, "site-a"), in_journal(&cluster, "site-b"));
    assert_eq!(a, b);
    let expected = (1..=LINES).map(|number| (number, 1)).collect();
    assert_eq!(a, expected, "every line is there once");
    // An ack names a place at or after the one where its entry really is, and lines are acknowledged in order.
    let dump = cluster.at("site-b", &["journal", "dump", "--stream", "site-a", "-o", "jsonl"]).json_lines();
    let place =
        |line: &serde_json::Value| Some((line["op"]["mkdir"]["inode"].as_u64()? - 1_000_000, line["lsn"].as_u64()?));
    let places: std::collections::BTreeMap<u64, u64> = dump.iter().filter_map(place).collect();
    for (number, ack) in (1..).zip(&acks) {
        assert_eq!((&ack["line"], &ack["status"]), (&number.into(), &"acked".into()), "{ack}");
        assert!(ack["lsn"].as_u64().is_some_and(|lsn| lsn >= places[&number]), "{ack}, it is at {}", places[&number]);
    }
    cluster.expect_identical();
    cluster.expect_same_journals();
}

fn kill_and_start(cluster: &Cluster, site: &str) {
    random_pause(300);
    cluster.kill(site);
    cluster.start(site);
}

/// Invariant 6: what a site reported before it died it still has when it is back, also when both die at once.
#[test]
fn no_cursor_goes_back() {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    let cluster = Cluster::up();
    for round in 0..2 {
        grow(&tree, round);
        let mut importing = cluster.spawn("site-a", &["journal", "import", "--tree", tree.to_str().unwrap()]);
        random_pause(500);
        let reported = (cluster.cursors("site-a"), cluster.cursors("site-b"));
        cluster.kill("site-a");
        cluster.kill("site-b");
        importing.kill();
        cluster.dev(&["up"]).ok();
        for (site, before) in [("site-a", reported.0), ("site-b", reported.1)] {
            eventually("the cursors of before", PATIENCE, || {
                let now = cluster.cursors(site);
                let held =
                    |(stream, _, applied): &(String, u64, u64)| now.iter().any(|(s, _, a)| s == stream && a >= applied);
                if before.iter().all(held) { Ok(()) } else { Err(format!("{site}: {before:?}, now {now:?}")) }
            });
        }
    }
    cluster.import(&tree).ok();
    cluster.expect_identical();
    expect_same(&on_disk(&tree), &at_site(&cluster, "site-b"));
}
