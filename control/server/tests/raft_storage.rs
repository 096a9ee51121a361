//! The Raft library's own suite for storage, against ours.

#![allow(clippy::expect_used, reason = "a test stops at the first surprise")]

use cfs_control::raft::files::{self, GroupDir, Owner};
use cfs_control::raft::log_store::LogStore;
use cfs_control::raft::state_machine::StateMachine;
use cfs_control::raft::types::{StorageError, TypeConfig};
use cfs_model::{ClusterId, Level, SiteId, SiteName};
use openraft::testing::{StoreBuilder, Suite};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, (GroupDir, tempfile::TempDir)> for Builder {
    async fn build(&self) -> Result<((GroupDir, tempfile::TempDir), LogStore, StateMachine), StorageError> {
        let control = tempfile::tempdir().expect("a directory");
        let owner = Owner {
            cluster: ClusterId([1; 16]),
            site: SiteName::new("site-a").expect("a name"),
            site_id: SiteId(1),
            level: Level::THIS,
        };
        let dir = files::create(control.path(), &owner, 1, 1).expect("created");
        let log = LogStore::new(dir.disk().clone());
        let state = StateMachine::open(dir.disk().clone(), Level::THIS).await.expect("opened");
        Ok(((dir, control), log, state))
    }
}

#[test]
fn log_and_state_machine_pass_the_suite() {
    Suite::test_all(Builder).expect("passes");
}
