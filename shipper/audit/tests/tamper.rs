//! Whoever removes, edits, cuts or re-dates a record of the trail is found out, at whichever record: by the chain, and if
//! the chain was made to fit again, by the checkpoints that other sites hold.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cfs_audit::checkpoint::Taken;
use cfs_audit::{Checkpoint, Event, Hash, Held, Kind, Options, Record, Report, Severity, Trail, verify};
use jiff::Timestamp;
use proptest::prelude::*;

const RECORDS: usize = 12;

fn options() -> Options {
    Options { site: "site-a".into(), retention_s: 1 << 30, retention_bytes: 1 << 30 }
}

/// A trail at rest with a checkpoint at its end, which a peer holds too.
fn trail(dir: &Path) -> BTreeMap<String, Vec<Checkpoint>> {
    let now = Timestamp::now();
    let mut trail = Trail::open(dir, options(), now).unwrap().trail;
    for number in 0..RECORDS as u64 - 1 {
        let event = Event::new(Kind::Conflict, Severity::Conflict, format!("number {number}")).inode(number);
        trail.append(&[event], now).unwrap();
    }
    let checkpoint = trail.checkpoint(now).unwrap().unwrap();
    BTreeMap::from([("site-b".to_owned(), vec![checkpoint])])
}

fn segment(dir: &Path) -> PathBuf {
    dir.join("00000000000000000001.jsonl")
}

fn read(dir: &Path) -> Vec<String> {
    std::fs::read_to_string(segment(dir)).unwrap().lines().map(str::to_owned).collect()
}

fn write(dir: &Path, lines: &[String]) {
    std::fs::write(segment(dir), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

/// Numbers and chains all lines anew from `at` on, as somebody would who knows the format.
fn rechain(lines: &mut [String], at: usize) {
    for index in at..lines.len() {
        let mut json: serde_json::Value = serde_json::from_str(&lines[index]).unwrap();
        json.as_object_mut().unwrap().remove("hash");
        let mut record: Record = serde_json::from_value(json).unwrap();
        record.seq = index as u64 + 1;
        if index > 0 {
            let (_, before) = Record::decode(lines[index - 1].as_bytes()).unwrap();
            record.prev = before;
        }
        let (line, _) = record.encode().unwrap();
        lines[index] = String::from_utf8(line).unwrap().trim_end().to_owned();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tampering {
    Remove,
    Edit,
    Truncate,
    Restamp,
}

impl Tampering {
    const ALL: [Self; 4] = [Self::Remove, Self::Edit, Self::Truncate, Self::Restamp];

    fn do_to(self, lines: &mut Vec<String>, at: usize) {
        match self {
            Self::Remove => drop(lines.remove(at)),
            Self::Edit => lines[at] = lines[at].replacen("\"text\":\"", "\"text\":\"no ", 1),
            Self::Truncate => lines.truncate(at),
            Self::Restamp => {
                let from = lines[at].find("\"time\":\"").unwrap() + 8;
                lines[at].replace_range(from..from + 4, "1999");
            }
        }
    }
}

fn tampered(kind: Tampering, at: usize, rechained: bool, own_checkpoints: bool) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let held = trail(dir.path());
    assert!(verify(dir.path(), &held, None).unwrap().is_sound());
    let mut lines = read(dir.path());
    kind.do_to(&mut lines, at);
    if rechained {
        rechain(&mut lines, at);
    }
    write(dir.path(), &lines);
    if !own_checkpoints {
        std::fs::remove_file(dir.path().join("checkpoints.jsonl")).unwrap();
    }
    verify(dir.path(), &held, None).unwrap()
}

/// Issue 4, "must show" 6.
#[test]
fn each_tampering_at_each_record_is_found_and_located() {
    for kind in Tampering::ALL {
        for at in 0..RECORDS {
            for (rechained, own) in [(false, true), (true, true), (true, false)] {
                let report = tampered(kind, at, rechained, own);
                let case = format!("{kind:?} at {at}, rechained: {rechained}, own checkpoints: {own}: {report:?}");
                assert!(!report.is_sound(), "{case}");
                let seq = at as u64 + 1;
                let located = match kind {
                    // Without a chain that fits, the place is named.
                    Tampering::Edit | Tampering::Restamp if !rechained => report.problems[0].seq == seq,
                    Tampering::Remove if !rechained && at > 0 && at + 1 < RECORDS => report.problems[0].seq == seq,
                    Tampering::Truncate => report.problems.iter().any(|p| p.what == "truncated" && p.seq == seq),
                    _ => true,
                };
                assert!(located, "{case}");
            }
        }
    }
}

/// A new chain with a new key, and all local checkpoints gone: only the peer knows.
#[test]
fn a_trail_that_was_begun_anew_is_found_through_the_peer() {
    let dir = tempfile::tempdir().unwrap();
    let held = trail(dir.path());
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::remove_file(path).unwrap();
        }
    }
    trail(dir.path());
    assert!(verify(dir.path(), &BTreeMap::new(), None).unwrap().is_sound(), "by itself it looks fine");
    let report = verify(dir.path(), &held, None).unwrap();
    assert!(report.problems.iter().any(|p| p.what == "replaced"), "{report:?}");
}

/// A prune record that nobody signed proves nothing.
#[test]
fn a_forged_pruning_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let held = trail(dir.path());
    let mut lines = read(dir.path());
    let last = lines.len() - 1;
    let mut json: serde_json::Value = serde_json::from_str(&lines[last]).unwrap();
    let first: serde_json::Value = serde_json::from_str(&lines[4]).unwrap();
    json["kind"] = "prune".into();
    json["first"] = 5.into();
    json["before"] = first["prev"].clone();
    json["proof"] = "00".repeat(64).into();
    lines[last] = json.to_string();
    let mut kept = lines.split_off(4);
    json.as_object_mut().unwrap().remove("hash");
    let record: Record = serde_json::from_value(json).unwrap();
    let (line, _) = record.encode().unwrap();
    *kept.last_mut().unwrap() = String::from_utf8(line).unwrap().trim_end().to_owned();
    std::fs::remove_file(segment(dir.path())).unwrap();
    let text: String = kept.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(dir.path().join("00000000000000000005.jsonl"), text).unwrap();
    let report = verify(dir.path(), &held, None).unwrap();
    assert!(report.problems.iter().any(|p| p.what == "unproven_start"), "{report:?}");
}

/// What a peer holds cannot be talked back.
#[test]
fn a_peer_refuses_what_contradicts_what_it_holds() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let now = Timestamp::now();
    let long_ago = Timestamp::UNIX_EPOCH;
    let mut mine = Trail::open(dir.path(), options(), now).unwrap().trail;
    let first = mine.checkpoint(now).unwrap().unwrap();
    mine.append(&[Event::new(Kind::Control, Severity::Info, "x")], now).unwrap();
    let second = mine.checkpoint(now).unwrap().unwrap();
    let held = Held::open(peer.path()).unwrap();
    assert_eq!(held.take("site-a", first.clone(), long_ago).unwrap(), Taken::Held);
    assert_eq!(held.take("site-a", second.clone(), long_ago).unwrap(), Taken::Held);
    assert_eq!(held.take("site-a", second.clone(), long_ago).unwrap(), Taken::Held, "said twice");
    assert!(matches!(held.take("site-a", first, long_ago).unwrap(), Taken::Contradicts(_)), "shorter");
    let mut forged = second.clone();
    forged.head = Hash([0; 32]);
    assert!(matches!(held.take("site-a", forged, long_ago).unwrap(), Taken::Contradicts(_)), "not signed");
    assert!(matches!(held.take("site-b", second.clone(), long_ago).unwrap(), Taken::Contradicts(_)), "another's");
    assert!(held.take("../x", second, long_ago).is_err() || !peer.path().join("x.jsonl").exists());
    let anew = tempfile::tempdir().unwrap();
    let mut other = Trail::open(anew.path(), options(), now).unwrap().trail;
    let other = other.checkpoint(now).unwrap().unwrap();
    assert_eq!(held.take("site-a", other, long_ago).unwrap(), Taken::NewTrail { before: 2 });
    assert_eq!(held.of("site-a").unwrap().len(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any flipped byte anywhere in the segment.
    #[test]
    fn any_flipped_byte_is_found(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let dir = tempfile::tempdir().unwrap();
        let held = trail(dir.path());
        let mut bytes = std::fs::read(segment(dir.path())).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        std::fs::write(segment(dir.path()), bytes).unwrap();
        prop_assert!(!verify(dir.path(), &held, None).unwrap().is_sound());
    }

    /// Nothing on disk makes a reader or verifier panic.
    #[test]
    fn any_bytes_are_read_safely(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let dir = tempfile::tempdir().unwrap();
        let held = trail(dir.path());
        std::fs::write(segment(dir.path()), &bytes).unwrap();
        prop_assert!(!verify(dir.path(), &held, None).unwrap().is_sound());
        let opened = Trail::open(dir.path(), options(), Timestamp::now()).unwrap();
        prop_assert!(opened.found.iter().any(|event| event.severity == Severity::Error));
    }
}
