//! The units of deploy/systemd, as systemd itself judges them. `tests/nspawn/run` and `tests/nspawn/page` run them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const UNITS: [&str; 4] = ["claudefs-control", "claudefs-shipper", "claudefs-repl", "claudefs"];
/// Most exposure that `systemd-analyze security` may find, times ten.
const THRESHOLD: &str = "--threshold=15";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd")
}

/// `None` where there is no systemd; its tools work without it running.
fn analyze(args: &[&str]) -> Option<Output> {
    match Command::new("systemd-analyze").args(args).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("SKIPPED: systemd-analyze cannot be run: {error}");
            None
        }
    }
}

fn expect_well(output: &Output, what: &str) {
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{what}: {said}");
}

#[test]
fn no_unit_is_more_exposed_than_it_must_be() {
    for unit in UNITS {
        let path = folder().join(format!("{unit}.service"));
        let path = path.to_str().expect("UTF-8");
        let Some(output) = analyze(&["security", "--offline=true", THRESHOLD, path]) else { return };
        expect_well(&output, unit);
    }
}

#[test]
fn systemd_understands_every_line() {
    let system = Path::new("/usr/lib/systemd/system");
    if !system.join("sysinit.target").exists() {
        println!("SKIPPED: {} has no units", system.display());
        return;
    }
    // A machine with the programs in place, so that nothing of this one is judged.
    let root = TempDir::new().expect("a folder");
    let units = root.path().join("usr/lib/systemd/system");
    for dir in [&units, &root.path().join("usr/bin"), &root.path().join("etc")] {
        std::fs::create_dir_all(dir).expect("made");
    }
    let copied = Command::new("cp").arg("-r").arg(system).arg(root.path().join("usr/lib/systemd")).status();
    assert!(copied.expect("cp runs").success());
    for program in ["cfs", "cfs-control", "cfs-shipper"] {
        std::fs::copy("/bin/sh", root.path().join("usr/bin").join(program)).expect("a program");
    }
    for unit in UNITS {
        let name = format!("{unit}.service");
        std::fs::copy(folder().join(&name), units.join(&name)).expect("copied");
    }
    let at = format!("--root={}", root.path().display());
    let names = UNITS.map(|unit| format!("{unit}.service"));
    let mut args = vec!["verify", "--man=no", &at];
    args.extend(names.iter().map(String::as_str));
    let Some(output) = analyze(&args) else { return };
    expect_well(&output, "verify");
    let said = String::from_utf8_lossy(&output.stderr);
    let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("claudefs")).collect();
    assert!(about_ours.is_empty(), "{about_ours:#?}");
}
