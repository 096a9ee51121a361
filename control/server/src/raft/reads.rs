//! Proof that this node leads, shared by everybody who asks.

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::sync::{mpsc, oneshot};

use super::error::Error;
use super::{Shared, types};

/// Callers that wait for a round, at most.
pub(super) const QUEUE: usize = 1024;
/// Bound on one round and on applying up to what it found.
const LIMIT: Duration = Duration::from_secs(3);

/// One caller.
pub(super) type Waiter = oneshot::Sender<Result<(), Error>>;

impl Shared {
    /// Runs rounds as long as somebody asks. A round starts after each of its callers arrived: whoever comes while one
    /// runs waits for the next.
    pub(super) async fn run_rounds(self: Arc<Self>, mut waiters: mpsc::Receiver<Waiter>) {
        let mut round = Vec::new();
        while waiters.recv_many(&mut round, QUEUE).await > 0 {
            let result = tokio::time::timeout(LIMIT, self.round()).await.unwrap_or(Err(Error::NoQuorum));
            for waiter in round.drain(..) {
                let _ = waiter.send(result.clone());
            }
        }
    }

    async fn round(&self) -> Result<(), Error> {
        self.not_held().await?;
        let (read, _) = self.raft.get_read_log_id().await.map_err(|error| match error {
            RaftError::APIError(CheckIsLeaderError::ForwardToLeader(_)) => self.not_leader(),
            RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)) => Error::NoQuorum,
            RaftError::Fatal(fatal) => Error::Stopped(fatal.to_string()),
        })?;
        let index = read.map_or(0, |read: types::LogId| read.index);
        let mut applied = self.applied.clone();
        applied.wait_for(|applied| applied.index() >= index).await.map_err(|_| Error::Stopped("it ended".into()))?;
        Ok(())
    }
}
