//! What a member keeps on disk can be told without disturbing it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

use cfs_control::raft::log_store::LogStore;
use cfs_control::raft::types::Vote;
use cfs_control::raft::{Owner, files, kept};
use cfs_model::{ClusterId, Level, SiteId, SiteName};
use openraft::storage::RaftLogStorage;

#[tokio::test]
async fn a_copy_is_read_while_the_member_has_its_files_open() {
    let (control, scratch) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    assert_eq!(kept::from_files(control.path(), scratch.path()).expect("no member is no error"), None);
    let owner = Owner {
        cluster: ClusterId([7; 16]),
        site: SiteName::new("site-a").expect("a name"),
        site_id: SiteId(1),
        level: Level::THIS,
    };
    let dir = files::create(control.path(), &owner, 0xab, 3).expect("created");
    files::take_into_use(control.path(), &dir).expect("in use");
    LogStore::new(dir.disk().clone()).save_vote(&Vote::new_committed(4, 2)).await.expect("saved");

    let state = kept::from_files(control.path(), scratch.path()).expect("it reads").expect("a member");
    assert_eq!((state.group, state.node), (0xab, 3));
    assert_eq!((state.term, state.voted_for, state.vote_committed), (4, 2, true));
    assert_eq!((state.last_log, state.members.len(), state.role.as_str()), (None, 0, ""));
    drop(dir);
    assert!(files::open(control.path(), &owner).expect("it opens as before").is_some());

    let damaged = control.path().join("00000000000000ab-3/data.mdb");
    std::fs::write(&damaged, b"x").expect("written");
    let scratch = tempfile::tempdir().expect("a folder");
    assert!(kept::from_files(control.path(), scratch.path()).is_err());
}
