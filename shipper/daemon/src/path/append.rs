//! The producer's session: what it sends is checked, admitted and queued; acks leave in the order of LSNs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cfs_config::Durability;
use cfs_model::op::StreamPosition;
use cfs_model::{Epoch, Levels, StreamId, Vector};
use cfs_rpc::identity::Role;
use cfs_rpc::io::PeerIdentity;
use cfs_rpc::v1::append_request::Kind as Incoming;
use cfs_rpc::v1::append_response::Kind as Outgoing;
use cfs_rpc::v1::refusal::Reason;
use cfs_rpc::v1::{
    AppendAck, AppendEntries, AppendRequest, AppendResponse, ProducerHello, ProducerHelloReply, Refusal, RoleState,
    WatchRoleRequest, producer_server,
};
use cfs_shipper_core::ack::Owed;
use cfs_shipper_core::admit::{Admitted as Places, Refused};
use cfs_shipper_core::caps::{MAX_PRODUCER_BYTES, MAX_QUEUED_BYTES, MAX_QUEUED_ENTRIES};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::governed::{Acknowledgement, Claim};
use crate::node::Node;
use crate::path::commit::{Admitted, Work};
use crate::path::{frames, refusal};
use crate::role;

const PROTOCOL: u32 = 1;
/// A session that does not say who it is within this time is ended.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A full queue makes a session wait for so long before it is refused.
const QUEUE_PATIENCE: Duration = Duration::from_secs(2);
/// Responses that wait for a producer that does not read.
const RESPONSES: usize = 64;
/// A session that only waits for its last acks looks at the lease so often.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Producers connected at the same time.
const MAX_SESSIONS: usize = 1024;

/// Serves producers, on the local socket and over mTLS.
#[derive(Clone)]
pub(crate) struct Service {
    node: Arc<Node>,
    queue: mpsc::UnboundedSender<Work>,
    room_for_entries: Arc<Semaphore>,
    room_for_bytes: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
}

impl Service {
    pub(crate) fn new(node: Arc<Node>, queue: mpsc::UnboundedSender<Work>) -> Self {
        Self {
            node,
            queue,
            room_for_entries: Arc::new(Semaphore::new(MAX_QUEUED_ENTRIES)),
            room_for_bytes: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)),
            sessions: Arc::new(Semaphore::new(MAX_SESSIONS)),
        }
    }
}

/// Over the network only a certificate of the producer role may append (invariant 9).
fn authorise<T>(request: &Request<T>) -> Result<(), Status> {
    match PeerIdentity::of(request) {
        Some(peer) if peer.identity.role != Role::Producer => Err(Status::permission_denied(format!(
            "a certificate of the role {} may not append; it takes one of the role producer",
            peer.identity.role
        ))),
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl producer_server::Producer for Service {
    type AppendStream = ReceiverStream<Result<AppendResponse, Status>>;
    type WatchRoleStream = ReceiverStream<Result<RoleState, Status>>;

    async fn append(&self, request: Request<Streaming<AppendRequest>>) -> Result<Response<Self::AppendStream>, Status> {
        authorise(&request)?;
        let place = self.sessions.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{MAX_SESSIONS} producers are connected already; close some"))
        })?;
        let (out, responses) = mpsc::channel(RESPONSES);
        let service = self.clone();
        tokio::spawn(async move {
            let _place = place;
            service.run(request.into_inner(), out).await;
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn watch_role(&self, request: Request<WatchRoleRequest>) -> Result<Response<Self::WatchRoleStream>, Status> {
        authorise(&request)?;
        Ok(Response::new(role::watch(self.node.clone())))
    }
}

type Out = mpsc::Sender<Result<AppendResponse, Status>>;

/// The end of a session: what is sent last.
enum End {
    Refused(u64, Reason),
    Broken(Status),
    Gone,
}

struct Session {
    id: u64,
    producer: Bytes,
    epoch: Epoch,
    stream: StreamId,
    /// Of the admission: what is owed is void once it has another number.
    opening: u64,
    /// What was applied here at the opening.
    base: Arc<Vector>,
    copies: usize,
    owed: Owed,
    /// It waits until its copies are promised, and that was told.
    unpromised: bool,
}

impl Service {
    async fn run(&self, mut incoming: Streaming<AppendRequest>, out: Out) {
        let end = match self.begin(&mut incoming, &out).await {
            Ok(mut session) => {
                let end = self.serve(&mut session, &mut incoming, &out).await;
                self.node.governed.session_ended(session.id);
                if session.unpromised {
                    self.node.signals.role.bump();
                }
                end
            }
            Err(end) => end,
        };
        match end {
            End::Refused(first_seq, reason) => {
                tracing::debug!(first_seq, ?reason, "a producer is refused");
                self.node.metrics.refused(&reason);
                let refusal = Refusal { first_seq, reason: Some(reason) };
                // It may be gone already.
                let _ = out.send(Ok(AppendResponse { kind: Some(Outgoing::Refusal(refusal)) })).await;
            }
            End::Broken(status) => {
                let _ = out.send(Err(status)).await;
            }
            End::Gone => {}
        }
    }

    async fn begin(&self, incoming: &mut Streaming<AppendRequest>, out: &Out) -> Result<Session, End> {
        let first = tokio::time::timeout(HELLO_TIMEOUT, incoming.message()).await;
        let hello = match first {
            Ok(Ok(Some(AppendRequest { kind: Some(Incoming::Hello(hello)) }))) => hello,
            Ok(Ok(None) | Err(_)) => return Err(End::Gone),
            Ok(Ok(Some(_))) => return Err(End::Broken(Status::invalid_argument("the first message must be hello"))),
            Err(_) => return Err(End::Broken(Status::deadline_exceeded("no hello within 10 s"))),
        };
        let copies = self.check(&hello)?;
        let id = self.node.next_session();
        let producer = Bytes::from(hello.producer.into_bytes());
        let elsewhere = self.held_elsewhere(&producer);
        let (held, accepting, opening, base) = {
            let mut admission = self.node.admission();
            if let Some((seq, applied)) = elsewhere {
                admission.learn(&producer, seq, &applied);
            }
            (admission.hello(&producer, id), admission.accepting(), admission.opening(), admission.base())
        };
        let (Ok(held), Some((epoch, stream))) = (held, accepting) else {
            return Err(End::Refused(0, refusal::not_primary(&self.node)));
        };
        let mut owed = Owed::default();
        if held.seq > 0 {
            owed.push(held.seq, held.lsn);
        }
        tracing::debug!(session = id, producer = %producer.escape_ascii(), %epoch, held = held.seq, "a session begins");
        let reply = ProducerHelloReply { highest_seq: held.seq, role: Some(role::state(&self.node)) };
        send(out, Outgoing::Hello(reply)).await?;
        Ok(Session { id, producer, epoch, stream, opening, base, copies, owed, unpromised: false })
    }

    /// Where other sites append in the same epoch: what is applied here of this producer, in whichever stream, and what is
    /// applied at all.
    fn held_elsewhere(&self, producer: &[u8]) -> Option<(u64, Vector)> {
        let known = self.node.governed.directed().shared.then(|| self.node.store.producer(producer)).flatten()?;
        Some((known.seq, self.node.store.position().applied))
    }

    fn check(&self, hello: &ProducerHello) -> Result<usize, End> {
        let invalid = |why: String| End::Broken(Status::invalid_argument(why));
        if hello.protocol != PROTOCOL {
            return Err(invalid(format!("protocol {} is unknown here, this site speaks {PROTOCOL}", hello.protocol)));
        }
        let theirs = Levels::told(hello.level, hello.oldest_level);
        frames::levels(&self.node).meet("the producer's library", theirs).map_err(invalid)?;
        // Control characters are kept for the shipper's own entries.
        let len = hello.producer.len();
        if !(1..=MAX_PRODUCER_BYTES).contains(&len) || hello.producer.contains(char::is_control) {
            return Err(invalid(format!(
                "a producer's name has 1 to {MAX_PRODUCER_BYTES} bytes, no control characters"
            )));
        }
        let asked = match hello.durability.as_str() {
            "" => Durability::Local,
            text => text.parse().map_err(|e| invalid(format!("durability: {e}")))?,
        };
        let copies = asked.copies().max(self.node.settings.now().durability.copies());
        let others = self.node.known_peers().len();
        if copies > others {
            return Err(invalid(format!("durability remote({copies}) needs {copies} other sites, there are {others}")));
        }
        Ok(copies)
    }

    async fn serve(&self, session: &mut Session, incoming: &mut Streaming<AppendRequest>, out: &Out) -> End {
        let mut durable = self.node.signals.durable.subscribe();
        let mut peers = self.node.signals.peers.subscribe();
        let mut role = self.node.signals.role.subscribe();
        let may_need_others = self.may_need_others(session);
        loop {
            if let Err(end) = self.acknowledge(session, out).await {
                return end;
            }
            let waiting = !session.owed.is_empty();
            tokio::select! {
                () = durable.changed(), if waiting => {}
                () = peers.changed(), if waiting && may_need_others => {}
                () = role.changed() => {
                    if self.node.admission().accepting() != Some((session.epoch, session.stream)) {
                        // What was taken is still acknowledged while the lease runs: a switchover loses nothing.
                        return match self.flush(session, out).await {
                            Ok(()) => End::Refused(0, refusal::reason(&self.node, Refused::NotAccepting, 0)),
                            Err(end) => end,
                        };
                    }
                }
                message = incoming.message() => {
                    let entries = match message {
                        Ok(Some(AppendRequest { kind: Some(Incoming::Entries(entries)) })) => entries,
                        Ok(Some(_)) => return End::Broken(Status::invalid_argument("only entries follow hello")),
                        Ok(None) => return self.flush(session, out).await.err().unwrap_or(End::Gone),
                        Err(status) if status.code() == tonic::Code::OutOfRange => {
                            return End::Broken(Status::invalid_argument(format!("a message is over its limit: {}", status.message())));
                        }
                        Err(_) => return End::Gone,
                    };
                    let first_seq = entries.first_seq;
                    if let Err(reason) = self.admit(session, entries).await {
                        if self.node.governed.may_append(self.node.boot_ns()).is_none()
                            && let Err(End::Gone) = self.flush(session, out).await
                        {
                            return End::Gone;
                        }
                        // What was admitted before is acknowledged now, or to the producer's next session.
                        return End::Refused(first_seq, reason);
                    }
                }
            }
        }
    }

    /// Sends the acks that are still owed, until all are or the right to acknowledge ends.
    async fn flush(&self, session: &mut Session, out: &Out) -> Result<(), End> {
        let mut role = self.node.signals.role.subscribe();
        let mut durable = self.node.signals.durable.subscribe();
        let mut peers = self.node.signals.peers.subscribe();
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        loop {
            self.acknowledge(session, out).await?;
            if session.owed.is_empty() {
                return Ok(());
            }
            if self.node.governed.may_acknowledge(self.node.boot_ns()) != Some(session.epoch) {
                return Err(End::Refused(0, refusal::reason(&self.node, Refused::NotAccepting, 0)));
            }
            tokio::select! {
                () = durable.changed() => {}
                () = peers.changed() => {}
                () = role.changed() => {}
                // Leases run out silently.
                _ = look.tick() => {}
                () = out.closed() => return Err(End::Gone),
            }
        }
    }

    /// Whether an ack may wait for another site.
    fn may_need_others(&self, session: &Session) -> bool {
        session.copies > 0 || !self.node.governed.directed().rules.is_empty()
    }

    /// Sends what may be acknowledged now: durable as asked, under a lease that runs (invariants 2 and 4).
    async fn acknowledge(&self, session: &mut Session, out: &Out) -> Result<(), End> {
        if session.owed.is_empty() {
            return Ok(());
        }
        let claim = Claim { session: session.id, epoch: session.epoch, stream: session.stream, asked: session.copies };
        let (owed, base) = (&mut session.owed, &session.base);
        let answer = {
            // Under the lock of the admission, so that LSNs which are taken back are not mistaken for those owed.
            let admission = self.node.admission();
            if admission.opening() == session.opening {
                self.node.governed.acknowledge(
                    claim,
                    self.node.wall_ns() / 1_000_000,
                    || self.node.boot_ns(),
                    |directed| self.node.acknowledged(directed, (claim.stream, claim.epoch), base, claim.asked),
                    |through| owed.take(through),
                )
            } else {
                Acknowledgement::Ended
            }
        };
        let unpromised = std::mem::replace(&mut session.unpromised, answer == Acknowledgement::Unpromised);
        if session.unpromised != unpromised {
            self.node.signals.role.bump();
        }
        match answer {
            Acknowledgement::Given { through_seq, lsn, lease_deadline_ns } => {
                let ack = AppendAck {
                    through_seq,
                    position: Some(StreamPosition::of(session.stream, lsn)),
                    lease_deadline_boot_ns: lease_deadline_ns,
                    lease_left_ns: role::left_ns(lease_deadline_ns, self.node.boot_ns()),
                };
                tracing::debug!(session = session.id, through_seq, %lsn, "acknowledges");
                // If this sleeps, the ack carries a deadline that has passed, and the producer takes it as unknown.
                send(out, Outgoing::Ack(ack)).await
            }
            Acknowledgement::Nothing | Acknowledgement::Unpromised => Ok(()),
            Acknowledgement::Ended => Err(End::Refused(0, refusal::reason(&self.node, Refused::NotAccepting, 0))),
        }
    }

    async fn admit(&self, session: &mut Session, message: AppendEntries) -> Result<(), Reason> {
        let AppendEntries { epoch, first_seq, mut entries } = message;
        let bytes = refusal::validate(first_seq, &entries)?;
        if self.node.space.is_read_only() {
            return Err(refusal::backpressure(self.node.space.why()));
        }
        let room = tokio::time::timeout(QUEUE_PATIENCE, async {
            let entries = self.room_for_entries.clone().acquire_many_owned(entries.len() as u32).await;
            let bytes = self.room_for_bytes.clone().acquire_many_owned(bytes as u32).await;
            Some([entries.ok()?, bytes.ok()?])
        });
        let Ok(Some(room)) = room.await else {
            return Err(refusal::backpressure("the queue of the group commit is full".into()));
        };
        let mut admission = self.node.admission();
        // The admission may be open for a moment longer than the lease, after a process slept.
        if self.node.governed.may_append(self.node.boot_ns()) != Some(session.epoch) {
            return Err(refusal::reason(&self.node, Refused::NotAccepting, first_seq));
        }
        let places = admission.entries(&session.producer, session.id, Epoch(epoch), first_seq, entries.len());
        let Places { held, first_lsn, last_lsn } =
            places.map_err(|refused| refusal::reason(&self.node, refused, first_seq))?;
        session.owed.push(first_seq + entries.len() as u64 - 1, last_lsn);
        let new = entries.len().saturating_sub(held) as u64;
        if held < entries.len() {
            entries.drain(..held);
            let admitted = Admitted {
                stream: session.stream,
                epoch: session.epoch,
                first_lsn,
                producer: session.producer.clone(),
                first_seq: first_seq + held as u64,
                ops: entries.into_iter(),
                _room: Some(room),
            };
            // Under the lock of the admission, so that the queue is in the order of LSNs.
            if self.queue.send(Work::Append(admitted)).is_err() {
                return Err(refusal::backpressure("the shipper is stopping".into()));
            }
        }
        drop(admission);
        self.node.recent.admitted(&session.producer, new, self.node.boot_ms());
        Ok(())
    }
}

async fn send(out: &Out, kind: Outgoing) -> Result<(), End> {
    out.send(Ok(AppendResponse { kind: Some(kind) })).await.map_err(|_| End::Gone)
}
