//! A source that lies: a server with site-a's own certificate, to which site-b listens.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cfs_model::op::StreamPosition;
use cfs_model::{Epoch, Lsn, StreamId};
use cfs_rpc::clock::RealClock;
use cfs_rpc::identity::Role;
use cfs_rpc::net::RealNet;
use cfs_rpc::serve::{Admission, incoming};
use cfs_rpc::tls::SharedTls;
use cfs_rpc::v1::peer_server::{Peer, PeerServer};
use cfs_rpc::v1::receiver_frame::Kind as FromReceiver;
use cfs_rpc::v1::source_frame::Kind as FromSource;
use cfs_rpc::v1::{
    AuditCheckpoint, Batches, CopyFrame, CopyPart, DescendReply, DescendRequest, DigestsReply, DigestsRequest,
    HeldCheckpointsReply, HeldCheckpointsRequest, HoldCheckpointReply, LookupReply, LosingReply, LosingRequest,
    OfferReply, OfferRequest, Opened, PeerHello, PeerLookupRequest, ReceiverFrame, RegistersReply, RegistersRequest,
    SourceFrame, StatusReply, StatusRequest, StreamState, VerifyReply, VerifyRequest,
};
use cfs_shipper_core::batch::{Batch, ChainHash, Header};
use cfs_shipper_core::caps::{MAX_BATCH_RAW_BYTES, MAX_FRAME_BYTES};
use cfs_shipper_core::codec::Codec;
use cfs_shipper_core::payload::Builder;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use xxhash_rust::xxh3::xxh3_64;

use crate::harness::{Cluster, PATIENCE, eventually};
use crate::producers::{Session, entry, in_journal, socket};

/// Where site-b's copy of the stream ends, as it says itself.
#[derive(Debug, Clone, Copy)]
struct Tail {
    stream: StreamId,
    lsn: Lsn,
    chain: ChainHash,
}

/// Makes the bytes of one frame for a receiver that is at `Tail`.
type Lie = fn(Tail) -> Vec<u8>;

/// What happened to a session in which a lie was told.
#[derive(Debug)]
struct Outcome {
    what: &'static str,
    ended: bool,
    durable_after: Lsn,
}

#[derive(Clone)]
struct Liar {
    cluster: String,
    lies: Arc<Mutex<VecDeque<(&'static str, Lie)>>>,
    outcomes: mpsc::UnboundedSender<Outcome>,
}

type Frames = Pin<Box<dyn tokio_stream::Stream<Item = Result<SourceFrame, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for Liar {
    type SubscribeStream = Frames;

    async fn subscribe(&self, request: Request<Streaming<ReceiverFrame>>) -> Result<Response<Frames>, Status> {
        let (out, frames) = mpsc::channel(16);
        let liar = self.clone();
        tokio::spawn(async move { liar.session(request.into_inner(), out).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(frames))))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        Err(Status::unavailable("a liar"))
    }

    async fn digests(&self, _: Request<DigestsRequest>) -> Result<Response<DigestsReply>, Status> {
        Err(Status::unavailable("a liar"))
    }

    async fn offer(&self, _: Request<OfferRequest>) -> Result<Response<OfferReply>, Status> {
        Err(Status::unavailable("a liar"))
    }

    type CopyStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<CopyPart, Status>> + Send>>;

    async fn copy(&self, _: Request<Streaming<CopyFrame>>) -> Result<Response<Self::CopyStream>, Status> {
        Err(Status::unavailable("a liar"))
    }

    async fn hold_checkpoint(&self, _: Request<AuditCheckpoint>) -> Result<Response<HoldCheckpointReply>, Status> {
        Err(Status::unavailable("a liar"))
    }

    async fn held_checkpoints(
        &self,
        _: Request<HeldCheckpointsRequest>,
    ) -> Result<Response<HeldCheckpointsReply>, Status> {
        Err(Status::unavailable("a liar"))
    }

    async fn verify(&self, _: Request<VerifyRequest>) -> Result<Response<VerifyReply>, Status> {
        Err(Status::unavailable("a liar"))
    }

    async fn descend(&self, _: Request<DescendRequest>) -> Result<Response<DescendReply>, Status> {
        Err(Status::unavailable("a liar"))
    }

    async fn read_registers(&self, _: Request<RegistersRequest>) -> Result<Response<RegistersReply>, Status> {
        Err(Status::unavailable("a liar"))
    }

    async fn losing(&self, _: Request<LosingRequest>) -> Result<Response<LosingReply>, Status> {
        Err(Status::unavailable("a liar"))
    }

    async fn lookup(&self, _: Request<PeerLookupRequest>) -> Result<Response<LookupReply>, Status> {
        Err(Status::unavailable("a liar"))
    }
}

impl Liar {
    /// Greets, waits for the pull, tells one lie, and watches what the receiver makes of it.
    async fn session(&self, mut from: Streaming<ReceiverFrame>, out: mpsc::Sender<Result<SourceFrame, Status>>) {
        let Ok(Some(ReceiverFrame { kind: Some(FromReceiver::Hello(theirs)) })) = from.message().await else { return };
        let Some(end) = theirs.streams.first().and_then(|state| state.durable) else { return };
        let Some((what, lie)) = self.lies.lock().unwrap().pop_front() else { return };
        let claimed =
            StreamState { durable: Some(StreamPosition { lsn: end.lsn + 1000, ..end }), applied_lsn: 0, first_lsn: 0 };
        let opened = vec![Opened { epoch: 1, site: 1 }, Opened { epoch: 2, site: 2 }];
        let hello = PeerHello {
            protocol: 1,
            cluster: self.cluster.clone(),
            site: "site-a".into(),
            site_id: 1,
            opened,
            streams: vec![claimed],
            ..PeerHello::default()
        };
        let _ = out.send(Ok(SourceFrame { kind: Some(FromSource::Hello(hello)) })).await;
        let mut durable_after = end.lsn();
        let mut told = false;
        let watching = async {
            while let Ok(Some(frame)) = from.message().await {
                match frame.kind {
                    Some(FromReceiver::Pull(pull)) if !told => {
                        told = true;
                        let after = pull.after.expect("a position");
                        let stream = after.stream().expect("a stream");
                        let chain = ChainHash(pull.chain.as_ref().try_into().expect("16 bytes"));
                        let batches = lie(Tail { stream, lsn: after.lsn(), chain }).into();
                        let (site, incarnation) = (after.site, after.incarnation);
                        let frame = Batches { site, incarnation, batches, number: pull.number, sent_boot_ns: 0 };
                        let _ = out.send(Ok(SourceFrame { kind: Some(FromSource::Batches(frame)) })).await;
                    }
                    Some(FromReceiver::Ack(ack)) => {
                        let seen = ack.streams.iter().filter_map(|state| state.durable).map(|p| p.lsn()).max();
                        durable_after = durable_after.max(seen.unwrap_or_default());
                    }
                    _ => {}
                }
            }
        };
        // A receiver that waits for something keeps the session.
        let ended = tokio::time::timeout(Duration::from_secs(2), watching).await.is_ok();
        let _ = self.outcomes.send(Outcome { what, ended, durable_after });
    }
}

/// A header that continues the receiver's stream properly.
fn header(tail: Tail, count: u32) -> Header {
    Header {
        stream: tail.stream,
        epoch: Epoch(1),
        first_lsn: tail.lsn.next(),
        count,
        first_clock: u64::MAX / 4,
        durable_lsn: tail.lsn,
        vector: None,
        codec: Codec::None,
        raw_len: 0,
        encoded_len: 0,
        payload_checksum: 0,
        chain: tail.chain,
    }
}

fn payload(count: u64) -> Vec<u8> {
    let mut builder = Builder::default();
    (1..=count).for_each(|seq| builder.push(&Bytes::from_static(b"liar"), seq, &entry(5000 + seq)));
    builder.finish()
}

/// A batch that would be taken.
fn good(tail: Tail) -> Batch {
    Batch::build(header(tail, 3), &payload(3), &mut Vec::new()).expect("a batch")
}

fn next(tail: Tail, batch: &Batch) -> Tail {
    Tail { lsn: batch.header().last_lsn(), chain: batch.chain_after(), ..tail }
}

fn with(tail: Tail, change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = header(tail, 3);
    change(&mut header);
    Batch::build(header, &payload(3), &mut Vec::new()).expect("a batch").bytes().to_vec()
}

/// A batch with a valid checksum whose compressed payload is not what the header claims.
fn bomb(tail: Tail, encoded: &[u8], raw_len: u32) -> Vec<u8> {
    let header = Header {
        codec: Codec::Zstd(3),
        raw_len,
        encoded_len: encoded.len() as u32,
        payload_checksum: xxh3_64(encoded),
        ..header(tail, 3)
    };
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    bytes.extend_from_slice(encoded);
    bytes
}

fn zeros_compressed() -> Vec<u8> {
    let mut out = Vec::new();
    Codec::Zstd(19).compress(&vec![0; MAX_BATCH_RAW_BYTES], &mut out).expect("it compresses");
    out
}

const LIES: &[(&str, Lie)] = &[
    ("garbage", |_| b"this is no batch at all, however long one looks at it".repeat(10)),
    ("a corrupted header", |tail| flipped(good(tail).bytes(), 20)),
    ("a corrupted payload", |tail| flipped(good(tail).bytes(), good(tail).bytes().len() - 1)),
    ("a truncated batch", |tail| good(tail).bytes()[..good(tail).bytes().len() - 1].to_vec()),
    ("a batch left out", |tail| good(next(tail, &good(tail))).bytes().to_vec()),
    ("a batch twice", |tail| good(tail).bytes().repeat(2)),
    ("another history", |tail| with(tail, |header| header.chain = ChainHash([7; 16]))),
    ("another stream's batch", |tail| with(tail, |header| header.stream.site = cfs_model::SiteId(2))),
    ("an older epoch", |tail| with(tail, |header| header.epoch = Epoch(0))),
    ("another site's epoch", |tail| with(tail, |header| header.epoch = Epoch(2))),
    ("a bomb with a small claim", |tail| bomb(tail, &zeros_compressed(), 100_000)),
    ("a bomb with a large claim", |tail| bomb(tail, &zeros_compressed(), MAX_BATCH_RAW_BYTES as u32 + 1)),
    ("more than it holds", |tail| with(tail, |header| header.count = 50)),
    ("a frame over the limit", |_| vec![0; MAX_FRAME_BYTES + 1]),
];

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

fn reordered(tail: Tail) -> Vec<u8> {
    let first = good(tail);
    let second = good(next(tail, &first));
    [second.bytes().as_ref(), first.bytes()].concat()
}

/// Invariants 3, 9 and 10: nothing that is not the continuation of the stream reaches the replica's journal, whoever
/// sends it; each lie is counted, and the replica goes on with an honest source.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_source_is_refused() {
    let cluster = Cluster::up();
    let (mut session, reply) = Session::hello(&socket(&cluster, "site-a"), "p", "").await;
    let epoch = reply.role.expect("a role").epoch;
    session.append(epoch, 1, (1..=10).map(entry).collect()).await;
    session.acked(10).await;
    cluster.settle();
    let held = in_journal(&cluster, "site-b");
    let (port, tls) = (cluster.port("site-a", "peer"), cluster.path("site-a", "state/tls"));
    let id = cluster.status("site-a")["cluster"].as_str().expect("an id").to_owned();
    drop(session);
    cluster.stop("site-a");

    let mut lies: Vec<(&'static str, Lie)> = LIES.to_vec();
    lies.push(("batches in another order", reordered));
    let (outcomes, mut told) = mpsc::unbounded_channel();
    let queue: Arc<Mutex<VecDeque<(&'static str, Lie)>>> = Arc::default();
    let liar = Liar { cluster: id, lies: queue.clone(), outcomes };
    let server = tokio::spawn(serve(liar, port, tls));
    // A site that has just started dials without long pauses.
    for some in lies.chunks(5) {
        cluster.dev(&["restart", "--now", "site-b"]).ok();
        let before = cluster.metrics("site-b").errors();
        queue.lock().unwrap().extend(some);
        for _ in some {
            let outcome =
                tokio::time::timeout(PATIENCE, told.recv()).await.expect("site-b dials again").expect("a session");
            assert_eq!(outcome.durable_after, Lsn(10), "site-b took {}", outcome.what);
            assert!(outcome.ended, "site-b did not end the session after {}", outcome.what);
        }
        let counted = cluster.metrics("site-b").errors() - before;
        // Two lies in a row that look the same are one episode.
        assert!(counted + 1.0 >= some.len() as f64, "{counted} errors for {} lies", some.len());
        let memory = cluster.status("site-b")["process"]["rss_peak_bytes"].as_u64().expect("a number");
        assert!(memory < 200 << 20, "site-b took {memory} bytes");
    }
    server.abort();
    let _ = server.await;
    assert_eq!(in_journal(&cluster, "site-b"), held, "site-b's journal changed");
    // Until then it waits for the entries that the liar claimed to have.
    cluster.dev(&["restart", "--now", "site-b"]).ok();
    eventually("site-a to start where the liar was", PATIENCE, || {
        let said = cluster.dev(&["start", "site-a"]);
        if said.code == 0 { Ok(()) } else { Err(said.err) }
    });
    let (mut session, reply) = Session::hello(&socket(&cluster, "site-a"), "p", "").await;
    session.append(reply.role.expect("a role").epoch, 11, vec![entry(11)]).await;
    session.acked(11).await;
    cluster.expect_identical();
    assert_eq!(in_journal(&cluster, "site-b").len(), 11);
    cluster.expect_same_journals();
}

async fn serve(liar: Liar, port: u16, tls: PathBuf) {
    let tls = SharedTls::load(&tls, Role::Shipper, Arc::new(RealClock)).expect("site-a's certificate");
    let listener = RealNet::shared().bind(&format!("127.0.0.1:{port}")).await.expect("site-a's port");
    let service = PeerServer::new(liar).max_encoding_message_size(2 * MAX_FRAME_BYTES);
    let server = cfs_rpc::http2::server().add_service(service);
    server.serve_with_incoming(incoming(listener, tls, Admission::of([Role::Shipper]))).await.expect("it serves");
}
