//! In a container, the session and the process that started everything have no number that could be asked for.

use std::process::Command;

use crate::harness::skipped;
use crate::process::{Running, command};

/// A program with its arguments, in a process namespace of its own.
fn contained(program: &Command) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    unshare.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => unshare.env(name, value),
            None => unshare.env_remove(name),
        };
    }
    unshare.stdin(std::process::Stdio::null());
    unshare
}

#[test]
fn a_cluster_starts_in_a_container() {
    let tried = contained(&Command::new("true")).output();
    if !tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        return skipped(&format!("a process namespace cannot be made: {tried:?}"));
    }
    let place = tempfile::tempdir().expect("a folder");
    let dir = place.path().join("c");
    let up = command(["dev", "up", "--dir", dir.to_str().expect("a path")]);
    // All that was started ends with the namespace.
    Running::spawn(contained(&up)).finish().ok();
}
