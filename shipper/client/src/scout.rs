//! Keeps a connection to one site and listens to what it says about the role.

use std::sync::Arc;
use std::time::Duration;

use cfs_model::{ClusterId, SiteName};
use cfs_rpc::connect::Dial;
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::v1::producer_client::ProducerClient;
use cfs_rpc::v1::{RoleState, WatchRoleRequest};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::sites::{Connection, Table};

/// First bound on connecting and on the first answer. It doubles with each failure, [`LIMITS`] times, and begins again:
/// a short one notices early that a cut has ended, a long one gets through a slow link.
const FIRST_LIMIT: Duration = Duration::from_secs(1);
const LIMITS: u32 = 4;
/// First pause between attempts while a primary is missed.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause in the time that a failover takes.
pub(crate) const FAILOVER_PAUSE: Duration = Duration::from_millis(200);
/// What counts as the time that a failover takes.
pub(crate) const FAILOVER: Duration = Duration::from_secs(10);
/// While a primary is missed, a site that says nothing for so long is asked again.
const SILENCE: Duration = Duration::from_millis(500);
/// A connection on which such a question stays unanswered is given up.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Watches one site.
pub(crate) struct Scout {
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) cluster: ClusterId,
    pub(crate) name: SiteName,
    pub(crate) index: usize,
    pub(crate) table: watch::Sender<Table>,
    /// Since when a primary is missed.
    pub(crate) missed: watch::Receiver<Option<Instant>>,
    pub(crate) max_pause: Duration,
}

/// Why a connection ended.
struct Lost {
    why: String,
    /// The site refuses this producer for good.
    rejected: bool,
}

impl Lost {
    fn broken(why: impl Into<String>) -> Self {
        Self { why: why.into(), rejected: false }
    }

    fn of(name: &SiteName, status: &Status) -> Self {
        Self { why: format!("{name}: {}", status.message()), rejected: is_rejection(status) }
    }
}

/// Whether a status says that no further attempt will succeed.
pub(crate) fn is_rejection(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented
    )
}

impl Scout {
    /// Watches until it is aborted.
    pub(crate) async fn run(mut self) {
        let (mut attempt, mut failures) = (0, 0u32);
        loop {
            attempt += 1;
            let heard = self.table.borrow().sites[self.index].version;
            let lost = self.connection(attempt, failures).await;
            failures =
                if self.table.borrow().sites[self.index].version > heard { 0 } else { failures.saturating_add(1) };
            tracing::debug!(site = %self.name, why = lost.why, "the site cannot be asked who is primary");
            self.table.send_modify(|table| table.lost(self.index, lost.why, lost.rejected));
            self.pause(failures).await;
        }
    }

    async fn pause(&mut self, failures: u32) {
        let since = Instant::now();
        loop {
            let missed = *self.missed.borrow_and_update();
            let pause = match missed {
                Some(missed) if missed.elapsed() < FAILOVER => {
                    FIRST_PAUSE.saturating_mul(1 << failures.min(8)).min(FAILOVER_PAUSE)
                }
                _ => FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(self.max_pause.max(FAILOVER_PAUSE)),
            };
            tokio::select! {
                () = sleep_until(since + pause) => return,
                changed = self.missed.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
            }
        }
    }

    /// One connection, from its beginning to its end.
    async fn connection(&mut self, number: u64, failures: u32) -> Lost {
        let address = {
            let table = self.table.borrow();
            let addresses = &table.sites[self.index].addresses;
            addresses[failures as usize % addresses.len()].clone()
        };
        let limit = FIRST_LIMIT * (1 << (failures % LIMITS));
        let expected = Identity { cluster: self.cluster, site: self.name.clone(), role: Role::Shipper };
        let late = || Lost::broken(format!("{} at {address} did not answer within {limit:?}", self.name));
        let begin = async {
            let channel = self.dial.dial(&address, &expected).await.map_err(|error| Lost::broken(error.to_string()))?;
            let (role, states) = ask(&channel).await.map_err(|status| Lost::of(&self.name, &status))?;
            Ok::<_, Lost>((channel, role, states))
        };
        let (channel, role, states) = match timeout(limit, begin).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(lost)) => return lost,
            Err(_) => return late(),
        };
        let connection = Connection { channel, number };
        self.table.send_modify(|table| table.heard(self.index, &connection, role));
        self.listen(&connection, states).await
    }

    /// Passes on what the site says. A connection that is only silent is not given up for that; but while a primary is
    /// missed it is asked to answer.
    async fn listen(&mut self, connection: &Connection, mut states: Streaming<RoleState>) -> Lost {
        let mut missed = self.missed.clone();
        let mut heard = Instant::now();
        loop {
            let since = *missed.borrow_and_update();
            let role = tokio::select! {
                state = states.message() => match state {
                    Ok(Some(role)) => role,
                    Ok(None) => return Lost::broken(format!("{} ended the connection", self.name)),
                    Err(status) => return Lost::of(&self.name, &status),
                },
                answer = question(&connection.channel, since, heard, self.max_pause) => match answer {
                    Some(Ok((role, again))) => {
                        states = again;
                        role
                    }
                    Some(Err(status)) => return Lost::of(&self.name, &status),
                    None => return Lost::broken(format!("{} does not answer", self.name)),
                },
                changed = missed.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return Lost::broken("the producer was closed"),
                },
            };
            heard = Instant::now();
            self.table.send_modify(|table| table.heard(self.index, connection, role));
        }
    }
}

/// Asks once more, when a primary is missed and nothing was heard for a while; `None`: no answer.
async fn question(
    channel: &Channel,
    missed: Option<Instant>,
    heard: Instant,
    max_pause: Duration,
) -> Option<Result<(RoleState, Streaming<RoleState>), Status>> {
    let Some(missed) = missed else { return std::future::pending().await };
    let silence = if missed.elapsed() < FAILOVER { SILENCE } else { max_pause.max(SILENCE) };
    sleep_until(heard.max(missed) + silence).await;
    timeout(ANSWER_LIMIT, ask(channel)).await.ok()
}

/// Asks who is primary: the answer now, and changes.
async fn ask(channel: &Channel) -> Result<(RoleState, Streaming<RoleState>), Status> {
    let mut states = ProducerClient::new(channel.clone()).watch_role(WatchRoleRequest {}).await?.into_inner();
    match states.message().await? {
        Some(role) => Ok((role, states)),
        None => Err(Status::unavailable("it ended the watch of the role at once")),
    }
}
