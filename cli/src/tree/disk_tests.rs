use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;

use super::*;

fn opened(path: &Path) -> Directory {
    Directory::open_root(path).expect("a directory").0
}

fn find(listing: &Listing, name: &str) -> DiskNode {
    let entry = listing.entries.iter().find(|entry| entry.name == name.as_bytes()).expect("it is listed");
    entry.node.clone().expect("it is readable")
}

#[test]
fn every_kind_is_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("file"), "123").expect("a file");
    fs::create_dir(at("directory")).expect("a directory");
    symlink("t".repeat(4000), at("symlink")).expect("a link");
    let _socket = UnixListener::bind(at("socket")).expect("a socket");
    let made = rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0);
    made.expect("a fifo");
    let listing = opened(dir.path()).list();
    assert_eq!((listing.entries.len(), listing.troubles.len()), (5, 0));
    for (name, kind) in [
        ("file", InodeKind::File),
        ("directory", InodeKind::Directory),
        ("symlink", InodeKind::Symlink),
        ("socket", InodeKind::Socket),
        ("fifo", InodeKind::Fifo),
    ] {
        let node = find(&listing, name);
        let stat = fs::symlink_metadata(at(name)).expect("metadata");
        assert_eq!((node.kind, node.inode), (kind, stat.ino()), "{name}");
        assert_eq!(node.attributes.size, Some(stat.size()), "{name}");
        assert!(!node.mount_point, "{name}");
    }
    assert_eq!(find(&listing, "symlink").target.len(), 4000);
    assert_eq!(find(&listing, "file").device, 0);
}

#[test]
fn extended_attributes_of_links_are_their_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("f");
    fs::write(&path, "").expect("a file");
    symlink("f", dir.path().join("l")).expect("a link");
    let big = vec![7; 2000];
    for (name, value) in [("user.b", &b"\0\xff"[..]), ("user.a", b""), ("user.big", &big)] {
        rustix::fs::setxattr(&path, name, value, rustix::fs::XattrFlags::empty()).expect("an attribute");
    }
    let listing = opened(dir.path()).list();
    let found = find(&listing, "f").xattrs.expect("attributes");
    let expected = [("user.a", &b""[..]), ("user.b", b"\0\xff"), ("user.big", &big)];
    let expected = expected.map(|(name, value)| (Bytes::from(name), Bytes::copy_from_slice(value)));
    assert_eq!(found.into_iter().filter(|(name, _)| name.starts_with(b"user.")).collect::<Vec<_>>(), expected);
    let of_link = find(&listing, "l").xattrs.expect("attributes");
    assert!(of_link.iter().all(|(name, _)| !name.starts_with(b"user.")));
}

#[test]
fn paths_may_be_longer_than_the_system_allows() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut directory = opened(dir.path());
    let name = "d".repeat(250);
    for _ in 0..30 {
        rustix::fs::mkdirat(&*directory.fd, &*name, Mode::RWXU).expect("a directory");
        let inode = find(&directory.list(), &name).inode;
        directory = directory.open_child(name.as_bytes(), inode).expect("it opens");
    }
    assert!(directory.list().entries.is_empty());
}

#[test]
fn what_goes_away_is_no_failure() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("d")).expect("a directory");
    fs::write(dir.path().join("f"), "").expect("a file");
    let directory = opened(dir.path());
    let inode = find(&directory.list(), "d").inode;
    assert_eq!(directory.open_child(b"d", inode + 1).err(), Some(Errno::STALE));
    assert!(directory.open_child(b"f", inode).is_err(), "files and links are not entered");
    let child = directory.open_child(b"d", inode).expect("it opens");
    fs::remove_dir(dir.path().join("d")).expect("it goes");
    assert!(child.list().entries.is_empty());
    for error in [directory.open_child(b"d", inode).err(), Some(Errno::STALE)] {
        assert_eq!(TroubleKind::of(error.expect("an error")), TroubleKind::Vanished);
    }
    assert!(matches!(TroubleKind::of(Errno::ACCESS), TroubleKind::Unreadable(_)));
    let some = directory.some(["f", "gone"].map(Bytes::from));
    assert_eq!((some.entries.len(), some.troubles.len()), (1, 0));
}

#[test]
fn mount_points_show_and_are_not_entered() {
    let (root, _) = Directory::open_root(Path::new("/")).expect("the root");
    let listing = root.list();
    let proc = find(&listing, "proc");
    assert!(proc.mount_point && proc.kind == InodeKind::Directory);
    assert_eq!(root.open_child(b"proc", proc.inode).err(), Some(Errno::XDEV));
}

#[test]
fn a_census_counts_what_a_listing_finds() {
    let dir = tempfile::tempdir().expect("a directory");
    for n in 0..5 {
        fs::create_dir(dir.path().join(n.to_string())).expect("a directory");
        fs::write(dir.path().join(format!("{n}/f")), "").expect("a file");
    }
    let (count, children) = opened(dir.path()).census();
    assert_eq!((count, children.len()), (5, 5));
}
