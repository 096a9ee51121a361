use bytes::Bytes;
use cfs_model::op::{self, Attributes, op::Kind};
use proptest::option::of;
use proptest::prelude::*;

use super::read::time_from_json;
use super::*;

fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(Bytes::from),
        "[a-zé\\n\"]{0,8}".prop_map(Bytes::from),
    ]
}

fn time() -> impl Strategy<Value = op::Time> {
    (any::<i64>(), 0..NANOS_PER_SECOND).prop_map(|(seconds, nanos)| op::Time { seconds, nanos })
}

fn attributes() -> impl Strategy<Value = Option<Attributes>> {
    (of(any::<u32>()), of(any::<u32>()), of(any::<u32>()), of(any::<u64>()), of(time()), of(time()), of(bytes()))
        .prop_map(|(mode, uid, gid, size, mtime, ctime, extents)| Attributes {
            mode,
            uid,
            gid,
            size,
            mtime,
            ctime,
            extents,
        })
        .prop_map(Some)
}

fn inode_kind() -> impl Strategy<Value = i32> {
    proptest::sample::select(KINDS.map(|(kind, _)| kind as i32).to_vec())
}

fn any_op() -> impl Strategy<Value = Op> {
    let n = any::<u64>;
    prop_oneof![
        (n(), bytes(), n(), inode_kind(), attributes(), n()).prop_map(
            |(parent, name, inode, kind, attributes, device)| {
                Kind::Create(op::Create { parent, name, inode, kind, attributes, device })
            }
        ),
        (n(), bytes(), n(), attributes()).prop_map(|(parent, name, inode, attributes)| Kind::Mkdir(op::Mkdir {
            parent,
            name,
            inode,
            attributes
        })),
        (n(), bytes(), n(), bytes(), attributes()).prop_map(|(parent, name, inode, target, attributes)| {
            Kind::Symlink(op::Symlink { parent, name, inode, target, attributes })
        }),
        (n(), bytes(), n(), inode_kind()).prop_map(|(parent, name, inode, kind)| Kind::Link(op::Link {
            parent,
            name,
            inode,
            kind
        })),
        (n(), bytes(), n(), any::<bool>()).prop_map(|(parent, name, inode, last)| Kind::Unlink(op::Unlink {
            parent,
            name,
            inode,
            last
        })),
        (n(), bytes(), n()).prop_map(|(parent, name, inode)| Kind::Rmdir(op::Rmdir { parent, name, inode })),
        (n(), bytes(), n(), bytes(), n(), inode_kind(), n()).prop_map(
            |(from_parent, from_name, to_parent, to_name, inode, kind, replaced)| {
                Kind::Rename(op::Rename { from_parent, from_name, to_parent, to_name, inode, kind, replaced })
            }
        ),
        (n(), n(), of(time()), bytes()).prop_map(|(inode, size, mtime, extents)| Kind::Write(op::Write {
            inode,
            size,
            mtime,
            extents
        })),
        (n(), n(), of(time())).prop_map(|(inode, size, mtime)| Kind::Truncate(op::Truncate { inode, size, mtime })),
        (n(), attributes()).prop_map(|(inode, attributes)| Kind::SetAttr(op::SetAttr { inode, attributes })),
        (n(), bytes(), bytes()).prop_map(|(inode, name, value)| Kind::SetXattr(op::SetXattr { inode, name, value })),
        (n(), bytes()).prop_map(|(inode, name)| Kind::RemoveXattr(op::RemoveXattr { inode, name })),
        proptest::collection::vec((1..=255u32, n(), n()), 0..4).prop_map(|items| {
            let positions =
                items.into_iter().map(|(site, incarnation, lsn)| op::StreamPosition { site, incarnation, lsn });
            Kind::Forget(op::Forget { positions: positions.collect() })
        }),
    ]
    .prop_map(|kind| Op { kind: Some(kind) })
}

proptest! {
    #[test]
    fn every_operation_reads_back(op in any_op()) {
        prop_assert_eq!(parse(&to_json(&op).to_string()), Ok(op));
    }
}

#[test]
fn the_documented_form_is_read() {
    let line = r#"{"create":{"parent":1,"name":"x","inode":5,"kind":"file","mode":420,"mtime":"1700000000.5"}}"#;
    let Ok(Op { kind: Some(Kind::Create(create)) }) = parse(line) else { panic!("{:?}", parse(line)) };
    let attributes = create.attributes.unwrap_or_default();
    assert_eq!(attributes.mtime, Some(op::Time { seconds: 1_700_000_000, nanos: 500_000_000 }));
    assert_eq!((attributes.mode, attributes.uid), (Some(0o644), None));
}

#[test]
fn times_are_read_in_every_form() {
    let read = |text: &str| time_from_json(&serde_json::from_str(text).expect("JSON"));
    let time = |seconds, nanos| Some(op::Time { seconds, nanos });
    assert_eq!(read("7"), time(7, 0));
    assert_eq!(read("\"7\""), time(7, 0));
    assert_eq!(read("\"7.000000005\""), time(7, 5));
    assert_eq!(read("\"7.1234567890\""), time(7, 123_456_789));
    assert_eq!(read("\"-2.500000000\""), time(-2, 500_000_000));
    assert_eq!(read("{\"seconds\":-2,\"nanos\":5}"), time(-2, 5));
    for bad in [
        "\"\"",
        "\"7.x\"",
        "\"-0.5\"",
        "\"7.0000000001\"",
        "{\"nanos\":5}",
        "{\"seconds\":1,\"nano\":5}",
        "1.5",
        "null",
    ] {
        assert_eq!(read(bad), None, "{bad}");
    }
    assert_eq!(read("{\"seconds\":1,\"nanos\":1000000000}"), None);
}

#[test]
fn what_is_wrong_is_named() {
    for (line, says) in [
        ("", "not JSON"),
        ("[]", "one member"),
        ("{}", "one member"),
        (r#"{"unlink":{},"rmdir":{}}"#, "one member"),
        (r#"{"chmod":{}}"#, "\"chmod\" is unknown"),
        (r#"{"unlink":{"parent":1,"inode":5}}"#, "unlink needs \"name\""),
        (r#"{"unlink":{"parent":-1,"name":"x","inode":5}}"#, "\"parent\" of unlink"),
        (r#"{"set_attr":{"inode":5,"mode":4294967296}}"#, "2^32-1"),
        (r#"{"set_attr":{"inode":5,"modus":1}}"#, "no field \"modus\""),
        (r#"{"set_xattr":{"inode":5,"name":{"b64":"?"}}}"#, "Base64"),
        (r#"{"link":{"parent":1,"name":"x","inode":5,"kind":"dir"}}"#, "directory"),
    ] {
        let error = parse(line).expect_err(line).to_string();
        assert!(error.contains(says), "{line}: {error}");
    }
}
