//! The types that the Raft library is used with.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use cfs_control_core::{Command, Member, NodeId, Outcome};
use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};

openraft::declare_raft_types!(
    /// What the group's log holds, and who its members are.
    pub TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = NodeId,
        Node = Member,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Bytes,
        AsyncRuntime = Runtime,
);

/// The library's handle.
pub type Raft = openraft::Raft<TypeConfig>;
/// One entry of the log.
pub type Entry = openraft::Entry<TypeConfig>;
/// Place of an entry.
pub type LogId = openraft::LogId<NodeId>;
/// Who a node follows, or would.
pub type Vote = openraft::Vote<NodeId>;
/// Who votes and who else is there, and which entry said so.
pub type StoredMembership = openraft::StoredMembership<NodeId, Member>;
/// What the library knows about a snapshot.
pub type SnapshotMeta = openraft::SnapshotMeta<NodeId, Member>;
/// A whole state.
pub type Snapshot = openraft::Snapshot<TypeConfig>;
/// Storage has failed; the node stops for good.
pub type StorageError = openraft::StorageError<NodeId>;

/// A voter refuses its vote for so long after it has heard a leader. Next to nothing, because whether there is a leader is
/// asked before anybody stands, and a leader may be gone a moment after it was heard.
pub(crate) const VOTER_LEASE: Duration = Duration::from_millis(5);
/// How long the library waits for the answer to a request for a vote. It has no setting of its own for that, and takes the
/// shortest election timeout: this number, which [`Runtime`] recognises.
pub(crate) const VOTE_WAIT_MARK: Duration = Duration::from_millis(4);
/// The library's bound on every other call, and on a request for a vote too: calls have tighter ones of their own.
pub(crate) const CALL_LIMIT: Duration = Duration::from_millis(2000);

/// Tokio, with the library's wait for a vote made long enough for slow links.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Runtime;

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type OneshotSender<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiver<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotReceiver<T>;
    type OneshotReceiverError = <TokioRuntime as AsyncRuntime>::OneshotReceiverError;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        let duration = if duration == VOTE_WAIT_MARK { CALL_LIMIT } else { duration };
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn oneshot<T: OptionalSend>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>) {
        TokioRuntime::oneshot()
    }
}

/// The library's settings. Its own timers are off: `elections` does their work.
pub(crate) fn config(group: u64) -> openraft::Config {
    openraft::Config {
        cluster_name: format!("{group:016x}"),
        heartbeat_interval: millis(CALL_LIMIT),
        election_timeout_min: millis(VOTE_WAIT_MARK),
        election_timeout_max: millis(VOTER_LEASE),
        install_snapshot_timeout: 20_000,
        max_payload_entries: 64,
        replication_lag_threshold: 2 * LOG_KEPT,
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: LOG_KEPT,
        purge_batch_size: 64,
        // The library steps down at a tick when it was removed; a tick is 3 s.
        enable_tick: true,
        enable_heartbeat: false,
        enable_elect: false,
        ..openraft::Config::default()
    }
}

/// A snapshot is made after so many entries.
pub(crate) const SNAPSHOT_EVERY: u64 = 1000;
/// So many entries stay when a snapshot is made, so that a follower that was away for a while needs none.
pub(crate) const LOG_KEPT: u64 = 500;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
