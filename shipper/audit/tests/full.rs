//! A trail on a disk that is full: nothing is half recorded, and it goes on when there is room.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use cfs_audit::{Error, Event, Kind, Options, Severity, Trail, verify};
use jiff::Timestamp;

struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn tmpfs(at: &'a Path, size: &str) -> Option<Self> {
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output().ok()?;
        mounted.status.success().then_some(Self(at))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &options]).arg(self.0).status().unwrap().success());
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0).status().ok();
    }
}

fn event(number: u64) -> Event {
    let text = format!("number {number} {}", "x".repeat(3000));
    Event::new(Kind::Conflict, Severity::Conflict, text).inode(number)
}

fn open(dir: &Path) -> Trail {
    let options = Options { site: "site-a".into(), retention_s: 1 << 30, retention_bytes: 1 << 30 };
    Trail::open(dir, options, Timestamp::now()).unwrap().trail
}

#[test]
fn a_full_disk_is_refused_and_survived() {
    let place = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::tmpfs(place.path(), "256k") else {
        eprintln!("skipped: this user may not mount a small file system");
        return;
    };
    let dir = place.path().join("audit");
    let now = Timestamp::now();
    let mut trail = open(&dir);
    let mut recorded = 0;
    let refused = loop {
        // Several at a time: all of them are recorded, or none.
        match trail.append(&[event(recorded), event(recorded + 1)], now) {
            Ok(_) => recorded += 2,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full) && recorded > 10, "{refused:?} after {recorded}");
    let head = trail.head();
    assert_eq!(head.seq, recorded + 1, "the first record is the trail's own");
    assert!(matches!(trail.append(&[event(0)], now), Err(Error::Full)), "it may be tried again");
    assert_eq!(trail.head(), head);
    mount.resize("2m");
    for number in 0..20 {
        trail.append(&[event(number)], now).unwrap();
    }
    trail.checkpoint(now).unwrap().unwrap();
    drop(trail);
    let report = verify(&dir, &BTreeMap::new(), None).unwrap();
    assert!(report.is_sound() && report.last == head.seq + 20 && report.notes.is_empty(), "{report:?}");

    // Killed while it was full: what was recorded is there, and it opens.
    let mut trail = open(&dir);
    mount.resize("512k");
    while trail.append(&[event(1)], now).is_ok() {}
    let head = trail.head();
    std::mem::forget(trail);
    let copy = place.path().join("copy");
    mount.resize("4m");
    assert!(Command::new("cp").arg("-r").args([&dir, &copy]).status().unwrap().success());
    let again = open(&copy);
    // What the failed write left behind is no record; that it was cut is.
    assert!(again.head().seq <= head.seq + 1, "{:?} after {head:?}", again.head());
    assert!(verify(&copy, &BTreeMap::new(), Some(head)).unwrap().is_sound());
}
