//! A shipper as the contract of `producer.proto` has it, with faults to order. It keeps its journal across restarts.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use cfs_model::op::StreamPosition;
use cfs_rpc::unix;
use cfs_rpc::v1::append_request::Kind as Incoming;
use cfs_rpc::v1::append_response::Kind as Outgoing;
use cfs_rpc::v1::producer_server::{Producer, ProducerServer};
use cfs_rpc::v1::refusal::Reason;
use cfs_rpc::v1::{
    AppendAck, AppendEntries, AppendRequest, AppendResponse, Fenced, Invalid, NotPrimary, ProducerHello,
    ProducerHelloReply, Refusal, RoleState, WatchRoleRequest,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// What never is an operation here.
pub(crate) const BAD: &[u8] = b"bad";

/// What a message of entries meets instead of being taken.
pub(crate) enum Fault {
    /// Refused so.
    Refuse(Reason),
    /// The connection ends before anything is stored.
    Break,
    /// Stored, and the connection ends before it is acknowledged.
    BreakAfterStoring,
}

#[derive(Default)]
pub(crate) struct Journal {
    pub(crate) held: HashMap<String, u64>,
    /// The epoch in which each producer last appended: within it no number may be left out.
    pub(crate) lives: HashMap<String, u64>,
    pub(crate) entries: Vec<(String, u64, Bytes)>,
    pub(crate) faults: VecDeque<Fault>,
    pub(crate) hellos: Vec<ProducerHello>,
    pub(crate) messages: usize,
    /// Stored entries stay unacknowledged.
    pub(crate) mute: bool,
    /// The lease deadline that acks carry.
    pub(crate) deadline_ns: Option<u64>,
    /// What is left of it when they leave.
    pub(crate) left_ns: Option<u64>,
}

pub(crate) struct Shipper {
    pub(crate) journal: Mutex<Journal>,
    pub(crate) role: watch::Sender<RoleState>,
    unmuted: tokio::sync::Notify,
    killed: tokio::sync::Notify,
    socket: PathBuf,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl Shipper {
    /// A primary in epoch 1.
    pub(crate) fn start(dir: &Path) -> Arc<Self> {
        let role = RoleState {
            site: "site-a".into(),
            primary: "site-a".into(),
            epoch: 1,
            accepting: true,
            lease_left_ns: u64::MAX,
            ..RoleState::default()
        };
        let shipper = Arc::new(Self {
            journal: Mutex::default(),
            role: watch::channel(role).0,
            unmuted: tokio::sync::Notify::new(),
            killed: tokio::sync::Notify::new(),
            socket: dir.join("shipper.sock"),
            serving: Mutex::default(),
        });
        shipper.serve();
        shipper
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().expect("no test panics with the lock")
    }

    pub(crate) fn serve(self: &Arc<Self>) {
        let listener = unix::bind(&self.socket).expect("a socket");
        let service = ProducerServer::new(Service(self.clone()));
        let server = cfs_rpc::http2::server().add_service(service);
        let serving = tokio::spawn(async move {
            let _ = server.serve_with_incoming(unix::incoming(listener)).await;
        });
        *self.serving.lock().expect("no test panics with the lock") = Some(serving);
    }

    /// As kill -9 does.
    pub(crate) async fn kill(&self) {
        let serving = self.serving.lock().expect("no test panics with the lock").take();
        if let Some(serving) = serving {
            serving.abort();
            let _ = serving.await;
        }
        let _ = std::fs::remove_file(&self.socket);
        self.killed.notify_waiters();
    }

    pub(crate) fn mute(&self, mute: bool) {
        self.journal().mute = mute;
        self.unmuted.notify_waiters();
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.journal().faults.push_back(fault);
    }

    /// What the journal holds, without names.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.journal().entries.iter().map(|(.., op)| String::from_utf8_lossy(op).into_owned()).collect()
    }

    /// Every producer's numbers count up from 1 without gaps: nothing twice, nothing left out.
    pub(crate) fn assert_contiguous(&self) {
        let mut next: HashMap<String, u64> = HashMap::new();
        for (producer, seq, _) in &self.journal().entries {
            let next = next.entry(producer.clone()).or_insert(1);
            assert_eq!(seq, next, "of {producer}");
            *next += 1;
        }
    }
}

#[derive(Clone)]
struct Service(Arc<Shipper>);

type Out = mpsc::Sender<Result<AppendResponse, Status>>;

#[tonic::async_trait]
impl Producer for Service {
    type AppendStream = ReceiverStream<Result<AppendResponse, Status>>;
    type WatchRoleStream = ReceiverStream<Result<RoleState, Status>>;

    async fn append(&self, request: Request<Streaming<AppendRequest>>) -> Result<Response<Self::AppendStream>, Status> {
        let (out, responses) = mpsc::channel(64);
        let shipper = self.0.clone();
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = shipper.session(request.into_inner(), &out) => ended,
                () = shipper.killed.notified() => None,
            };
            if let Some(refusal) = ended {
                let _ = out.send(Ok(AppendResponse { kind: Some(Outgoing::Refusal(refusal)) })).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn watch_role(&self, _: Request<WatchRoleRequest>) -> Result<Response<Self::WatchRoleStream>, Status> {
        let (out, states) = mpsc::channel(4);
        let mut role = self.0.role.subscribe();
        tokio::spawn(async move {
            loop {
                let state = role.borrow_and_update().clone();
                if out.send(Ok(state)).await.is_err() || role.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(states)))
    }
}

impl Shipper {
    /// The refusal that ends the session; `None`: the connection ends.
    async fn session(&self, mut incoming: Streaming<AppendRequest>, out: &Out) -> Option<Refusal> {
        let Ok(Some(AppendRequest { kind: Some(Incoming::Hello(hello)) })) = incoming.message().await else {
            return None;
        };
        let name = hello.producer.clone();
        let role = self.role.borrow().clone();
        if !role.accepting && role.primary != role.site {
            return Some(Refusal { first_seq: 0, reason: Some(Reason::NotPrimary(not_primary(&role))) });
        }
        let highest_seq = {
            let mut journal = self.journal();
            let held = journal.held.get(&name).copied().unwrap_or(0);
            // A producer that this site does not know goes on after what it was acknowledged elsewhere.
            journal.lives.entry(name.clone()).or_insert(0);
            journal.hellos.push(hello);
            held
        };
        let reply = ProducerHelloReply { highest_seq, role: Some(role) };
        out.send(Ok(AppendResponse { kind: Some(Outgoing::Hello(reply)) })).await.ok()?;
        if highest_seq > 0 {
            self.acknowledge(&name, out).await?;
        }
        loop {
            let message = tokio::select! {
                message = incoming.message() => message.ok()??,
                () = out.closed() => return None,
            };
            let Some(Incoming::Entries(entries)) = message.kind else { return None };
            let first_seq = entries.first_seq;
            match self.take(&name, entries) {
                Ok(true) => self.acknowledge(&name, out).await?,
                Ok(false) => return None,
                Err(reason) => return Some(Refusal { first_seq, reason: Some(reason) }),
            }
        }
    }

    /// Whether the session goes on.
    fn take(&self, name: &str, message: AppendEntries) -> Result<bool, Reason> {
        let role = self.role.borrow().clone();
        let mut journal = self.journal();
        journal.messages += 1;
        let fault = journal.faults.pop_front();
        match fault {
            Some(Fault::Refuse(reason)) => return Err(reason),
            Some(Fault::Break) => return Ok(false),
            _ => {}
        }
        if !role.accepting {
            return Err(Reason::NotPrimary(not_primary(&role)));
        }
        if message.epoch != role.epoch {
            return Err(Reason::Fenced(Fenced { current_epoch: role.epoch }));
        }
        let held = journal.held.get(name).copied().unwrap_or(0);
        let life = journal.lives.get(name).copied().unwrap_or(role.epoch);
        if message.first_seq > held + 1 && life == role.epoch {
            let why = format!("gap: {} comes next", held + 1);
            return Err(Reason::Invalid(Invalid { seq: message.first_seq, why }));
        }
        if let Some(at) = message.entries.iter().position(|op| op == BAD) {
            return Err(Reason::Invalid(Invalid { seq: message.first_seq + at as u64, why: "no operation".into() }));
        }
        for (seq, op) in (message.first_seq..).zip(message.entries) {
            if seq > held {
                journal.entries.push((name.to_owned(), seq, op));
                journal.held.insert(name.to_owned(), seq);
                journal.lives.insert(name.to_owned(), role.epoch);
            }
        }
        Ok(!matches!(fault, Some(Fault::BreakAfterStoring)))
    }

    async fn acknowledge(&self, name: &str, out: &Out) -> Option<()> {
        loop {
            let unmuted = self.unmuted.notified();
            let ack = {
                let journal = self.journal();
                let through_seq = journal.held.get(name).copied().unwrap_or(0);
                let at = journal.entries.iter().rposition(|(producer, ..)| producer == name);
                let lsn = at.map_or(0, |at| at as u64 + 1);
                (!journal.mute).then(|| AppendAck {
                    through_seq,
                    position: Some(StreamPosition { site: 1, incarnation: 1, lsn }),
                    lease_deadline_boot_ns: journal.deadline_ns.unwrap_or(u64::MAX),
                    lease_left_ns: journal.left_ns.unwrap_or(u64::MAX),
                })
            };
            match ack {
                Some(ack) => return out.send(Ok(AppendResponse { kind: Some(Outgoing::Ack(ack)) })).await.ok(),
                None => tokio::select! {
                    () = unmuted => {}
                    () = out.closed() => return None,
                    () = tokio::time::sleep(Duration::from_secs(20)) => return None,
                },
            }
        }
    }
}

fn not_primary(role: &RoleState) -> NotPrimary {
    NotPrimary {
        site: role.primary.clone(),
        address: role.address.clone(),
        epoch: role.epoch,
        why: "another site is primary".into(),
    }
}
