//! One connection: hello, then entries one way and acknowledgements the other.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cfs_model::{Epoch, Level};
use cfs_rpc::v1::append_request::Kind as Request;
use cfs_rpc::v1::append_response::Kind as Response;
use cfs_rpc::v1::producer_client::ProducerClient;
use cfs_rpc::v1::{
    AppendAck, AppendEntries, AppendRequest, AppendResponse, NotPrimary, ProducerHello, ProducerHelloReply, Refusal,
    RoleState, WatchRoleRequest,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::error::Fatal;
use crate::in_flight::Mismatch;
use crate::lease::Lease;
use crate::options::Options;
use crate::producer::Ack;
use crate::scout::is_rejection;
use crate::shared::Shared;

const PROTOCOL: u32 = 1;
/// Messages between gathering and the transport: one travels while the next is gathered.
const MESSAGES: usize = 2;
/// Bound on the answer to hello.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// How a session ended.
pub(crate) enum End {
    /// The connection broke or never came about.
    Broken(String),
    /// This site will never take this producer.
    Rejected(String),
    /// An acknowledgement came too late to be believed.
    Late,
    /// Left for a better place.
    Left(String),
    /// The role's watch said what a refusal would have said.
    NotPrimary(NotPrimary),
    Refused(Refusal),
    Fatal(Fatal),
}

/// What outlives a session.
pub(crate) struct Progress {
    /// Told the first sequence number when the first session has begun.
    ready: Option<oneshot::Sender<u64>>,
    /// The site of the last session that got an answer; empty: none yet.
    pub(crate) site: String,
    /// The epoch in which the highest sequence number was acknowledged; 0: none was.
    acknowledged_in: Epoch,
    /// And the site that did. Another one of the same epoch need not have it yet.
    acknowledged_at: String,
    /// The latest epoch in which a session began.
    latest: Epoch,
    /// A hello or an entry was accepted since this was last asked.
    advanced: bool,
}

impl Progress {
    pub(crate) const fn new(ready: oneshot::Sender<u64>) -> Self {
        Self {
            ready: Some(ready),
            site: String::new(),
            acknowledged_in: Epoch(0),
            acknowledged_at: String::new(),
            latest: Epoch(0),
            advanced: false,
        }
    }

    pub(crate) fn take_advance(&mut self) -> bool {
        std::mem::take(&mut self.advanced)
    }
}

pub(crate) struct Session<'a> {
    shared: &'a Shared,
    options: &'a Options,
    name: &'a str,
    lease: Lease<'a>,
    progress: &'a mut Progress,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        shared: &'a Shared,
        options: &'a Options,
        name: &'a str,
        local: bool,
        progress: &'a mut Progress,
    ) -> Self {
        Self { shared, options, name, lease: Lease::new(options.clock.as_ref(), local), progress }
    }

    /// Runs until something ends it.
    pub(crate) async fn run(mut self, channel: Channel) -> End {
        let mut client = ProducerClient::new(channel);
        let (requests, outgoing) = mpsc::channel(MESSAGES);
        let hello = ProducerHello {
            protocol: PROTOCOL,
            producer: self.name.to_owned(),
            durability: self.options.durability.clone(),
            level: Level::THIS.0,
            oldest_level: Level::OLDEST.0,
        };
        // There is room: the channel is new.
        let _ = requests.try_send(AppendRequest { kind: Some(Request::Hello(hello)) });
        let begin = async {
            let mut responses = client.append(ReceiverStream::new(outgoing)).await?.into_inner();
            let first = responses.message().await?;
            Ok::<_, Status>((responses, first))
        };
        let (responses, first) = match tokio::time::timeout(HELLO_LIMIT, begin).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(status)) => return broken(&status),
            Err(_) => return End::Broken(format!("no answer to hello within {HELLO_LIMIT:?}")),
        };
        let role = match first.and_then(|response| response.kind) {
            Some(Response::Hello(reply)) => match self.begin(reply) {
                Ok(role) => role,
                Err(end) => return end,
            },
            Some(Response::Refusal(refusal)) => return End::Refused(refusal),
            Some(Response::Ack(_)) => return End::Broken("the shipper acknowledged before it said hello".to_owned()),
            None => return End::Broken("the shipper closed the session at once".to_owned()),
        };
        let epoch = Epoch(role.epoch);
        self.shared.role.send_replace(role);
        let (shared, options, lease) = (self.shared, self.options, &self.lease);
        tokio::select! {
            end = send(shared, options, lease, requests) => end,
            end = receive(shared, lease, self.progress, responses, epoch) => end,
            end = watch_role(shared, client) => end,
        }
    }

    fn begin(&mut self, reply: ProducerHelloReply) -> Result<RoleState, End> {
        let held = reply.highest_seq;
        let role = reply.role.unwrap_or_default();
        let (epoch, latest) = (Epoch(role.epoch), self.progress.latest);
        if epoch < latest {
            return Err(End::Broken(format!("{} is still in epoch {epoch}, {latest} began elsewhere", role.site)));
        }
        self.progress.latest = epoch;
        let mut in_flight = self.shared.lock();
        if let Some(ready) = self.progress.ready.take() {
            let first_seq = self.options.first_seq.unwrap_or(held + 1).max(1);
            in_flight.begin(held, first_seq);
            // Nobody waits any more if the caller gave up.
            let _ = ready.send(first_seq);
        }
        let acknowledged = in_flight.acknowledged();
        let there = epoch == self.progress.acknowledged_in && role.site == self.progress.acknowledged_at;
        if held < acknowledged && there {
            let producer = self.name.to_owned();
            return Err(End::Fatal(Fatal::LostAcknowledged { producer, held, acknowledged, epoch }));
        }
        in_flight.resume(held).map_err(|Mismatch::NeverSent { held, sent }| {
            End::Fatal(Fatal::NameInUse { producer: self.name.to_owned(), held, sent })
        })?;
        drop(in_flight);
        self.progress.site.clone_from(&role.site);
        self.progress.advanced = true;
        self.shared.in_session.store(true, Ordering::Relaxed);
        Ok(role)
    }
}

/// Sends whatever is queued, as soon as the transport has taken what was queued before.
async fn send(shared: &Shared, options: &Options, lease: &Lease<'_>, requests: mpsc::Sender<AppendRequest>) -> End {
    let mut role = shared.role.subscribe();
    loop {
        let epoch = match options.epoch {
            Some(pinned) => pinned.0,
            None => match accepting(&mut role).await {
                Ok(epoch) => epoch,
                Err(end) => return end,
            },
        };
        // Taken before gathering, so that the transport's pace decides how much one message holds.
        let Ok(place) = requests.reserve().await else {
            // The transport let go: what is received last says why.
            return std::future::pending().await;
        };
        let (settled, message) = {
            let mut in_flight = shared.lock();
            (in_flight.skip_held(), in_flight.gather())
        };
        shared.settled(settled);
        match message {
            Some((first_seq, entries)) => {
                lease.sent(first_seq + entries.len() as u64 - 1);
                let entries = AppendEntries { epoch, first_seq, entries };
                place.send(AppendRequest { kind: Some(Request::Entries(entries)) });
            }
            None => {
                drop(place);
                shared.work.notified().await;
            }
        }
    }
}

/// Waits until this site takes appends; its epoch then.
async fn accepting(role: &mut tokio::sync::watch::Receiver<RoleState>) -> Result<u64, End> {
    loop {
        {
            let state = role.borrow_and_update();
            if state.accepting {
                return Ok(state.epoch);
            }
            if !state.primary.is_empty() && state.primary != state.site {
                let why = "another site is primary".to_owned();
                let (site, address) = (state.primary.clone(), state.address.clone());
                return Err(End::NotPrimary(NotPrimary { site, address, epoch: state.epoch, why }));
            }
        }
        if role.changed().await.is_err() {
            return Err(End::Broken("the producer was closed".to_owned()));
        }
    }
}

async fn receive(
    shared: &Shared,
    lease: &Lease<'_>,
    progress: &mut Progress,
    mut responses: Streaming<AppendResponse>,
    epoch: Epoch,
) -> End {
    loop {
        match responses.message().await {
            Ok(Some(AppendResponse { kind: Some(Response::Ack(ack)) })) => {
                if lease.is_over(&ack) {
                    return End::Late;
                }
                progress.advanced = true;
                // What an older epoch acknowledged beyond that, this one need not hold.
                if ack.through_seq >= shared.lock().acknowledged() {
                    progress.acknowledged_in = epoch;
                    if progress.acknowledged_at != progress.site {
                        progress.acknowledged_at.clone_from(&progress.site);
                    }
                }
                if let Err(end) = acknowledge(shared, &ack, epoch) {
                    return end;
                }
            }
            Ok(Some(AppendResponse { kind: Some(Response::Refusal(refusal)) })) => return End::Refused(refusal),
            Ok(Some(_)) => return End::Broken("the shipper sent something that this version does not know".to_owned()),
            Ok(None) => return End::Broken("the shipper ended the session".to_owned()),
            Err(status) => return broken(&status),
        }
    }
}

fn acknowledge(shared: &Shared, ack: &AppendAck, epoch: Epoch) -> Result<(), End> {
    let position = ack.position.unwrap_or_default();
    let Some(stream) = position.stream() else {
        return Err(End::Broken("an acknowledgement names no stream".to_owned()));
    };
    let ack = Ack { seq: ack.through_seq, stream, lsn: position.lsn(), epoch, received: Instant::now() };
    let settled = shared.lock().settle(ack.clone());
    shared.settled(settled);
    // Nobody may be listening.
    let _ = shared.acks.send(ack);
    Ok(())
}

/// Follows the role for as long as the session lasts.
async fn watch_role(shared: &Shared, mut client: ProducerClient<Channel>) -> End {
    if let Ok(states) = client.watch_role(WatchRoleRequest {}).await {
        let mut states = states.into_inner();
        while let Ok(Some(state)) = states.message().await {
            shared.role.send_replace(state);
        }
    }
    // The session itself says when the connection is gone.
    std::future::pending().await
}

fn broken(status: &Status) -> End {
    let message = status.message().to_owned();
    if is_rejection(status) { End::Rejected(message) } else { End::Broken(message) }
}
