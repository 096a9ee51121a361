use bytes::Bytes;
use cfs_rpc::v1::inspect_client::InspectClient;
use tonic::transport::Endpoint;

use super::*;

/// A store that is never asked.
fn store() -> Store {
    Store::new(InspectClient::new(Endpoint::from_static("http://localhost").connect_lazy()))
}

fn gone(name: &'static str, inode: u64, kind: InodeKind) -> Gone {
    Gone { parent: 1, name: name.into(), inode, kind, occupant: None }
}

fn decide(removal: &mut Removal<'_>, gone: &Gone, names: u64) -> Option<Kind> {
    removal.count(gone, names);
    removal.decide(gone)?.kind
}

#[tokio::test]
async fn the_last_name_takes_the_inode_along() {
    let store = store();
    let mut removal = Removal::new(&store, &|_| false);
    let op = decide(&mut removal, &gone("a", 7, InodeKind::File), 1);
    assert!(matches!(op, Some(Kind::Unlink(Unlink { inode: 7, last: true, .. }))));
    for (name, is_last) in [("b", false), ("b", false), ("c", true)] {
        let op = decide(&mut removal, &gone(name, 8, InodeKind::File), 2);
        assert!(matches!(op, Some(Kind::Unlink(Unlink { last, .. })) if last == is_last), "{name}: {op:?}");
    }
    let op = decide(&mut removal, &gone("d", 9, InodeKind::File), 3);
    assert!(matches!(op, Some(Kind::Unlink(Unlink { last: false, .. }))));
    assert_eq!(removal.survivors(), [9]);
}

#[tokio::test]
async fn what_is_elsewhere_on_disk_only_loses_the_name() {
    let store = store();
    let mut removal = Removal::new(&store, &|_| true);
    for kind in [InodeKind::File, InodeKind::Directory, InodeKind::Symlink] {
        let op = decide(&mut removal, &gone("a", 7, kind), 1);
        assert!(matches!(op, Some(Kind::Unlink(Unlink { last: false, .. }))), "{op:?}");
    }
    let displaced = Gone { occupant: Some((8, InodeKind::File)), ..gone("a", 7, InodeKind::File) };
    assert_eq!(decide(&mut removal, &displaced, 1), None, "the name leads elsewhere already");
}

#[tokio::test]
async fn a_replaced_inode_goes_and_the_name_stays() {
    let store = store();
    let mut removal = Removal::new(&store, &|_| false);
    let displaced = |kind| Gone { occupant: Some((8, InodeKind::File)), ..gone("a", 7, kind) };
    for kind in [InodeKind::File, InodeKind::Directory] {
        let op = decide(&mut removal, &displaced(kind), 0);
        let Some(Kind::Rename(rename)) = op else { panic!("{op:?}") };
        assert_eq!((rename.inode, rename.replaced, rename.from_name), (8, 7, Bytes::from("a")));
        assert_eq!((rename.from_parent, &rename.to_name[..]), (rename.to_parent, &b"a"[..]));
    }
    let several = Gone { inode: 9, ..displaced(InodeKind::File) };
    assert_eq!(decide(&mut removal, &several, 1), None, "it has another name");
}

#[tokio::test]
async fn a_dangling_name_takes_nothing_along() {
    let store = store();
    let mut removal = Removal::new(&store, &|_| false);
    let op = decide(&mut removal, &gone("a", 7, InodeKind::Unspecified), 0);
    assert!(matches!(op, Some(Kind::Unlink(Unlink { last: false, .. }))));
}
