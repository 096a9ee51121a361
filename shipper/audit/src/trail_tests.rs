use super::*;
use crate::read::{Filter, Query, Reader};
use crate::verify::verify;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

fn options() -> Options {
    Options { site: "site-a".into(), retention_s: 30 * 24 * 3600, retention_bytes: 1 << 20 }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second() + second).unwrap()
}

fn event(number: u64) -> Event {
    Event::new(Kind::Conflict, Severity::Conflict, format!("CONFLICT number {number}")).inode(number)
}

fn open(dir: &Path) -> Opened {
    Trail::open(dir, options(), at(0)).unwrap()
}

fn lines(dir: &Path, query: Query) -> Vec<String> {
    let mut out = Vec::new();
    let mut reader = Reader::new(dir.to_owned(), query);
    reader
        .read(&mut |line| {
            out.push(String::from_utf8(line.to_vec()).unwrap());
            ControlFlow::Continue(())
        })
        .unwrap();
    out
}

#[test]
fn a_trail_goes_on_where_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut trail = open(dir.path()).trail;
    assert!(matches!(Trail::open(dir.path(), options(), at(0)), Err(Error::InUse(_))));
    let names = trail.append(&[event(1), event(2)], at(0)).unwrap();
    assert_eq!(names, ["site-a-2", "site-a-3"]);
    trail.sync().unwrap();
    let head = trail.head();
    drop(trail);
    let again = open(dir.path());
    assert_eq!((again.trail.head(), again.found.len()), (head, 0));
    assert!(verify(dir.path(), &BTreeMap::new(), Some(head)).unwrap().is_sound());
}

#[test]
fn queries_pick_by_kind_text_time_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut trail = open(dir.path()).trail;
    trail.append(&[event(1)], at(0)).unwrap();
    let other = Event::new(Kind::Control, Severity::Error, "ERROR about a conflict of opinions");
    trail.append(&[other], at(10)).unwrap();
    trail.append(&[event(2)], at(20)).unwrap();
    trail.rotate().unwrap();
    trail.append(&[event(3)], at(30)).unwrap();
    let count = |query| lines(dir.path(), query).len();
    let kind = |word: &str| Query { filter: Some(Filter::parse(word)), ..Query::default() };
    assert_eq!(count(Query::default()), 5);
    assert_eq!(count(kind("ConFlict")), 3, "that kind only");
    assert_eq!(count(kind("opinions")), 1);
    assert_eq!(count(kind("nothing like it")), 0);
    assert_eq!(count(Query { since: Some(at(15)), ..Query::default() }), 2);
    assert_eq!(count(Query { since: Some(at(5)), until: Some(at(15)), ..Query::default() }), 1);
    let tail = lines(dir.path(), Query { tail: Some(2), ..kind("conflict") });
    assert!(tail[0].contains("number 2") && tail[1].contains("number 3"), "{tail:?}");
    let oldest = lines(dir.path(), Query { oldest: true, ..Query::default() });
    assert!(oldest.len() == 1 && oldest[0].contains("trail_begins"), "{oldest:?}");
}

#[test]
fn a_reader_follows_over_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut trail = open(dir.path()).trail;
    for query in [Query::default(), Query { tail: Some(1), ..Query::default() }] {
        let mut reader = Reader::new(dir.path().to_owned(), query);
        let mut seen = Vec::new();
        let mut read = |seen: &mut Vec<String>| {
            reader
                .read(&mut |line| {
                    seen.push(String::from_utf8(line.to_vec()).unwrap());
                    ControlFlow::Continue(())
                })
                .unwrap();
        };
        read(&mut seen);
        seen.clear();
        trail.append(&[event(70)], at(0)).unwrap();
        read(&mut seen);
        assert_eq!(seen.len(), 1);
        trail.rotate().unwrap();
        trail.append(&[event(71)], at(0)).unwrap();
        read(&mut seen);
        assert!(seen.len() == 2 && seen[1].contains("number 71"), "{seen:?}");
        read(&mut seen);
        assert_eq!(seen.len(), 2);
    }
}

/// Retention by bytes and by age leaves a signed record, which `verify` accepts; the names of what went are still known.
#[test]
fn pruning_is_proven_and_forgets_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options { retention_bytes: 8 * 64 * 1024, ..options() };
    let mut trail = Trail::open(dir.path(), small, at(0)).unwrap().trail;
    let mut first = event(0);
    first.event = "lost-1.1-1-00000000".into();
    trail.append(&[first], at(0)).unwrap();
    for number in 0..4000 {
        trail.append(&[event(number)], at(0)).unwrap();
    }
    trail.sync().unwrap();
    trail.checkpoint(at(0)).unwrap();
    let pruned = trail.prune(at(1)).unwrap();
    assert!(pruned.segments > 0 && pruned.records > 0, "{pruned:?}");
    let report = verify(dir.path(), &BTreeMap::new(), Some(trail.head())).unwrap();
    assert!(report.is_sound() && report.first == pruned.records + 1, "{report:?}");
    let known = crate::known::Known::load(dir.path()).unwrap();
    assert!(known.contains("lost-1.1-1-00000000"));
    // By age everything goes but the record of it.
    let pruned = trail.prune(at(31 * 24 * 3600)).unwrap();
    assert!(pruned.segments > 0);
    let left = lines(dir.path(), Query::default());
    assert!(left.len() == 1 && left[0].contains("\"kind\":\"prune\""), "{left:?}");
    assert!(verify(dir.path(), &BTreeMap::new(), Some(trail.head())).unwrap().is_sound());
    crate::known::compact(dir.path(), &crate::known::Known::default()).unwrap();
    assert!(!crate::known::Known::load(dir.path()).unwrap().contains("lost-1.1-1-00000000"));
}

/// A crash at any byte of what was written last leaves what was durable, and the trail goes on.
#[test]
fn a_crash_at_every_byte_of_the_tail_is_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let mut trail = open(dir.path()).trail;
    trail.append(&[event(1)], at(0)).unwrap();
    trail.checkpoint(at(0)).unwrap();
    let durable = (trail.head(), trail.active.len);
    trail.append(&[event(2), event(3)], at(0)).unwrap();
    let (path, end) = (dir.path().join(segment::file_name(trail.active.first)), trail.active.len);
    drop(trail);
    let whole = std::fs::read(&path).unwrap();
    let second = durable.1 + whole[durable.1 as usize..].iter().position(|b| *b == b'\n').unwrap() as u64 + 1;
    for len in durable.1..end {
        std::fs::write(&path, &whole[..len as usize]).unwrap();
        let opened = open(dir.path());
        let (kept, torn) = if len < second { (durable.1, len - durable.1) } else { (second, len - second) };
        let seq = durable.0.seq + u64::from(len >= second) + u64::from(torn > 0);
        assert_eq!((opened.trail.head().seq, opened.found.len()), (seq, usize::from(torn > 0)), "cut at {len}");
        assert!(opened.trail.active.len >= kept);
        let report = verify(dir.path(), &BTreeMap::new(), Some(opened.trail.head())).unwrap();
        assert!(report.is_sound(), "cut at {len}: {report:?}");
    }
    // What a checkpoint says was there cannot be a torn tail.
    std::fs::write(&path, &whole[..durable.1 as usize - 1]).unwrap();
    let opened = open(dir.path());
    assert!(opened.found.iter().any(|e| e.severity == Severity::Error && e.text.contains("was cut")), "{opened:?}");
    assert!(!verify(dir.path(), &BTreeMap::new(), None).unwrap().is_sound());
}

#[test]
fn a_trail_without_its_key_or_of_another_site_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let mut trail = open(dir.path()).trail;
    trail.append(&[event(1)], at(0)).unwrap();
    drop(trail);
    std::fs::remove_file(dir.path().join("trail.key")).unwrap();
    let opened = open(dir.path());
    assert!(opened.found.iter().any(|event| event.severity == Severity::Error && event.text.contains("set aside")));
    drop(opened);
    let other = Options { site: "site-b".into(), ..options() };
    let opened = Trail::open(dir.path(), other, at(0)).unwrap();
    assert!(opened.found.iter().any(|event| event.text.contains("trail of site-a")), "{:?}", opened.found);
    assert!(verify(dir.path(), &BTreeMap::new(), None).unwrap().is_sound());
}

/// A record that is too long keeps its text and loses its value, never silently.
#[test]
fn what_is_too_long_is_shortened_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut trail = open(dir.path()).trail;
    let mut long = event(1);
    long.value = Some(crate::LostValue::BytesB64("x".repeat(crate::caps::MAX_RECORD_BYTES)));
    trail.append(&[long], at(0)).unwrap();
    assert!(lines(dir.path(), Query::default())[1].contains("\"shortened\":true"));
}
