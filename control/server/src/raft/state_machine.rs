//! The replicated state: applied, kept on disk, published.

use std::sync::Arc;

use bytes::Bytes;
use cfs_control_core::{Outcome, State};
use cfs_model::Level;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::disk::{Disk, Failure};
use super::types::{Entry, LogId, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig};

const STATE: &str = "state";
pub(super) const APPLIED: &str = "applied";
pub(super) const SNAPSHOT: &str = "snapshot";
const SNAPSHOT_STATE: &str = "snapshot_state";

/// How far the log was applied, and who was a member by then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) last: Option<LogId>,
    pub(super) membership: StoredMembership,
}

/// The state after some entry of the log; it is on disk.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The state.
    pub state: Arc<State>,
    /// The entry that was applied last; `None` in a node that knows nothing yet.
    pub last: Option<LogId>,
}

impl Applied {
    /// Index of the entry that was applied last; 0 if there is none.
    pub fn index(&self) -> u64 {
        self.last.map_or(0, |last| last.index)
    }
}

/// Applies entries. The newest state is published once it is on disk, never before, so that it never goes back.
#[derive(Debug)]
pub struct StateMachine {
    disk: Disk,
    level: Level,
    place: Place,
    published: watch::Sender<Applied>,
}

impl StateMachine {
    /// Reads the state in these files; a new one is empty. `level` is what this node acts as.
    ///
    /// # Errors
    /// It cannot be read, or the cluster works at a higher level.
    pub async fn open(disk: Disk, level: Level) -> Result<Self, Failure> {
        let read = disk.read(|reader| Ok((reader.value::<State>(STATE)?, reader.value::<Place>(APPLIED)?)));
        let (state, place) = read.await?;
        let (state, place) = (state.unwrap_or_default(), place.unwrap_or_default());
        check_level(&state, level)?;
        let published = watch::Sender::new(Applied { state: Arc::new(state), last: place.last });
        Ok(Self { disk, level, place, published })
    }

    /// Follows the newest state.
    pub fn subscribe(&self) -> watch::Receiver<Applied> {
        self.published.subscribe()
    }

    fn publish(&mut self, state: Arc<State>, place: Place) {
        let last = place.last;
        self.place = place;
        self.published.send_replace(Applied { state, last });
    }
}

fn failed(error: Failure) -> StorageError {
    StorageIOError::write_state_machine(&error).into()
}

/// A node that knows less than the cluster works at must not go on: it would apply what follows in another way.
fn check_level(state: &State, level: Level) -> Result<(), Failure> {
    level.reaches(state.level, "this site").map_err(Failure::new)
}

/// Applies entries one after the other; each has an outcome.
fn apply_all(state: &mut State, place: &mut Place, entries: Vec<Entry>) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(entries.len());
    for entry in entries {
        place.last = Some(entry.log_id);
        outcomes.push(match entry.payload {
            EntryPayload::Blank => Outcome::Done,
            EntryPayload::Normal(command) => state.apply(&command),
            EntryPayload::Membership(membership) => {
                place.membership = StoredMembership::new(Some(entry.log_id), membership);
                Outcome::Done
            }
        });
    }
    outcomes
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.place.last, self.place.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let (before, mut place) = (self.published.borrow().state.clone(), self.place.clone());
        let level = self.level;
        let write = self.disk.write(move |writer| {
            let changes = entries.iter().any(|entry| matches!(entry.payload, EntryPayload::Normal(_)));
            let mut state = before;
            let outcomes = if changes {
                let mut next = State::clone(&state);
                let outcomes = apply_all(&mut next, &mut place, entries);
                check_level(&next, level)?;
                writer.set(STATE, &next)?;
                state = Arc::new(next);
                outcomes
            } else {
                apply_all(&mut State::default(), &mut place, entries)
            };
            writer.set(APPLIED, &place)?;
            Ok((state, place, outcomes))
        });
        let (state, place, outcomes) = write.await.map_err(failed)?;
        self.publish(state, place);
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let state = self.published.borrow().state.clone();
        Builder { disk: self.disk.clone(), state, place: self.place.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Bytes>, StorageError> {
        Ok(Box::new(Bytes::new()))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Box<Bytes>) -> Result<(), StorageError> {
        let meta = meta.clone();
        let place = Place { last: meta.last_log_id, membership: meta.last_membership.clone() };
        let level = self.level;
        let write = self.disk.write(move |writer| {
            let state: State = serde_json::from_slice(&snapshot).map_err(|error| Failure::new(error.to_string()))?;
            check_level(&state, level)?;
            writer.set(STATE, &state)?;
            writer.set(APPLIED, &place)?;
            writer.set(SNAPSHOT, &meta)?;
            writer.set(SNAPSHOT_STATE, &state)?;
            Ok((Arc::new(state), place))
        });
        let (state, place) = write.await.map_err(failed)?;
        self.publish(state, place);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let read = self.disk.read(|reader| {
            let Some(meta) = reader.value::<SnapshotMeta>(SNAPSHOT)? else { return Ok(None) };
            let state: Option<State> = reader.value(SNAPSHOT_STATE)?;
            let state = state.ok_or_else(|| Failure::new("a snapshot has no state"))?;
            Ok(Some(Snapshot { meta, snapshot: Box::new(bytes_of(&state)?) }))
        });
        read.await.map_err(|error| StorageIOError::read_snapshot(None, &error).into())
    }
}

fn bytes_of(state: &State) -> Result<Bytes, Failure> {
    serde_json::to_vec(state).map(Bytes::from).map_err(|error| Failure::new(error.to_string()))
}

/// Keeps one state as a snapshot.
#[derive(Debug)]
pub struct Builder {
    disk: Disk,
    state: Arc<State>,
    place: Place,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let last = self.place.last;
        let meta = SnapshotMeta {
            last_log_id: last,
            last_membership: self.place.membership.clone(),
            snapshot_id: last.map_or_else(|| "0".to_owned(), |last| format!("{}-{}", last.leader_id, last.index)),
        };
        let (kept, state) = (meta.clone(), self.state.clone());
        let write = self.disk.write(move |writer| {
            // One may have been installed meanwhile.
            let newest: Option<SnapshotMeta> = writer.value(SNAPSHOT)?;
            if newest.is_none_or(|newest| newest.last_log_id <= kept.last_log_id) {
                writer.set(SNAPSHOT, &kept)?;
                writer.set(SNAPSHOT_STATE, &*state)?;
            }
            bytes_of(&state)
        });
        let bytes = write.await.map_err(|error| StorageError::from(StorageIOError::write_snapshot(None, &error)))?;
        Ok(Snapshot { meta, snapshot: Box::new(bytes) })
    }
}
