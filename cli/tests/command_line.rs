//! The program as scripts see it: grammar, exit codes, what goes where. No daemon runs here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};

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
        if visible.is_empty() {
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
    let expected = "cfs admin meta consistency-check\ncfs admin meta lookup\ncfs admin meta ls\n\
        cfs admin replication cursor status\ncfs admin replication lag\ncfs admin replication metrics\n\
        cfs admin replication status\ncfs bench append\ncfs completions\ncfs config check\ncfs config show\ncfs demo\n\
        cfs dev down\ncfs dev kill\ncfs dev restart\ncfs dev start\ncfs dev status\ncfs dev stop\ncfs dev up\n\
        cfs journal append\ncfs journal dump\ncfs journal import\ncfs journal verify\ncfs man";
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
        &["bench", "append", "--durability", "remote(0)"],
        &["bench", "append", "--entries", "0"],
        &["dev", "up"],
        &["dev", "up", "--dir", "x", "--sites", "Site_A"],
        &["dev", "kill", "--dir", "x"],
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
        &["admin", "replication", "status"][..],
        &["admin", "replication", "lag", "-o", "json"],
        &["admin", "replication", "cursor", "status"],
        &["admin", "replication", "metrics", "summary"],
        &["admin", "meta", "ls", "-R", "/"],
        &["admin", "meta", "lookup", "1"],
        &["admin", "meta", "consistency-check"],
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
