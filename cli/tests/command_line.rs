//! The program as scripts see it: grammar, exit codes, what goes where. No daemon runs here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use cfs::args::Cli;
use clap::CommandFactory;

fn cfs(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cfs"));
    for name in std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("CFS_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null()).output().expect("cfs starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// A configuration whose socket nobody serves.
fn config_without_daemon(dir: &std::path::Path) -> String {
    let path = dir.join("repl.toml");
    let content = format!(
        "[site]\nname = \"site-a\"\nid = 1\n[cluster]\nid = \"00010203-0405-0607-0809-0a0b0c0d0eff\"\n\
         [paths]\nstate = \"{0}/state\"\nrun = \"{0}/run\"\n",
        dir.display()
    );
    std::fs::write(&path, content).expect("writable");
    path.to_str().expect("text").to_owned()
}

/// Every command that does something, as it is typed.
fn all_commands() -> BTreeSet<String> {
    fn collect(command: &clap::Command, path: &str, out: &mut BTreeSet<String>) {
        let visible: Vec<_> =
            command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help").collect();
        // Some do something by themselves and have further words besides.
        if visible.is_empty() || !command.is_subcommand_required_set() {
            out.insert(path.to_owned());
        }
        for sub in visible {
            collect(sub, &format!("{path} {}", sub.get_name()), out);
        }
    }
    let mut out = BTreeSet::new();
    collect(&Cli::command(), "cfs", &mut out);
    out
}

#[test]
fn the_grammar_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn commands_are_those_that_are_documented() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md")).expect("readable");
    let headings = page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    let documented: BTreeSet<String> = headings.map(str::to_owned).collect();
    assert_eq!(documented, all_commands());
}

#[test]
fn commands_keep_their_names() {
    let expected = "cfs admin meta consistency-check\ncfs admin meta lookup\ncfs admin meta ls\ncfs admin replication audit\n\
        cfs admin replication audit restore\ncfs admin replication audit verify\n\
        cfs admin replication bootstrap-status\ncfs admin replication config\n\
        cfs admin replication cursor status\ncfs admin replication debug\ncfs admin replication debug bundle\n\
        cfs admin replication enroll\ncfs admin replication failover\n\
        cfs admin replication gc\ncfs admin replication health\ncfs admin replication history\n\
        cfs admin replication invite\ncfs admin replication journal-status\ncfs admin replication lag\ncfs admin replication metrics\n\
        cfs admin replication rejoin\ncfs admin replication remove\ncfs admin replication resync\n\
        cfs admin replication shutdown\ncfs admin replication split-brain status\ncfs admin replication status\ncfs admin tls init\n\
        cfs admin tls install\ncfs admin tls issue\ncfs admin tls renew-certificates\ncfs admin tls rotate-ca\n\
        cfs admin tls status\ncfs bench append\ncfs bench verify\ncfs completions\ncfs config check\n\
        cfs config show\ncfs demo\ncfs dev delay\ncfs dev down\ncfs dev heal\ncfs dev kill\ncfs dev leader\n\
        cfs dev partition\ncfs dev pause\ncfs dev restart\ncfs dev resume\ncfs dev start\ncfs dev status\n\
        cfs dev stop\ncfs dev up\ncfs journal append\ncfs journal dump\ncfs journal import\ncfs journal verify\n\
        cfs man\ncfs preflight";
    assert_eq!(all_commands().into_iter().collect::<Vec<_>>().join("\n"), expected);
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for args in [
        &["frobnicate"][..],
        &["admin"],
        &["admin", "meta", "lookup", "minus-one"],
        &["admin", "replication", "status", "-o", "xml"],
        &["admin", "replication", "status", "--watch", "0"],
        &["admin", "replication", "failover"],
        &["admin", "replication", "failover", "--to", "Site_B"],
        &["admin", "replication", "failover", "--to", "site-b", "--timeout", "30"],
        &["admin", "replication", "debug"],
        &["admin", "replication", "debug", "--trace", "--duration", "2h"],
        &["admin", "replication", "debug", "--trace", "bundle"],
        &["admin", "replication", "enroll"],
        &["admin", "replication", "rejoin", "--primary", ""],
        &["admin", "replication", "remove"],
        &["admin", "replication", "resync"],
        &["admin", "replication", "resync", "--inode", "-1"],
        &["admin", "replication", "split-brain"],
        &["admin", "replication", "history", "--limit", "0"],
        &["admin", "replication", "history", "--follow", "5", "--events"],
        &["bench", "append", "--durability", "remote(0)"],
        &["bench", "append", "--entries", "0"],
        &["dev", "up"],
        &["dev", "up", "--dir", "x", "--sites", "Site_A"],
        &["dev", "kill", "--dir", "x"],
        &["dev", "kill", "--dir", "x", "site-a", "--only", "witness"],
        &["dev", "delay", "--dir", "x", "site-a", "site-b"],
        &["dev", "heal", "--dir", "x", "site-a"],
        &["admin", "tls", "issue", "site-b"],
        &["admin", "tls", "issue", "site-b", "--out", "x", "--role", "king"],
        &["journal", "dump"],
    ] {
        let output = cfs(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn without_a_daemon_the_error_names_the_socket_and_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config_without_daemon(dir.path());
    for args in [
        &["admin", "replication", "cursor", "status"][..],
        &["admin", "replication", "metrics", "summary"],
        &["admin", "meta", "ls", "-R", "/"],
        &["admin", "meta", "lookup", "1"],
        &["admin", "meta", "consistency-check"],
        &["admin", "replication", "resync", "--inode", "1"],
        &["bench", "append", "--entries", "1"],
    ] {
        let output = cfs(&[args, &["--config", &config]].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "{args:?} printed data");
        assert!(
            said.contains("run/shipper.sock") && said.contains("cfs dev start") && said.contains(&config),
            "{said}"
        );
        assert_eq!(said.matches("No such file").count(), 1, "the cause is told once: {said}");
    }
}

#[test]
fn without_a_control_process_the_error_names_its_unit() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config_without_daemon(dir.path());
    for args in [
        &["admin", "replication", "failover", "--to", "site-b", "--yes"][..],
        &["admin", "replication", "failover", "--to", "site-b", "--dry-run", "-o", "json"],
        &["admin", "replication", "invite", "site-b"],
        &["admin", "replication", "rejoin", "--primary", "site-b"],
        &["admin", "replication", "remove", "site-b", "--yes"],
        &["admin", "replication", "split-brain", "status"],
        &["admin", "replication", "history", "--events"],
        &["admin", "replication", "history", "--follow", "5"],
    ] {
        let output = cfs(&[args, &["--config", &config]].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "{args:?} printed data");
        for part in ["run/control.sock", "systemctl start claudefs-control", "cfs dev start", &config] {
            assert!(said.contains(part), "{args:?}: {said}");
        }
    }
}

#[test]
fn without_certificates_enroll_names_invite() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config_without_daemon(dir.path());
    let output =
        cfs(&["admin", "replication", "enroll", "--primary", "site-b", "--witness", "--config", config.as_str()]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["CFS-E135", "holds no certificates", "on site-b: cfs admin replication invite site-a", "--token"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn at_a_witness_what_needs_a_store_names_the_sites_that_have_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config_without_daemon(dir.path());
    let content = std::fs::read_to_string(&config).expect("readable");
    let content = content.replace("id = 1\n", "id = 1\nkind = \"witness\"\n");
    let peer = "[[peers]]\nname = \"site-b\"\nid = 2\npeer = \"127.0.0.1:1\"\ncontrol = \"127.0.0.1:2\"\n";
    std::fs::write(&config, format!("{content}{peer}")).expect("writable");
    let said_by = |args: &[&str]| {
        let output = cfs(&[args, &["--config", &config]].concat());
        assert_ne!(output.status.code(), Some(0), "{args:?}");
        format!("{}{}", text(&output.stdout), text(&output.stderr))
    };
    let said = said_by(&["admin", "meta", "consistency-check"]);
    assert!(said.contains("site-a is a witness and stores no data") && said.contains("site-b"), "{said}");
    assert!(!said.contains("claudefs-"), "{said}");
    let said = said_by(&["admin", "replication", "status"]);
    assert!(said.contains("systemctl start claudefs-control") && !said.contains("shipper"), "{said}");
}

#[test]
fn with_neither_process_status_names_both_units_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config_without_daemon(dir.path());
    let names_both = |said: &str| {
        for part in
            ["claudefs-control", "claudefs-shipper", "run/control.sock", "run/shipper.sock", "cfs dev start", &config]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
    };
    let began = Instant::now();
    for args in [
        &["admin", "replication", "status"][..],
        &["admin", "replication", "status", "--detailed", "-o", "yaml"],
        &["admin", "replication", "lag", "-o", "json"],
    ] {
        let output = cfs(&[args, &["--config", &config]].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?} printed data");
        names_both(&text(&output.stderr));
    }
    // For health, that nothing is known is an answer.
    let output = cfs(&["admin", "replication", "health", "--config", &config]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stdout).starts_with("Health: UNKNOWN\n"));
    names_both(&text(&output.stdout));
    assert!(began.elapsed() < Duration::from_secs(6), "it took {:?}", began.elapsed());
}

#[test]
fn with_neither_process_there_is_nothing_to_trace_and_still_a_bundle() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config_without_daemon(dir.path());
    let traced = cfs(&["admin", "replication", "debug", "--trace", "--config", &config]);
    let said = text(&traced.stderr);
    assert_eq!((traced.status.code(), traced.stdout.len()), (Some(1), 0), "{said}");
    for part in ["run/control.sock", "run/shipper.sock", "systemctl start claudefs-repl", "cfs dev start", &config] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let file = dir.path().join("bundle.tar.zst");
    let words = ["admin", "replication", "debug", "bundle", "-o", "json", "--config", &config, "--file"];
    let made = cfs(&[&words[..], &[file.to_str().expect("text")]].concat());
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    let json: serde_json::Value = serde_json::from_slice(&made.stdout).expect("JSON");
    assert_eq!((&json["schema"], &json["sites"][0]["answered_by"]), (&"cfs.debug-bundle/1".into(), &"files".into()));
    let missing = json["missing"].to_string();
    for part in ["sites/site-a/control", "sites/site-a/shipper", "sites/site-a/raft"] {
        assert!(missing.contains(part), "{part}: {missing}");
    }
    assert_eq!(json["bytes"], file.metadata().expect("it is there").len());
}

#[test]
fn without_a_configuration_the_error_names_it() {
    let output = cfs(&["admin", "replication", "status", "--config", "/nonexistent/repl.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nonexistent/repl.toml"));
}

#[test]
fn all_problems_of_a_configuration_are_listed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("repl.toml");
    std::fs::write(&path, "[site]\nname = \"Site A\"\nid = 0\n[listen]\nper = \"x\"\n").expect("writable");
    let path = path.to_str().expect("text");
    let output = cfs(&["config", "check", "--config", path, "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&json["schema"], &json["ok"]), (&"cfs.config-check/1".into(), &false.into()));
    let problems = json["problems"].to_string();
    for key in ["site.name", "site.id", "listen.per", "cluster.id"] {
        assert!(problems.contains(key), "{key}: {problems}");
    }
    let good = config_without_daemon(dir.path());
    assert_eq!(cfs(&["config", "check", "--config", &good]).status.code(), Some(0));
    let shown = text(&cfs(&["config", "show", "--config", &good]).stdout);
    assert!(shown.lines().any(|line| line.starts_with("site.name") && line.ends_with("file")), "{shown}");
}

#[test]
fn paths_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config_without_daemon(dir.path());
    let missing = dir.path().join("nothing");
    let missing = missing.to_str().expect("text");
    for (args, says) in [
        (&["admin", "meta", "ls", "usr"][..], "from the root"),
        (&["dev", "status", "--dir", missing], "cfs dev up"),
        (&["dev", "kill", "--dir", missing, "site-a"], "cfs dev up"),
        (&["dev", "partition", "--dir", missing, "site-a", "site-b"], "cfs dev up"),
        (&["dev", "leader", "--dir", missing, "site-a"], "cfs dev up"),
        (&["admin", "tls", "issue", "site-b", "--out", missing, "--ca-dir", missing], missing),
        (&["dev", "down", "--purge", "--dir", missing], "cfs dev up"),
        (&["journal", "verify", missing], missing),
        (&["journal", "dump", "--stream", "1.1", "--dir", missing], missing),
        (&["demo", "--tree", missing], missing),
    ] {
        let output = cfs(&[args, &["--config", &config]].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
    }
    assert!(!std::path::Path::new(missing).exists(), "a command that only looks made a directory");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cfs"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cfs starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(cfs(&["man", dir.path().to_str().expect("text")]).status.success());
    for command in all_commands() {
        let page = dir.path().join(format!("{}.1", command.replace(' ', "-")));
        assert!(page.exists(), "{}", page.display());
    }
}

#[test]
fn a_cluster_is_made_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config_without_daemon(dir.path());
    let tls = |args: &[&str]| cfs(&[&["admin", "tls"], args, &["--config", &config]].concat());
    let out = dir.path().join("for-b");
    let issue = ["issue", "site-b", "--out", out.to_str().expect("text"), "--role", "control"];
    assert_eq!(tls(&issue).status.code(), Some(1), "there is no authority yet");
    let made = tls(&["init", "-o", "json"]);
    let said = text(&made.stderr);
    assert_eq!(made.status.code(), Some(0), "{said}");
    let json: serde_json::Value = serde_json::from_slice(&made.stdout).expect("JSON");
    let cluster = json["cluster"].as_str().expect("an id");
    assert!(said.contains(&format!("id = \"{cluster}\"")), "{said}");
    let founding = std::fs::read_to_string(dir.path().join("founding")).expect("it was written");
    let founding: serde_json::Value = serde_json::from_str(&founding).expect("JSON");
    assert_eq!((&founding["format"], &founding["cluster"]), (&1.into(), &json["cluster"]));
    for role in ["shipper", "control", "producer", "operator"] {
        assert!(dir.path().join(format!("state/tls/{role}.pem")).exists(), "{role}");
    }
    let authority = std::fs::read(dir.path().join("ca/ca.key")).expect("it was made");
    let again = tls(&["init"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("ca/ca.pem exists"), "{}", text(&again.stderr));
    assert_eq!(std::fs::read(dir.path().join("ca/ca.key")).expect("it is there"), authority);
    assert_eq!(tls(&issue).status.code(), Some(0));
    assert!(out.join("control.pem").exists() && out.join("ca.pem").exists() && !out.join("shipper.pem").exists());
    assert_eq!(tls(&issue).status.code(), Some(1), "what is there is not replaced");
}
