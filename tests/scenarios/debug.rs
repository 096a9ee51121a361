//! What an operator sends to whoever helps: what the processes do, and one archive with what is left of a cluster.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, eventually};
use crate::load::{Load, RATE};

/// What nobody but the file system may read.
const ENTRY: &str =
    "{\"symlink\":{\"parent\":1,\"name\":\"l\",\"inode\":5000007,\"target\":\"a-value-of-an-entry\"}}\n";
const DEBUG: [&str; 3] = ["admin", "replication", "debug"];

fn debug(rest: &[&'static str]) -> Vec<&'static str> {
    [&DEBUG[..], rest].concat()
}

/// Lines of both processes, in the order of their times.
fn traced(cluster: &Cluster, site: &str, module: &'static str) -> (Vec<Value>, String) {
    let words = ["--trace", "--module", module, "--duration", "1500ms", "-o", "jsonl"];
    let said = cluster.at(site, &debug(&words));
    let err = said.err.clone();
    (said.json_lines(), err)
}

fn has(lines: &[Value], process: &str, target: &str) -> bool {
    lines
        .iter()
        .any(|line| line["process"] == process && line["target"].as_str().is_some_and(|t| t.starts_with(target)))
}

#[test]
fn both_processes_are_traced_and_one_alone_when_the_other_is_down() {
    let cluster = Cluster::up_with_witness();
    let load = Load::start(&cluster, "site-a", "local", RATE / 10);
    let lines = eventually("lines of both processes", PATIENCE, || {
        let (lines, err) = traced(&cluster, "site-a", "lease,commit,ship");
        let there = has(&lines, "control", "cfs_control::reporter")
            && has(&lines, "shipper", "cfs_shipper::path::commit")
            && has(&lines, "shipper", "cfs_shipper::path::ship");
        if there { Ok(lines) } else { Err(format!("{err}{lines:?}")) }
    });
    let times: Vec<i64> = lines.iter().map(|line| line["at_ns"].as_i64().expect("a time")).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(!has(&lines, "shipper", "cfs_shipper::path::apply"), "not asked for: {lines:?}");
    drop(load.finish());

    let refused = cluster.at("site-a", &debug(&["--trace", "--module", "h2"]));
    assert!(refused.code == 2 && refused.err.contains("raft | lease"), "{refused:?}");
    // A witness has one process, and lacks none.
    eventually("the witness's lines", PATIENCE, || {
        let (lines, err) = traced(&cluster, "site-w", "lease,raft");
        assert_eq!(err, "");
        if has(&lines, "control", "cfs_control") { Ok(()) } else { Err(format!("{lines:?}")) }
    });
    cluster.dev(&["kill", "site-b", "--only", "shipper"]).ok();
    eventually("lines of the process that is left", PATIENCE, || {
        let (lines, err) = traced(&cluster, "site-b", "lease");
        assert!(err.contains("claudefs-shipper is not traced until it runs"), "{err}");
        if has(&lines, "control", "cfs_control") { Ok(()) } else { Err(format!("{err}{lines:?}")) }
    });
}

/// Every file of a bundle, without its folder.
fn unpacked(bundle: &Path) -> BTreeMap<String, String> {
    let read = zstd::stream::read::Decoder::new(File::open(bundle).expect("it is there")).expect("zstd");
    let mut archive = tar::Archive::new(read);
    let files = archive.entries().expect("tar").map(|entry| {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").components().skip(1).collect::<std::path::PathBuf>();
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("text");
        (path.display().to_string(), text)
    });
    files.collect()
}

/// Lines of all private keys below a folder.
fn key_lines(dir: &Path) -> Vec<String> {
    let keys = walkdir::WalkDir::new(dir).into_iter().flatten();
    let keys = keys.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "key"));
    // The key that signs the audit trail is no text.
    let texts = keys.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts
        .flat_map(|text| text.lines().filter(|line| !line.contains("---")).map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[test]
fn a_bundle_holds_what_is_left_and_no_secrets() {
    let cluster = Cluster::up_with_witness();
    let mut append = cluster.spawn_with_input("site-a", &["journal", "append"]);
    append.write(ENTRY);
    append.close_input();
    append.finish().ok();
    cluster.settle();
    let token = format!("cfs1.{}", "e".repeat(40));
    let mut log = OpenOptions::new().append(true).open(cluster.path("site-a", "control.log")).expect("it is there");
    writeln!(log, "somebody pasted --token {token} here").expect("written");

    cluster.kill("site-b");
    cluster.kill("site-w");
    let bundle = cluster.dir().join("half.tar.zst");
    let path = bundle.to_str().expect("UTF-8");
    let made = cluster.at("site-a", &[&DEBUG[..], &["bundle", "--file", path, "-o", "json"]].concat()).json();
    let files = unpacked(&bundle);
    assert_eq!(made["files"], files.len());
    let manifest: Value = serde_json::from_str(&files["manifest.json"]).expect("JSON");
    let words: Vec<&str> =
        manifest["command_line"].as_array().expect("words").iter().filter_map(Value::as_str).collect();
    assert!(words.ends_with(&["admin", "replication", "debug", "bundle", "--file", path, "-o", "json"]), "{words:?}");
    for file in [
        "sites/site-a/status.json",
        "sites/site-a/health.txt",
        "sites/site-a/history.json",
        "sites/site-a/journal-status.json",
        "sites/site-a/metrics-control.txt",
        "sites/site-a/metrics-shipper.txt",
        "sites/site-a/raft.json",
        "configuration/in-force.json",
        "configuration/repl.toml",
        "configuration/certificates.txt",
        "logs/control.log",
        "logs/shipper.log",
        "system/disks.txt",
        "system/processes.txt",
    ] {
        assert!(files.get(file).is_some_and(|text| !text.is_empty()), "{file}: {:?}", files.keys());
    }
    for site in ["site-b", "site-w"] {
        assert!(!files.keys().any(|name| name.starts_with(&format!("sites/{site}/"))), "{:?}", files.keys());
        let said = manifest["missing"].to_string();
        assert!(said.contains(&format!("sites/{site}/everything")), "{said}");
    }
    let raft: Value = serde_json::from_str(&files["sites/site-a/raft.json"]).expect("JSON");
    assert_eq!(raft["members"].as_array().map(Vec::len), Some(3), "{raft}");
    assert!(raft["term"].as_u64() > Some(0) && raft["last_log"]["index"].as_u64() > Some(0), "{raft}");

    let keys = key_lines(cluster.dir());
    assert!(keys.len() > 10, "the keys were not found");
    for (name, text) in &files {
        assert!(!keys.iter().any(|line| text.contains(line)), "{name} holds a key");
        assert!(!text.contains(&token) && !text.contains("PRIVATE KEY"), "{name} holds a secret");
        assert!(!text.contains("a-value-of-an-entry"), "{name} holds what an entry says");
    }
    assert!(files["logs/control.log"].contains("--token [redacted] here"));
    assert!(made["redacted"].as_u64() >= Some(1), "{made}");
}
