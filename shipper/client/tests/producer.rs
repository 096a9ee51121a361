//! The client against a shipper that breaks, refuses and starts again.

#![allow(clippy::expect_used, reason = "a test may panic in the functions that it shares, too")]

mod failover;
mod server;

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cfs_client::{Ack, Append, Error, Fatal, Options, Producer, Target};
use cfs_model::{ClusterId, Epoch, SiteName};
use cfs_rpc::connect::{self, Dial};
use cfs_rpc::identity::Identity;
use cfs_rpc::unix;
use cfs_rpc::v1::refusal::Reason;
use cfs_rpc::v1::{Backpressure, Fenced};
use server::{BAD, Fault, Shipper};
use tokio::time::timeout;
use tonic::transport::Channel;

const SOON: Duration = Duration::from_secs(10);

async fn producer_of(shipper: &Shipper, options: Options) -> Result<Producer, Arc<Fatal>> {
    let connecting = Producer::connect(Target::Unix(shipper.socket()), "p", options);
    timeout(SOON, connecting).await.expect("a producer in time")
}

async fn append(producer: &Producer, text: &str) -> Append {
    producer.append_encoded(Bytes::copy_from_slice(text.as_bytes())).await.expect("room")
}

async fn ack(append: Append) -> Result<Ack, Error> {
    timeout(SOON, append).await.expect("an answer in time")
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

fn start() -> (tempfile::TempDir, Arc<Shipper>) {
    let dir = tempfile::tempdir().expect("a directory");
    let shipper = Shipper::start(dir.path());
    (dir, shipper)
}

#[tokio::test]
async fn appends_in_order_and_acknowledges() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    let mut acks = producer.acks();
    let mut appends = Vec::new();
    for n in 0..1000 {
        appends.push(append(&producer, &n.to_string()).await);
    }
    for (n, append) in appends.into_iter().enumerate() {
        let ack = ack(append).await.expect("durable");
        assert!(ack.seq > n as u64 && ack.lsn.0 > n as u64, "{ack:?}");
    }
    assert_eq!(shipper.texts(), numbers(0..1000));
    let mut last = 0;
    while let Ok(ack) = acks.try_recv() {
        assert!(ack.seq > last);
        last = ack.seq;
    }
    assert_eq!(last, 1000);
    assert!(shipper.journal().messages < 1000, "entries are gathered into messages");
}

/// Invariant 8: whatever breaks, each entry is in the journal once.
#[tokio::test]
async fn broken_connections_lose_and_double_nothing() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    for round in 0..10 {
        shipper.fault(if round % 2 == 0 { Fault::BreakAfterStoring } else { Fault::Break });
        let entries = numbers(round * 100..round * 100 + 100).into_iter().map(Bytes::from).collect();
        let append = producer.append_all(entries).await.expect("room");
        ack(append).await.expect("durable");
    }
    assert_eq!(shipper.texts(), numbers(0..1000));
    shipper.assert_contiguous();
    assert!(shipper.journal().hellos.len() > 10);
}

/// Invariant 8, across a restart of the shipper that comes late.
#[tokio::test]
async fn waits_while_the_shipper_is_away() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    ack(append(&producer, "0").await).await.expect("durable");
    shipper.kill().await;
    shipper.fault(Fault::Break);
    let waiting = append(&producer, "1").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    shipper.serve();
    ack(waiting).await.expect("durable");
    assert_eq!(shipper.texts(), numbers(0..2));
}

/// Invariant 8, across a restart of the producer: the numbers go on.
#[tokio::test]
async fn a_new_process_goes_on_after_what_is_held() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    ack(append(&producer, "0").await).await.expect("durable");
    drop(producer);
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    assert_eq!(producer.first_seq(), 2);
    assert_eq!(ack(append(&producer, "1").await).await.expect("durable").seq, 2);
    shipper.assert_contiguous();
}

/// Invariant 8: a list whose appending broke off is given again from its start.
#[tokio::test]
async fn a_repeated_list_is_appended_once() {
    let (_dir, shipper) = start();
    for length in [3, 7] {
        let options = Options { first_seq: Some(1), ..Options::default() };
        let producer = producer_of(&shipper, options).await.expect("a producer");
        let append =
            producer.append_all(numbers(0..length).into_iter().map(Bytes::from).collect()).await.expect("room");
        assert_eq!(ack(append).await.expect("durable").seq, u64::from(length));
    }
    assert_eq!(shipper.texts(), numbers(0..7));
}

#[tokio::test]
async fn a_gap_is_refused() {
    let (_dir, shipper) = start();
    let seen = producer_of(&shipper, Options::default()).await.expect("a producer");
    ack(append(&seen, "w").await).await.expect("durable");
    drop(seen);
    let producer =
        producer_of(&shipper, Options { first_seq: Some(5), ..Options::default() }).await.expect("a producer");
    let refused = ack(append(&producer, "x").await).await;
    assert!(matches!(refused, Err(Error::Invalid { ref why, .. }) if why.contains("gap")), "{refused:?}");
    assert_eq!(shipper.texts(), ["w"]);
}

#[tokio::test]
async fn an_invalid_entry_comes_back_and_the_others_go_on() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    let mut appends = Vec::new();
    for text in ["0", "bad", "1", "bad", "2"] {
        appends.push(append(&producer, text).await);
    }
    for (n, append) in appends.into_iter().enumerate() {
        match ack(append).await {
            Ok(_) => assert!(n % 2 == 0),
            Err(Error::Invalid { entry, why }) => assert_eq!((n % 2, &entry[..], &why[..]), (1, BAD, "no operation")),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(shipper.texts(), numbers(0..3));
    shipper.assert_contiguous();
    assert!(producer.flush().await.is_ok(), "every refusal was looked at");
    drop(append(&producer, "bad").await);
    assert!(matches!(timeout(SOON, producer.flush()).await, Ok(Err(Error::Invalid { .. }))));
    assert!(producer.flush().await.is_ok());
}

#[tokio::test]
async fn too_long_entries_come_back_at_once() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    let long = Bytes::from(vec![0; cfs_shipper_core::caps::MAX_ENTRY_BYTES + 1]);
    assert!(matches!(producer.append_encoded(long.clone()).await, Err(Error::TooLong { entry }) if entry == long));
    assert!(matches!(producer.append_all(vec![Bytes::new(), long]).await, Err(Error::TooLong { .. })));
    assert!(matches!(producer.append_all(Vec::new()).await, Err(Error::Empty)));
    assert_eq!(shipper.journal().messages, 0);
}

/// Invariant 2, the producer's part: it goes on in the new epoch with what the old one did not take.
#[tokio::test]
async fn a_new_epoch_is_followed() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    ack(append(&producer, "0").await).await.expect("durable");
    shipper.fault(Fault::Refuse(Reason::Fenced(Fenced { current_epoch: 2 })));
    shipper.role.send_modify(|role| role.epoch = 2);
    ack(append(&producer, "1").await).await.expect("durable");
    assert_eq!(shipper.texts(), numbers(0..2));
    assert_eq!(producer.watch_role().borrow().epoch, 2);
}

#[tokio::test]
async fn a_pinned_epoch_ends_with_it() {
    let (_dir, shipper) = start();
    let producer =
        producer_of(&shipper, Options { epoch: Some(Epoch(7)), ..Options::default() }).await.expect("a producer");
    match ack(append(&producer, "0").await).await {
        Err(Error::NotAppended(why)) => {
            assert!(matches!(*why, Fatal::Fenced { pinned: Epoch(7), current: Epoch(1) }), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(producer.append_encoded("1".into()).await, Err(Error::NotAppended(_))));
    assert!(shipper.texts().is_empty());
}

#[tokio::test]
async fn backpressure_waits_and_sends_again() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    for _ in 0..3 {
        let full = Backpressure { why: "full".into(), retry_after_ms: 20 };
        shipper.fault(Fault::Refuse(Reason::Backpressure(full)));
    }
    let before = std::time::Instant::now();
    ack(append(&producer, "0").await).await.expect("durable");
    assert!(before.elapsed() >= Duration::from_millis(60));
    assert_eq!(shipper.texts(), numbers(0..1));
}

#[tokio::test]
async fn another_primary_is_named() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    shipper.role.send_modify(|role| {
        role.accepting = false;
        role.primary = "site-b".into();
        role.address = "b:1".into();
        role.epoch = 2;
    });
    let error = ack(append(&producer, "0").await).await.expect_err("site-a is not primary").to_string();
    assert!(error.contains("site-b") && error.contains("b:1"), "{error}");
    let refused = producer_of(&shipper, Options::default()).await;
    assert!(matches!(refused.err().as_deref(), Some(Fatal::NotPrimary { primary, .. }) if primary == "site-b"));
}

/// A switchover that is aborted, or a primary that is not ready: the producer waits.
#[tokio::test]
async fn a_primary_that_does_not_accept_yet_is_waited_for() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    shipper.role.send_modify(|role| role.accepting = false);
    // Until the client has seen it, it would only be refused.
    let mut role = producer.watch_role();
    timeout(SOON, role.wait_for(|role| !role.accepting)).await.expect("in time").expect("a role");
    let waiting = append(&producer, "0").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(shipper.journal().messages, 0);
    shipper.role.send_modify(|role| role.accepting = true);
    ack(waiting).await.expect("durable");
}

/// Invariant 10: no more is in flight than was allowed, and room comes back with acknowledgements.
#[tokio::test]
async fn room_is_bounded() {
    let (_dir, shipper) = start();
    let options = Options { max_entries: 3, ..Options::default() };
    let producer = producer_of(&shipper, options).await.expect("a producer");
    assert!(matches!(producer.reserve(4, 0).await, Err(Error::PermitTooLarge { max_entries: 3, .. })));
    shipper.mute(true);
    let mut permit = producer.reserve(2, 10).await.expect("room");
    let first = permit.append_encoded("0".into()).expect("reserved");
    let second = permit.append_encoded("1".into()).expect("reserved");
    assert!(matches!(permit.append_encoded("x".into()), Err(Error::PermitUsedUp { entries: 0, .. })));
    let third = append(&producer, "2").await;
    let fourth = timeout(Duration::from_millis(100), producer.append_encoded("3".into())).await;
    assert!(fourth.is_err(), "there is no room for a fourth");
    shipper.mute(false);
    for append in [first, second, third] {
        ack(append).await.expect("durable");
    }
    ack(append(&producer, "3").await).await.expect("durable");
    drop(permit);
    assert_eq!(shipper.texts(), numbers(0..4));
}

#[tokio::test]
async fn an_unused_permit_gives_its_room_back() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options { max_entries: 2, ..Options::default() }).await.expect("a producer");
    for _ in 0..5 {
        drop(producer.reserve(2, 100).await.expect("room"));
    }
    let mut permit = timeout(SOON, producer.reserve(2, 100)).await.expect("in time").expect("room");
    assert!(permit.append_encoded(vec![0; 101].into()).is_err());
}

/// An acknowledgement that arrives after its lease is not believed; asked again, the shipper says under its next lease.
#[tokio::test]
async fn a_late_acknowledgement_is_asked_for_again() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    shipper.journal().deadline_ns = Some(1);
    let mut waiting = append(&producer, "0").await;
    assert!(timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "its lease was over");
    assert!(shipper.journal().hellos.len() > 2, "it is asked for again");
    shipper.journal().deadline_ns = None;
    ack(waiting).await.expect("durable");
    assert_eq!(shipper.texts(), numbers(0..1));
}

#[tokio::test]
async fn another_process_with_the_same_name_is_noticed() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    ack(append(&producer, "0").await).await.expect("durable");
    shipper.journal().held.insert("p".into(), 5);
    shipper.fault(Fault::Break);
    match ack(append(&producer, "1").await).await {
        Err(Error::Unknown(why)) => assert!(matches!(*why, Fatal::NameInUse { held: 5, sent: 2, .. }), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// Invariant 4, as a producer can see it.
#[tokio::test]
async fn a_journal_that_lost_what_it_acknowledged_is_noticed() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    ack(append(&producer, "0").await).await.expect("durable");
    shipper.journal().held.insert("p".into(), 0);
    shipper.fault(Fault::Break);
    match ack(append(&producer, "1").await).await {
        Err(Error::Unknown(why)) => assert!(matches!(*why, Fatal::LostAcknowledged { .. }), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// In a later epoch that is what a failover without remote durability costs: the numbers go on.
#[tokio::test]
async fn a_later_epoch_may_hold_less() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    for n in numbers(0..2) {
        ack(append(&producer, &n).await).await.expect("durable");
    }
    shipper.journal().held.insert("p".into(), 2);
    shipper.journal().entries.truncate(1);
    shipper.fault(Fault::Break);
    shipper.role.send_modify(|role| role.epoch = 2);
    assert_eq!(ack(append(&producer, "2").await).await.expect("durable").seq, 3);
}

#[tokio::test]
async fn gives_up_when_told_to_and_says_what_is_unknown() {
    let (_dir, shipper) = start();
    let options = Options { give_up_after: Some(Duration::from_millis(200)), ..Options::default() };
    let producer = producer_of(&shipper, options.clone()).await.expect("a producer");
    shipper.mute(true);
    let sent = append(&producer, "0").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    shipper.kill().await;
    assert!(matches!(ack(sent).await, Err(Error::Unknown(why)) if matches!(*why, Fatal::GaveUp { .. })));
    assert!(matches!(producer.flush().await, Err(Error::Unknown(_))));
    assert!(matches!(producer_of(&shipper, options).await.err().as_deref(), Some(Fatal::GaveUp { .. })));
}

/// A site that takes hello and acknowledges nothing, as one that is fenced or waits for a replica, is no better than none.
#[tokio::test]
async fn gives_up_in_a_session_that_acknowledges_nothing() {
    let (_dir, shipper) = start();
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let told = reasons.clone();
    let options = Options {
        give_up_after: Some(Duration::from_secs(4)),
        on_wait: Some(Arc::new(move |why: &str| told.lock().expect("no panic").push(why.to_owned()))),
        ..Options::default()
    };
    let producer = producer_of(&shipper, options).await.expect("a producer");
    shipper.role.send_modify(|role| (role.accepting, role.waiting_for) = (false, "a lease".into()));
    let waiting = append(&producer, "0").await;
    let Err(Error::NotAppended(why)) = ack(waiting).await else { panic!("it was never sent") };
    assert!(matches!(*why, Fatal::GaveUp { .. }) && why.to_string().contains("a lease"), "{why}");
    let reasons = reasons.lock().expect("no panic").clone();
    assert!(matches!(&reasons[..], [why] if why.contains("waits for a lease")), "{reasons:?}");
}

/// A producer that vanishes half-way leaves what it sent, once, and nothing else.
#[tokio::test]
async fn dropping_the_producer_ends_its_appends() {
    let (_dir, shipper) = start();
    let producer = producer_of(&shipper, Options::default()).await.expect("a producer");
    shipper.mute(true);
    let pending = append(&producer, "0").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(producer);
    assert!(matches!(ack(pending).await, Err(Error::Unknown(why)) if matches!(*why, Fatal::Closed)));
    shipper.assert_contiguous();
}

#[tokio::test]
async fn names_are_checked() {
    let (_dir, shipper) = start();
    for name in [String::new(), "x".repeat(129)] {
        let refused = Producer::connect(Target::Unix(shipper.socket()), &name, Options::default()).await;
        assert!(matches!(refused.err().as_deref(), Some(Fatal::Name(_))));
    }
}

/// Leads to shippers of tests by address.
struct Sites(Vec<(&'static str, Arc<Shipper>)>);

#[tonic::async_trait]
impl Dial for Sites {
    async fn dial(&self, addr: &str, expected: &Identity) -> Result<Channel, connect::Error> {
        let unreachable = || connect::Error::Unreachable { addr: addr.to_owned(), source: ErrorKind::NotFound.into() };
        let (_, shipper) = self.0.iter().find(|(at, _)| *at == addr).ok_or_else(unreachable)?;
        assert_eq!(
            expected.site.as_str(),
            shipper.role.borrow().site,
            "the site is the one that its certificate names"
        );
        unix::connect(&shipper.socket()).await.map_err(|_| unreachable())
    }
}

pub(crate) fn switch_to(shipper: &Shipper, site: &str, primary: &str, epoch: u64) {
    shipper.role.send_modify(|role| {
        role.site = site.into();
        role.primary = primary.into();
        role.address = format!("{primary}:1");
        role.accepting = site == primary;
        role.epoch = epoch;
    });
}

/// Over the network a producer follows the primary, from whichever site it begins and wherever that moves.
#[tokio::test]
async fn a_failover_is_followed() {
    let ((_dir_a, a), (_dir_b, b)) = (start(), start());
    switch_to(&a, "site-a", "site-b", 1);
    switch_to(&b, "site-b", "site-b", 1);
    let dial = Arc::new(Sites(vec![("site-a:1", a.clone()), ("site-b:1", b.clone())]));
    let sites = vec![(SiteName::new("site-a").expect("a name"), "site-a:1".to_owned())];
    let target = Target::Tls { dial, cluster: ClusterId([7; 16]), sites };
    let producer = timeout(SOON, Producer::connect(target, "p", Options::default())).await;
    let producer = producer.expect("in time").expect("a producer");
    ack(append(&producer, "0").await).await.expect("durable");
    assert_eq!((a.texts().len(), b.texts().len()), (0, 1));
    // The journal travelled before the role did.
    a.journal().held.insert("p".into(), 1);
    switch_to(&a, "site-a", "site-a", 2);
    switch_to(&b, "site-b", "site-a", 2);
    ack(append(&producer, "1").await).await.expect("durable");
    assert_eq!((a.texts(), b.texts().len()), (vec!["1".to_owned()], 1));
}

/// The page for producers shows the example that is compiled.
#[test]
fn the_documentation_shows_the_example() {
    let read = |path: &str| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect("a file");
    assert!(read("../../docs/producers.md").contains(&read("examples/embed.rs")));
}
