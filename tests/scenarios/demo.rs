//! The first thing a new user runs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{cfs, command};

/// A tree of 311 paths.
fn make_tree(at: &Path) {
    for directory in 0..10 {
        fs::create_dir_all(at.join(directory.to_string())).unwrap();
        (0..30).for_each(|file| fs::write(at.join(format!("{directory}/{file}")), b"x").unwrap());
    }
}

/// Processes whose command line names something in `dir`.
fn processes_of(dir: &Path) -> Vec<String> {
    let lines = fs::read_dir("/proc").unwrap().filter_map(|process| {
        let line = fs::read(process.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(dir.to_str().unwrap())).collect()
}

/// The demo moves the primary twice, proves the two sites identical and loses nothing; and it can fail: it notices a store
/// that somebody touched.
#[test]
fn the_demo_ends_with_a_verdict() {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    make_tree(&tree);
    let tree = tree.to_str().unwrap();
    let said = cfs(["demo", "--tree", tree]);
    assert!(said.code == 0 && said.out.to_lowercase().contains("identical"), "{said:?}");
    let said = cfs(["-o", "json", "demo", "--tree", tree, "--fast", "--tamper"]);
    assert!(said.code == 1 && said.out.contains("DIFFERENT"), "the demo did not notice the tampering: {said:?}");
    let found: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&found["paths_compared"], &found["paths_different"]), (&311.into(), &1.into()), "{found}");
    assert!(found["acknowledged"].as_u64().unwrap() > 0 && found["missing"] == 0, "{found}");
    let epoch = |change: &str| found[change]["epoch"].as_u64().unwrap();
    assert_eq!(epoch("failover"), epoch("switchover") + 1, "{found}");
    let ms = |change: &str, key: &str| found[change][key].as_f64().unwrap();
    assert!(ms("switchover", "gap_ms") > 0.0 && ms("failover", "ms") > 0.0, "{found}");
}

/// Interrupted in the middle, the demo leaves nothing behind.
#[test]
fn an_interrupted_demo_ends_what_it_started() {
    let place = tempfile::tempdir().unwrap();
    let (tree, temporary) = (place.path().join("tree"), place.path().join("tmp"));
    make_tree(&tree);
    fs::create_dir(&temporary).unwrap();
    let mut demo = command(["demo", "--fast", "--tree", tree.to_str().unwrap()])
        .env("TMPDIR", &temporary)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told: Vec<String> = lines.by_ref().take_while(|line| !line.contains("kill -9")).collect();
    let ran = processes_of(&temporary);
    kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
    let rest: Vec<String> = lines.collect();
    assert_eq!(demo.wait().unwrap().code(), Some(1), "{told:?} {rest:?}");
    assert!(rest.last().is_some_and(|line| line.contains("interrupted")), "{told:?} {rest:?}");
    assert!(ran.len() >= 4, "what ran was {ran:?}");
    assert_eq!(processes_of(&temporary), [""; 0]);
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}
