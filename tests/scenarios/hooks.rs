//! Programs of the operator that are asked before a site becomes primary, and told afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::bad_input::{before, refused};
use crate::harness::{Cluster, PATIENCE, eventually, quiet};
use crate::load::{Load, RATE};

/// A program that the operator configured.
pub(crate) fn hook(place: &Path, name: &str, script: &str) -> PathBuf {
    let path = place.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Starts a site's control process anew with this program in its configuration, which was `sound` without.
pub(crate) fn use_hook(cluster: &Cluster, site: &str, sound: &str, key: &str, program: &Path) {
    let toml = format!("[control]\nhook_timeout_ms = 1000\n{key} = {:?}\n", program.to_str().expect("UTF-8"));
    fs::write(cluster.path(site, "repl.toml"), format!("{sound}\n{toml}")).unwrap();
    cluster.dev(&["restart", "--now", site, "--only", "control"]).ok();
    cluster.wait_ready();
}

/// Programs of the operator that hang, crash, are missing or say no: the role stays where it is until `--force`, and a
/// second order meanwhile is refused. One that agrees is given what the documentation says.
#[test]
fn hooks_that_hang_crash_or_are_missing_stop_only_the_promotion() {
    let _alone = quiet();
    let place = tempfile::tempdir().unwrap();
    let cluster = Cluster::up_with_witness();
    let sound = fs::read_to_string(cluster.path("site-b", "repl.toml")).unwrap();
    let was = before(&cluster);
    assert_eq!(was.0, "site-a");
    let programs = [
        ("hangs", hook(place.path(), "hangs", "sleep 60"), "1000 ms"),
        ("crashes", hook(place.path(), "crashes", "kill -9 $$"), "signal"),
        ("says no", hook(place.path(), "no", "echo not on a Tuesday >&2; exit 3"), "not on a Tuesday"),
        ("is missing", place.path().join("nothing"), "nothing"),
    ];
    for (what, program, why) in &programs {
        use_hook(&cluster, "site-b", &sound, "pre_promote", program);
        let mut load = Load::start(&cluster, "site-a", "local", RATE / 5);
        let ordered = cluster.spawn("site-a", &["admin", "replication", "failover", "--to", "site-b", "--yes"]);
        let text = refused(ordered.finish(), &["site-b", why]);
        eprintln!("a hook that {what}: {text}");
        load.until_more(&cluster);
        let outcome = load.finish();
        assert!(outcome.tenures().iter().all(|tenure| tenure.site == "site-a"), "{:?}", outcome.tenures());
        assert_eq!(cluster.primary_and_epoch(), ("site-a".into(), was.1), "a hook that {what} was not heeded");
    }
    // `--force` overrides a veto.
    let forced = cluster.admin("site-a", &["failover", "--to", "site-b", "--force", "--yes"]);
    assert_eq!(forced.code, 0, "{forced:?}\n{}", cluster.logs());
    assert_eq!(cluster.primary_and_epoch(), ("site-b".into(), was.1 + 1));
    cluster.switch_to("site-a", "site-a");
    cluster.wait_ready();

    let told = place.path().join("told");
    let note = format!("printf '%s\\n' \"$*\" >> {}", told.display());
    use_hook(&cluster, "site-b", &sound, "pre_promote", &hook(place.path(), "yes", &note));
    cluster.switch_to("site-a", "site-b");
    let arguments = fs::read_to_string(&told).unwrap();
    assert!(arguments.starts_with("site-b "), "PROGRAM SITE EPOCH REASON, but {arguments:?}");
}

/// The primary is lost, and the hook of the only candidate says no: an operator is told so, and overrules it.
#[test]
fn a_hook_that_stops_a_failover_is_overruled() {
    let place = tempfile::tempdir().unwrap();
    let cluster = Cluster::up_with_witness();
    cluster.switch_to("site-a", "site-a");
    let sound = fs::read_to_string(cluster.path("site-b", "repl.toml")).unwrap();
    use_hook(&cluster, "site-b", &sound, "pre_promote", &place.path().join("nothing"));
    let epoch = cluster.epoch();
    cluster.kill_at_once("site-a");
    let leader = eventually("the veto to be told", 2 * PATIENCE, || {
        let leader = cluster.leader();
        let said = cluster.admin(&leader, &["health"]);
        let told = said.out.contains("mend the pre_promote hook of site-b") && said.out.contains("--to site-b --force");
        if told { Ok(leader) } else { Err(format!("{said:?}\n{}", cluster.logs())) }
    });
    let order = ["failover", "--to", "site-b", "--yes"];
    refused(cluster.admin(&leader, &order), &["site-b", "pre_promote", "--force"]);
    let forced = cluster.admin("site-b", &[order.as_slice(), &["--force"]].concat());
    assert_eq!(forced.code, 0, "{forced:?}\n{}", cluster.logs());
    assert_eq!(cluster.status("site-b")["primary"], "site-b");
    assert_eq!(cluster.epoch(), epoch + 1);
}

/// Each change of role is told once, in order, also if the program fails at first and the process dies in between.
#[test]
fn changes_of_role_are_told_in_order_and_none_is_lost() {
    let place = tempfile::tempdir().unwrap();
    let told = place.path().join("told");
    let cluster = Cluster::up_with_witness();
    let sound = fs::read_to_string(cluster.path("site-b", "repl.toml")).unwrap();
    let once = place.path().join("failed-once");
    let script = format!(
        "test -e {once} || {{ touch {once}; exit 1; }}\nprintf '%s %s\\n' \"$1\" \"$3\" >> {told}",
        once = once.display(),
        told = told.display()
    );
    use_hook(&cluster, "site-b", &sound, "post_role_change", &hook(place.path(), "post", &script));
    cluster.switch_to("site-a", "site-b");
    cluster.dev(&["kill", "site-b", "--only", "control"]).ok();
    cluster.dev(&["start", "site-b", "--only", "control"]).ok();
    cluster.wait_ready();
    let (primary, _) = cluster.primary_and_epoch();
    cluster.switch_to("site-w", &cluster.other(&primary));
    let changes = cluster.changes("site-b");
    let opened = changes.iter().filter(|change| change["outcome"] == "opened");
    let expected: Vec<&str> = opened.map(|c| if c["to"] == "site-b" { "PRIMARY" } else { "REPLICA" }).collect();
    eventually("every change to be told", PATIENCE, || {
        let lines = fs::read_to_string(&told).unwrap_or_default();
        let mut lines: Vec<&str> = lines.lines().collect();
        // One may be told twice after a crash.
        lines.dedup();
        let roles: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
        if roles == expected { Ok(()) } else { Err(format!("{lines:?}, expected {expected:?}\n{}", cluster.logs())) }
    });
}
