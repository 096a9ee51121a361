//! What a producer may send, and what it gets for the rest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use cfs_model::op::op::Kind;
use cfs_model::op::{Mkdir, Op};
use cfs_rpc::v1::append_request::Kind as Request;
use cfs_rpc::v1::append_response::Kind as Response;
use cfs_rpc::v1::producer_client::ProducerClient;
use cfs_rpc::v1::refusal::Reason;
use cfs_rpc::v1::{AppendEntries, AppendRequest, AppendResponse, ProducerHello, ProducerHelloReply};
use cfs_shipper_core::caps::{MAX_APPEND_ENTRIES, MAX_ENTRY_BYTES};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::harness::{Cluster, PATIENCE, cfs};

/// A session on a site's Unix socket, without any of the client's care.
pub(crate) struct Session {
    out: mpsc::Sender<AppendRequest>,
    answers: Streaming<AppendResponse>,
}

impl Session {
    pub(crate) async fn open(socket: &Path) -> Self {
        let channel = cfs_rpc::unix::connect(socket).await.expect("the socket answers");
        let (out, requests) = mpsc::channel(64);
        let answers = ProducerClient::new(channel).append(ReceiverStream::new(requests)).await.expect("a session");
        Self { out, answers: answers.into_inner() }
    }

    pub(crate) async fn hello(socket: &Path, producer: &str, durability: &str) -> (Self, ProducerHelloReply) {
        let mut session = Self::open(socket).await;
        let hello = ProducerHello {
            protocol: 1,
            producer: producer.into(),
            durability: durability.into(),
            ..Default::default()
        };
        session.send(Request::Hello(hello)).await;
        match session.answer().await {
            Ok(Some(Response::Hello(reply))) => (session, reply),
            other => panic!("no answer to hello but {other:?}"),
        }
    }

    pub(crate) async fn send(&self, kind: Request) {
        // A session that was ended takes nothing more; its last answer says why.
        let _ = self.out.send(AppendRequest { kind: Some(kind) }).await;
    }

    pub(crate) async fn append(&self, epoch: u64, first_seq: u64, entries: Vec<Bytes>) {
        self.send(Request::Entries(AppendEntries { epoch, first_seq, entries })).await;
    }

    pub(crate) async fn answer(&mut self) -> Result<Option<Response>, Status> {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("an answer in time");
        answer.map(|answer| answer.and_then(|answer| answer.kind))
    }

    /// The sequence number through which everything is acknowledged.
    pub(crate) async fn acked(&mut self, seq: u64) {
        loop {
            match self.answer().await {
                Ok(Some(Response::Ack(ack))) if ack.through_seq >= seq => return,
                Ok(Some(Response::Ack(_))) => {}
                other => panic!("no ack but {other:?}"),
            }
        }
    }

    async fn refused(&mut self) -> Reason {
        loop {
            match self.answer().await {
                Ok(Some(Response::Ack(_))) => {}
                Ok(Some(Response::Refusal(refusal))) => return refusal.reason.expect("a reason"),
                other => panic!("no refusal but {other:?}"),
            }
        }
    }
}

pub(crate) fn socket(cluster: &Cluster, site: &str) -> PathBuf {
    cluster.layout(site)["socket"].as_str().expect("a path").into()
}

/// A directory below the root, which no two numbers share.
pub(crate) fn entry(number: u64) -> Bytes {
    let name = format!("d{number}").into_bytes().into();
    let mkdir = Mkdir { parent: 1, name, inode: 1_000_000 + number, attributes: Some(Default::default()) };
    Op { kind: Some(Kind::Mkdir(mkdir)) }.encode_to_vec().into()
}

/// How often each of these directories is in a site's journal.
pub(crate) fn in_journal(cluster: &Cluster, site: &str) -> std::collections::BTreeMap<u64, usize> {
    let mut found = std::collections::BTreeMap::new();
    for line in cluster.at(site, &["journal", "dump", "--stream", "site-a", "-o", "jsonl"]).json_lines() {
        if let Some(inode) = line["op"]["mkdir"]["inode"].as_u64().and_then(|inode| inode.checked_sub(1_000_000)) {
            *found.entry(inode).or_default() += 1;
        }
    }
    found
}

/// Invariants 1, 8 and 10: whatever a producer sends, the journal takes whole, valid entries of the current epoch in
/// order, once, and the shipper goes on serving others.
#[tokio::test(flavor = "multi_thread")]
async fn bad_producers_are_refused_and_hurt_nobody() {
    let cluster = Cluster::up();
    let a = socket(&cluster, "site-a");
    let (mut good, reply) = Session::hello(&a, "good", "").await;
    let epoch = reply.role.expect("a role").epoch;
    assert_eq!(reply.highest_seq, 0);
    let errors = cluster.metrics("site-a").errors();
    good.append(epoch, 1, vec![entry(1), entry(2)]).await;
    good.acked(2).await;

    refused_messages(&a, epoch).await;
    bad_sessions(&a).await;
    retries_are_exactly_once(&a, epoch).await;
    appends_at_the_replica_are_sent_to_the_primary(&cluster, &a).await;

    // The first producer's session survived all that.
    good.append(epoch, 3, vec![entry(3)]).await;
    good.acked(3).await;
    cluster.settle();
    let found = in_journal(&cluster, "site-b");
    assert!(found.values().all(|count| *count == 1), "an entry is in the journal twice: {found:?}");
    let expected: Vec<u64> = [1, 2, 3, 100, 200, 201, 202, 203].into();
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), expected);
    let metrics = cluster.metrics("site-a");
    for (kind, least) in [("fenced", 2.0), ("invalid", 6.0)] {
        let counted = metrics.get(&format!("claudefs_replication_refusals_total{{kind=\"{kind}\"}}"));
        assert!(counted.is_some_and(|counted| counted >= least), "{kind}: {counted:?}");
    }
    assert_eq!(metrics.errors(), errors, "refusals are answers, not errors");
    cluster.expect_identical();
}

/// Each of these is refused with its reason, and takes nothing of the message with it.
async fn refused_messages(a: &Path, epoch: u64) {
    let large: Bytes = vec![0; MAX_ENTRY_BYTES + 1].into();
    let forget = Op { kind: Some(Kind::Forget(Default::default())) }.encode_to_vec().into();
    let rootless = Op { kind: Some(Kind::Mkdir(Mkdir { inode: 5, ..Default::default() })) }.encode_to_vec().into();
    let cases: Vec<(&str, u64, u64, Vec<Bytes>)> = vec![
        ("an older epoch", epoch - 1, 1, vec![entry(900)]),
        ("a newer epoch", epoch + 1, 1, vec![entry(900)]),
        ("sequence 0", epoch, 0, vec![entry(900)]),
        ("no entry", epoch, 1, Vec::new()),
        ("an entry of 0 bytes", epoch, 1, vec![entry(900), Bytes::new()]),
        ("an entry over the limit", epoch, 1, vec![entry(900), large]),
        ("garbage", epoch, 1, vec![entry(900), Bytes::from_static(b"\xff\xff\xff garbage")]),
        ("a name of no bytes", epoch, 1, vec![rootless]),
        ("what only the primary writes", epoch, 1, vec![forget]),
        ("too many entries", epoch, 1, vec![entry(900); MAX_APPEND_ENTRIES + 1]),
    ];
    for (what, epoch_of, first_seq, entries) in cases {
        let (mut session, _) = Session::hello(a, what, "").await;
        session.append(epoch_of, first_seq, entries).await;
        match session.refused().await {
            Reason::Fenced(fenced) if epoch_of != epoch => assert_eq!(fenced.current_epoch, epoch, "{what}"),
            Reason::Invalid(invalid) if epoch_of == epoch => assert!(!invalid.why.is_empty(), "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

/// Sessions that do not keep to the protocol are ended, one by one.
async fn bad_sessions(a: &Path) {
    let mut entries_first = Session::open(a).await;
    entries_first.append(1, 1, vec![entry(900)]).await;
    assert!(entries_first.answer().await.is_err(), "entries came before hello");
    for (protocol, producer, durability) in [
        (2, "x", ""),
        (1, "", ""),
        (1, "a\u{1}b", ""),
        (1, &*"n".repeat(129), ""),
        (1, "x", "remote(7)"),
        (1, "x", "often"),
    ] {
        let mut session = Session::open(a).await;
        let hello =
            ProducerHello { protocol, producer: producer.into(), durability: durability.into(), ..Default::default() };
        session.send(Request::Hello(hello)).await;
        let answer = session.answer().await;
        assert!(answer.is_err(), "hello ({protocol}, {producer:?}, {durability:?}) was answered {answer:?}");
    }
}

/// Invariant 8: what is sent again, by the same session or by the next one, is in the journal once.
async fn retries_are_exactly_once(a: &Path, epoch: u64) {
    // Vanishes without waiting for its ack.
    let (session, _) = Session::hello(a, "vanishing", "").await;
    session.append(epoch, 1, vec![entry(100)]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(session);
    let (mut again, reply) = Session::hello(a, "vanishing", "").await;
    assert_eq!(reply.highest_seq, 1, "the entry of the session that vanished is known");
    again.append(epoch, 1, vec![entry(100)]).await;
    again.acked(1).await;

    let (mut session, _) = Session::hello(a, "repeating", "").await;
    session.append(epoch, 1, vec![entry(200), entry(201)]).await;
    session.append(epoch, 1, vec![entry(200), entry(201), entry(202)]).await;
    session.append(epoch, 3, vec![entry(202), entry(203)]).await;
    session.acked(4).await;

    // Where it was seen before, a producer leaves no gap.
    session.append(epoch, 6, vec![entry(900)]).await;
    assert!(matches!(session.refused().await, Reason::Invalid(_)), "a gap");
}

/// Invariant 1: only the primary appends; the refusal names it and where it listens.
async fn appends_at_the_replica_are_sent_to_the_primary(cluster: &Cluster, a: &Path) {
    let b = socket(cluster, "site-b");
    assert_ne!(*a, b);
    let mut session = Session::open(&b).await;
    let hello = ProducerHello { protocol: 1, producer: "lost".into(), durability: String::new(), ..Default::default() };
    session.send(Request::Hello(hello)).await;
    match session.refused().await {
        Reason::NotPrimary(refusal) => {
            assert_eq!(refusal.site, "site-a");
            assert_eq!(refusal.address, format!("127.0.0.1:{}", cluster.port("site-a", "producer")));
        }
        other => panic!("{other:?}"),
    }
}

/// Invariant 4: `remote(1)` acknowledges nothing that the other site does not hold, and goes on when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn remote_durability_waits_for_the_other_site() {
    let cluster = Cluster::up();
    let a = socket(&cluster, "site-a");
    let (mut session, reply) = Session::hello(&a, "careful", "remote(1)").await;
    let epoch = reply.role.expect("a role").epoch;
    session.append(epoch, 1, vec![entry(1)]).await;
    session.acked(1).await;

    cluster.stop("site-b");
    session.append(epoch, 2, vec![entry(2)]).await;
    let early = tokio::time::timeout(Duration::from_secs(2), session.answer()).await;
    assert!(early.is_err(), "acknowledged although no other site holds it: {early:?}");
    // A producer that does not ask for it is not held up.
    let (mut local, _) = Session::hello(&a, "fast", "local").await;
    local.append(epoch, 1, vec![entry(3)]).await;
    local.acked(1).await;

    cluster.start("site-b");
    session.acked(2).await;
    cluster.settle();
    assert_eq!(in_journal(&cluster, "site-b").keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
}

/// A key that nobody knows is an error that names it, before anything starts.
#[test]
fn unknown_keys_are_named() {
    let cluster = Cluster::up();
    cluster.stop("site-b");
    let config = cluster.path("site-b", "repl.toml");
    let sound = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{sound}\n[replication]\nbatch_sice = 5\n")).unwrap();
    let checked = cluster.at("site-b", &["config", "check"]).failed();
    let started = cluster.dev(&["start", "site-b"]).failed();
    for said in [checked, started] {
        assert!(said.contains("replication.batch_sice"), "{said}");
    }
    std::fs::write(&config, sound).unwrap();
    cluster.start("site-b");
    assert_ne!(cfs(["dev", "up", "--dir", "/dev/null/x"]).code, 0);
}
