use cfs_model::op::{self, Attributes, InodeKind, Op, op::Kind};
use cfs_model::{Epoch, Incarnation, Lsn, SiteId, Stamp, StreamId};
use proptest::prelude::*;

use super::*;

fn version(epoch: u64, clock: u64, site: u8, lsn: u64) -> Version {
    let stamp = Stamp { epoch: Epoch(epoch), clock, site: SiteId(site), incarnation: Incarnation(1) };
    Version { stamp, lsn: Lsn(lsn) }
}

fn seen(positions: &[(u8, u64)]) -> Vector {
    let stream = |site| StreamId { site: SiteId(site), incarnation: Incarnation(1) };
    positions.iter().map(|(site, lsn)| (stream(*site), Lsn(*lsn))).collect()
}

fn op(kind: Kind) -> Op {
    Op { kind: Some(kind) }
}

fn outcome(incoming: Version, saw: &[(u8, u64)], held: Version, held_saw: bool) -> Outcome {
    let (seen, forgotten) = (seen(saw), Vector::new());
    decide::<()>(&Incoming { version: incoming, seen: &seen, forgotten: &forgotten }, &held, || Ok(held_saw)).unwrap()
}

#[test]
fn the_later_stamp_wins_and_only_what_was_not_seen_is_lost() {
    let (a, b) = (version(1, 10, 1, 5), version(1, 11, 2, 7));
    assert_eq!(outcome(a, &[], a, false), Outcome::Duplicate);
    assert_eq!(outcome(b, &[(1, 5)], a, false), Outcome::Replaces);
    assert_eq!(outcome(b, &[(1, 4)], a, false), Outcome::Wins);
    assert_eq!(outcome(a, &[], b, false), Outcome::Loses);
    assert_eq!(outcome(a, &[], b, true), Outcome::Dropped);
    let newer_epoch = version(2, 1, 1, 9);
    assert_eq!(outcome(newer_epoch, &[(2, 7)], b, false), Outcome::Replaces, "the epoch comes before the clock");
    assert_eq!(outcome(version(1, 12, 1, 6), &[], a, false), Outcome::Replaces, "a stream has seen itself");
}

#[test]
fn what_was_forgotten_has_been_seen() {
    let (a, b) = (version(1, 10, 1, 5), version(1, 11, 2, 7));
    let (nothing, forgotten) = (Vector::new(), seen(&[(1, 5)]));
    let incoming = Incoming { version: b, seen: &nothing, forgotten: &forgotten };
    assert!(incoming.covers(&a) && !incoming.covers(&version(1, 12, 1, 6)));
}

fn live() -> Value<'static> {
    Value::Life(Life::Live { kind: InodeKind::File as u8, device: 0, target: &[] })
}

#[test]
fn fields_show_from_the_current_life_on() {
    let mut inode = Inode::default();
    inode.set(Field::Mode, version(1, 10, 1, 1), Value::Number(0o600));
    assert!(inode.visible(Field::Mode).is_none(), "nothing lives");
    inode.set(Field::Life, version(1, 10, 1, 1), live());
    assert!(inode.visible(Field::Mode).is_some(), "a create sets both");
    inode.set(Field::Life, version(1, 11, 1, 2), live());
    assert!(inode.visible(Field::Mode).is_none() && inode.has_forgettable());
    inode.set(Field::Life, version(1, 12, 1, 3), Value::Life(Life::Removed));
    assert!(inode.visible(Field::Life).is_none() && inode.has_forgettable());
}

#[test]
fn forgetting_takes_what_is_covered_and_hidden_for_good() {
    let mut inode = Inode::default();
    inode.set(Field::Life, version(1, 20, 1, 5), Value::Life(Life::Removed));
    inode.set(Field::Mode, version(1, 10, 1, 1), Value::Number(1));
    inode.set(Field::Size, version(1, 15, 2, 9), Value::Number(2));
    assert!(!inode.forget(&seen(&[(2, 8)])), "nothing is covered");
    assert!(inode.forget(&seen(&[(1, 5), (2, 8)])));
    assert_eq!(inode.iter().map(|(field, _)| field).collect::<Vec<_>>(), [Field::Size]);
    inode.set(Field::Life, version(1, 30, 1, 6), live());
    inode.set(Field::Mode, version(1, 30, 1, 6), Value::Number(3));
    assert!(inode.forget(&seen(&[(1, 9), (2, 9)])));
    assert_eq!(inode.iter().map(|(field, _)| field).collect::<Vec<_>>(), [Field::Life, Field::Mode]);
    assert!(!inode.forget(&seen(&[(1, 9), (2, 9)])), "what shows stays");
}

/// A change of these bytes is a change of the format, and of every digest.
#[test]
fn the_encoding_of_a_create_is_this() {
    let v = version(1, 2, 3, 4);
    let mut inode = Inode::default();
    inode.set(Field::Life, v, live());
    inode.set(Field::Mode, v, Value::Number(0o644));
    inode.set(Field::Mtime, v, Value::Time { seconds: -1, nanos: 5 });
    let mut bytes = Vec::new();
    inode.encode(&mut bytes);
    let version = [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(bytes, [&[0x23, 1][..], &version, &[1, 8, 0, 0], &[0xa4, 3], &[1, 5]].concat());
    let mut register = Vec::new();
    Register::Dentry(1, b"ab".to_vec()).encode(&mut register);
    assert_eq!(register, [2, 0, 0, 0, 0, 0, 0, 0, 1, 2, b'a', b'b']);
}

fn any_value(field: Field, n: u64, bytes: &[u8]) -> Value<'_> {
    match field {
        Field::Life if n.is_multiple_of(3) => Value::Life(Life::Removed),
        Field::Life => Value::Life(Life::Live { kind: n as u8, device: n, target: bytes }),
        Field::Mtime | Field::Ctime => Value::Time { seconds: n as i64, nanos: n as u32 },
        Field::Extents => Value::Bytes(bytes),
        _ => Value::Number(n),
    }
}

proptest! {
    #[test]
    fn inodes_read_back(slots in prop::collection::vec((0..8usize, 0..4u64, any::<u64>(), prop::collection::vec(any::<u8>(), 0..9)), 0..12)) {
        let mut inode = Inode::default();
        for (field, clock, n, bytes) in &slots {
            inode.set(Field::ALL[*field], version(1, *clock, 1, *clock), any_value(Field::ALL[*field], *n, bytes));
        }
        let mut bytes = Vec::new();
        inode.encode(&mut bytes);
        prop_assert_eq!(Inode::decode(&bytes), Ok(inode));
        for cut in 1..bytes.len() {
            prop_assert!(Inode::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn registers_read_back_and_none_begins_another(
        names in prop::collection::vec((0..3u8, 0..3u64, prop::collection::vec(any::<u8>(), 1..4)), 2)
    ) {
        let register = |(table, inode, name): &(u8, u64, Vec<u8>)| match table {
            0 => Register::Field(*inode, Field::ALL[usize::from(name[0]) % 8]),
            1 => Register::Dentry(*inode, name.clone()),
            _ => Register::Xattr(*inode, name.clone()),
        };
        let (a, b) = (register(&names[0]), register(&names[1]));
        let (mut a_bytes, mut b_bytes) = (Vec::new(), Vec::new());
        a.encode(&mut a_bytes);
        b.encode(&mut b_bytes);
        prop_assert_eq!(Register::decode(&a_bytes), Ok(a.clone()));
        prop_assert_eq!(a_bytes.starts_with(&b_bytes), a == b);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = (Inode::decode(&bytes).is_ok(), Dentry::decode(&bytes).is_ok(), Register::decode(&bytes).is_ok());
        let _ = Xattr::decode(&bytes).is_ok();
    }
}

fn create(parent: u64, name: &[u8], inode: u64) -> op::Create {
    let kind = InodeKind::File.into();
    op::Create { parent, name: name.to_vec().into(), inode, kind, attributes: None, device: 0 }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let ok = |o: op::Create| validate(&op(Kind::Create(o)));
    assert_eq!(ok(create(1, b"a", 2)), Ok(()));
    assert_eq!(ok(create(1, &[b'x'; 255], 2)), Ok(()));
    assert_eq!(ok(create(1, b"...\n\xff", 2)), Ok(()));
    for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &[b'x'; 256]] {
        assert!(matches!(ok(create(1, bad, 2)), Err(Invalid::Name(_))), "{bad:?}");
    }
    assert_eq!(ok(create(1, b"a", 0)), Err(Invalid::InodeZero));
    assert_eq!(ok(create(2, b"a", 2)), Err(Invalid::Itself(2)));
    assert_eq!(ok(create(0, b"/", 1)), Err(Invalid::Root), "the root is a directory");
    for kind in [InodeKind::Directory as i32, InodeKind::Symlink as i32, 0, 3, 99, -1] {
        assert_eq!(ok(op::Create { kind, ..create(1, b"a", 2) }), Err(Invalid::Kind(kind)));
    }
    assert_eq!(ok(op::Create { device: 5, ..create(1, b"a", 2) }), Err(Invalid::Device));
    let with = |a: Attributes| ok(op::Create { attributes: Some(a), ..create(1, b"a", 2) });
    assert_eq!(with(Attributes { mode: Some(0o7777), ..Default::default() }), Ok(()));
    assert_eq!(with(Attributes { mode: Some(0o10000), ..Default::default() }), Err(Invalid::Mode(0o10000)));
    let time = Some(op::Time { seconds: 0, nanos: 1_000_000_000 });
    assert_eq!(with(Attributes { ctime: time, ..Default::default() }), Err(Invalid::Nanos(1_000_000_000)));
    assert_eq!(validate(&Op { kind: None }), Err(Invalid::Unknown));
}

#[test]
fn limits_of_targets_attributes_and_positions_hold() {
    let symlink = |len: usize| {
        let target = vec![b'x'; len].into();
        validate(&op(Kind::Symlink(op::Symlink { parent: 1, name: "a".into(), inode: 2, target, attributes: None })))
    };
    assert_eq!((symlink(4096), symlink(0)), (Ok(()), Err(Invalid::Target(0))));
    assert_eq!(symlink(4097), Err(Invalid::Target(4097)));
    let xattr = |name: usize, value: usize| {
        let (name, value) = (vec![b'x'; name].into(), vec![0; value].into());
        validate(&op(Kind::SetXattr(op::SetXattr { inode: 2, name, value })))
    };
    assert_eq!((xattr(255, 65536), xattr(256, 0)), (Ok(()), Err(Invalid::XattrName(256))));
    assert!(matches!(xattr(1, 65537), Err(Invalid::TooLong { bytes: 65537, .. })));
    let position = |site, lsn| op::StreamPosition { site, incarnation: 1, lsn };
    let forget = |positions| validate(&op(Kind::Forget(op::Forget { positions })));
    assert_eq!(forget(vec![position(1, 1), position(2, 1)]), Ok(()));
    for bad in [vec![], vec![position(1, 1), position(1, 2)], vec![position(0, 1)], vec![position(256, 1)]] {
        assert_eq!(forget(bad), Err(Invalid::Positions));
    }
    assert_eq!(forget(vec![position(1, 0)]), Err(Invalid::Positions));
}

#[test]
fn a_rename_onto_itself_removes_nothing() {
    let rename = |to: &'static str, replaced| {
        op(Kind::Rename(op::Rename {
            from_parent: 1,
            from_name: "a".into(),
            to_parent: 1,
            to_name: to.into(),
            inode: 2,
            kind: InodeKind::File.into(),
            replaced,
        }))
    };
    let v = version(1, 1, 1, 1);
    let (same, other) = (rename("a", 0), rename("b", 3));
    let effects_of_same = effects(&same, v).unwrap();
    assert_eq!((effects_of_same.cleared, effects_of_same.inode), (None, None));
    assert_eq!(effects_of_same.named, Some((1, &b"a"[..], (2, InodeKind::File as u8))));
    let effects_of_other = effects(&other, v).unwrap();
    assert_eq!(effects_of_other.cleared, Some((1, &b"a"[..])));
    assert_eq!(effects_of_other.inode.and_then(|(inode, f)| Some((inode, f.life()?))), Some((3, (v, Life::Removed))));
    assert_eq!(validate(&rename("b", 2)), Err(Invalid::Itself(2)));
}
