//! What a member keeps on disk, without anything that the entries say: for whoever looks for the cause of something.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cfs_rpc::v1::{LogPlace, RaftMember, RaftState};

use super::disk::{DATA, Disk, Failure, Reader};
use super::files::{self, Error, at};
use super::log_store::{PURGED, VOTE};
use super::state_machine::{APPLIED, Place, SNAPSHOT};
use super::types::{Entry, LogId, SnapshotMeta, StoredMembership, Vote};

/// Reads the files of a member; role and leader are not among what they know.
///
/// # Errors
/// They do not read.
pub(super) async fn of(disk: &Disk) -> Result<RaftState, Failure> {
    disk.read(read).await
}

/// Reads what the directory `control` holds of the member in use, also while nobody runs: from a copy in `scratch`, so that a process
/// that starts meanwhile is not disturbed. `None`: this site is no member. Blocks.
///
/// # Errors
/// It does not read, as a copy of what was being written may not; another try may succeed.
pub fn from_files(control: &Path, scratch: &Path) -> Result<Option<RaftState>, Error> {
    let Some((path, group, node)) = files::in_use(control)? else { return Ok(None) };
    let data = path.join(DATA);
    fs::copy(&data, scratch.join(DATA)).map_err(at("read", &data))?;
    let disk = Disk::open(scratch)?;
    let state = disk.read_now(read).map_err(|failure| Error::Damaged { path, reason: failure.to_string() })?;
    Ok(Some(RaftState { group, node, ..state }))
}

fn read(reader: &Reader<'_>) -> Result<RaftState, Failure> {
    let vote: Option<Vote> = reader.value(VOTE)?;
    let purged: Option<LogId> = reader.value(PURGED)?;
    let place: Place = reader.value(APPLIED)?.unwrap_or_default();
    let snapshot: Option<SnapshotMeta> = reader.value(SNAPSHOT)?;
    let last = reader.last::<Entry>()?.map(|entry| entry.log_id).or(purged);
    let vote = vote.unwrap_or_default();
    Ok(RaftState {
        term: vote.leader_id.term,
        voted_for: vote.leader_id.node_id,
        vote_committed: vote.committed,
        last_log: last.map(place_of),
        applied: place.last.map(place_of),
        purged: purged.map(place_of),
        snapshot: snapshot.and_then(|meta| meta.last_log_id).map(place_of),
        members: members(&place.membership),
        members_since: place.membership.log_id().map(place_of),
        members_change: place.membership.membership().get_joint_config().len() > 1,
        ..RaftState::default()
    })
}

fn place_of(id: LogId) -> LogPlace {
    LogPlace { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

fn members(stored: &StoredMembership) -> Vec<RaftMember> {
    let voters: BTreeSet<u64> = stored.voter_ids().collect();
    let members = stored.nodes().map(|(node, member)| RaftMember {
        node: *node,
        site: member.name.clone(),
        control: member.control.clone(),
        votes: voters.contains(node),
    });
    members.collect()
}
