//! The client across several sites: who is primary moves, hangs, flaps, or is nobody.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cfs_client::{Error, Fatal, Options, Producer, Target};
use cfs_model::{ClusterId, SiteName};
use cfs_rpc::connect::{self, Dial};
use cfs_rpc::identity::Identity;
use cfs_rpc::unix;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tonic::transport::Channel;

use super::server::{Fault, Shipper};
use super::{SOON, ack, append, numbers, switch_to};

/// Connections to one shipper, which can be made to carry nothing, as if the machine were gone or stopped.
struct Link {
    path: PathBuf,
    /// Connections below this number carry nothing.
    held_below: watch::Sender<usize>,
    accepted: Arc<AtomicUsize>,
    /// Ends the connections that stand.
    cut: Arc<Notify>,
    dials: AtomicUsize,
}

impl Link {
    fn to(shipper: &Shipper, dir: &Path) -> Arc<Self> {
        let path = dir.join("link.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let link = Arc::new(Self {
            path,
            held_below: watch::channel(0).0,
            accepted: Arc::default(),
            cut: Arc::default(),
            dials: AtomicUsize::new(0),
        });
        let (target, held, cut) = (shipper.socket(), link.held_below.subscribe(), link.cut.clone());
        let accepted = link.accepted.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let number = accepted.fetch_add(1, Ordering::Relaxed);
                // As a process that was killed: the connection ends at once.
                let Ok(far) = UnixStream::connect(&target).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                let (there, back) =
                    (carry(number, near_in, far_out, held.clone()), carry(number, far_in, near_out, held.clone()));
                let cut = cut.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        ((), ()) = async { tokio::join!(there, back) } => {}
                        () = cut.notified() => {}
                    }
                });
            }
        });
        link
    }

    fn freeze(&self, frozen: bool) {
        self.held_below.send_replace(if frozen { usize::MAX } else { 0 });
    }

    /// The connections that stand carry nothing any more; new ones do.
    fn strand(&self) {
        self.held_below.send_replace(self.accepted.load(Ordering::Relaxed));
    }
}

async fn carry(number: usize, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut held: watch::Receiver<usize>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read) = from.read(&mut buffer).await {
        if held.wait_for(|held| number >= *held).await.is_err()
            || read == 0
            || to.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
    }
}

struct Links(BTreeMap<String, Arc<Link>>);

#[tonic::async_trait]
impl Dial for Links {
    async fn dial(&self, addr: &str, _: &Identity) -> Result<Channel, connect::Error> {
        let unreachable = || connect::Error::Unreachable { addr: addr.to_owned(), source: ErrorKind::NotFound.into() };
        let link = self.0.get(addr).ok_or_else(unreachable)?;
        link.dials.fetch_add(1, Ordering::Relaxed);
        unix::connect(&link.path).await.map_err(|_| unreachable())
    }
}

const NAMES: [&str; 3] = ["site-a", "site-b", "site-c"];

/// Three sites; site-a is primary in epoch 1.
struct Group {
    _dirs: Vec<tempfile::TempDir>,
    sites: Vec<Arc<Shipper>>,
    links: Vec<Arc<Link>>,
}

impl Group {
    fn start() -> Self {
        let dirs: Vec<_> = NAMES.iter().map(|_| tempfile::tempdir().expect("a directory")).collect();
        let sites: Vec<_> = dirs.iter().map(|dir| Shipper::start(dir.path())).collect();
        let links = sites.iter().zip(&dirs).map(|(site, dir)| Link::to(site, dir.path())).collect();
        let group = Self { _dirs: dirs, sites, links };
        group.lead(0, 1);
        group
    }

    /// Every site says that this one is primary.
    fn lead(&self, primary: usize, epoch: u64) {
        for site in 0..NAMES.len() {
            self.say(site, primary, epoch);
        }
    }

    fn say(&self, site: usize, primary: usize, epoch: u64) {
        switch_to(&self.sites[site], NAMES[site], NAMES[primary], epoch);
    }

    /// This site knows no primary any more.
    fn nobody(&self, site: usize, epoch: u64) {
        self.sites[site].role.send_modify(|role| {
            (role.primary, role.address, role.accepting) = (String::new(), String::new(), false);
            role.epoch = epoch;
        });
    }

    /// As kill -9 of the site's processes does.
    async fn kill(&self, site: usize) {
        self.sites[site].kill().await;
        self.links[site].cut.notify_waiters();
    }

    /// The first `count` entries of `from` reach `to`, as replication does it.
    fn ship(&self, from: usize, to: usize, count: usize) {
        let entries: Vec<_> = self.sites[from].journal().entries.iter().take(count).cloned().collect();
        let mut journal = self.sites[to].journal();
        for (name, seq, op) in entries {
            journal.held.insert(name.clone(), seq);
            journal.lives.insert(name.clone(), 1);
            journal.entries.push((name, seq, op));
        }
    }

    async fn producer(&self, options: Options) -> Producer {
        let known: Vec<usize> = (0..NAMES.len()).collect();
        self.try_producer(&known, options).await.expect("a producer")
    }

    async fn try_producer(&self, known: &[usize], options: Options) -> Result<Producer, Arc<Fatal>> {
        let address = |name: &str| format!("{name}:1");
        let links = NAMES.iter().zip(&self.links).map(|(name, link)| (address(name), link.clone())).collect();
        let site = |index: &usize| (SiteName::new(NAMES[*index]).expect("a name"), address(NAMES[*index]));
        let sites = known.iter().map(site).collect();
        let target = Target::Tls { dial: Arc::new(Links(links)), cluster: ClusterId([7; 16]), sites };
        timeout(SOON, Producer::connect(target, "p", options)).await.expect("an answer in time")
    }
}

fn entries(range: std::ops::Range<u32>) -> Vec<Bytes> {
    numbers(range).into_iter().map(Bytes::from).collect()
}

/// Invariant 8: entries that are in flight when the primary dies are appended at the new one, in order, once, and the
/// connection that is needed for that stands already.
#[tokio::test]
async fn entries_in_flight_go_on_at_the_new_primary() {
    let group = Group::start();
    let producer = group.producer(Options::default()).await;
    let first = producer.append_all(entries(0..100)).await.expect("room");
    let first = ack(first).await.expect("durable");
    assert_eq!((first.seq, first.epoch.0), (100, 1));
    // 40 more are stored and not acknowledged; the replica has 20 of these.
    group.sites[0].mute(true);
    let rest = producer.append_all(entries(100..140)).await.expect("room");
    timeout(SOON, async {
        while group.sites[0].texts().len() < 140 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("stored");
    group.ship(0, 1, 120);
    let more = producer.append_all(entries(140..200)).await.expect("room");
    let dials = group.links[1].dials.load(Ordering::Relaxed);
    group.kill(0).await;
    group.say(2, 1, 2);
    let opened = Instant::now();
    group.say(1, 1, 2);
    for append in [rest, more] {
        assert_eq!(ack(append).await.expect("durable").epoch.0, 2);
    }
    assert!(opened.elapsed() < Duration::from_millis(500), "{:?} after the opening", opened.elapsed());
    assert_eq!(group.sites[1].texts(), numbers(0..200));
    group.sites[1].assert_contiguous();
    assert_eq!(group.links[1].dials.load(Ordering::Relaxed), dials, "no new connection was needed");
}

/// Invariant 8: a primary that hangs with its connections open is left as soon as another accepts in a later epoch, and
/// what it says after it wakes moves nobody back.
#[tokio::test]
async fn a_primary_that_hangs_is_left() {
    let group = Group::start();
    let producer = group.producer(Options::default()).await;
    ack(append(&producer, "0").await).await.expect("durable");
    group.ship(0, 1, 1);
    group.links[0].freeze(true);
    let waiting = append(&producer, "1").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let opened = Instant::now();
    group.say(1, 1, 2);
    assert_eq!(ack(waiting).await.expect("durable").epoch.0, 2);
    assert!(opened.elapsed() < Duration::from_millis(500), "{:?} after the opening", opened.elapsed());
    // It wakes, still believes that it is primary in epoch 1, and acknowledges.
    group.links[0].freeze(false);
    for n in 2..20 {
        assert_eq!(ack(append(&producer, &n.to_string()).await).await.expect("durable").epoch.0, 2);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(group.sites[1].texts(), numbers(0..20));
    assert!(!group.sites[0].texts().contains(&"2".to_owned()), "nothing new went to the old primary");
}

/// Invariant 2, the producer's part: while the new primary's connection is broken, an old one that still accepts in an
/// older epoch is not gone back to.
#[tokio::test]
async fn an_older_epoch_is_not_gone_back_to() {
    let group = Group::start();
    let producer = group.producer(Options::default()).await;
    ack(append(&producer, "0").await).await.expect("durable");
    group.ship(0, 1, 1);
    // site-a is not told.
    group.say(1, 1, 2);
    let mut role = producer.watch_role();
    timeout(SOON, role.wait_for(|role| role.epoch == 2)).await.expect("in time").expect("a role");
    group.kill(1).await;
    let mut waiting = append(&producer, "1").await;
    assert!(timeout(Duration::from_millis(700), &mut waiting).await.is_err(), "nobody takes appends in epoch 2");
    assert_eq!(group.sites[0].texts().len(), 1);
    group.sites[1].serve();
    assert_eq!(ack(waiting).await.expect("durable").epoch.0, 2);
    assert_eq!(group.sites[1].texts(), numbers(0..2));
}

/// A site that hung is asked again on a new connection when it answers there, although no other site took over.
#[tokio::test]
async fn a_connection_that_died_silently_is_replaced() {
    let group = Group::start();
    let producer = group.producer(Options::default()).await;
    ack(append(&producer, "0").await).await.expect("durable");
    let (dials, stranded) = (group.links[0].dials.load(Ordering::Relaxed), Instant::now());
    group.links[0].strand();
    ack(append(&producer, "1").await).await.expect("durable");
    assert!(stranded.elapsed() < Duration::from_secs(4), "{:?}", stranded.elapsed());
    assert_eq!(group.links[0].dials.load(Ordering::Relaxed), dials + 1);
    assert_eq!(group.sites[0].texts(), numbers(0..2));
}

/// A refusal that names the new primary leads to a site that the producer was not told of.
#[tokio::test]
async fn a_named_primary_is_followed_to_an_unknown_site() {
    let group = Group::start();
    let producer = group.try_producer(&[0, 1], Options::default()).await.expect("a producer");
    ack(append(&producer, "0").await).await.expect("durable");
    group.ship(0, 2, 1);
    group.say(2, 2, 2);
    group.say(0, 2, 2);
    assert_eq!(ack(append(&producer, "1").await).await.expect("durable").epoch.0, 2);
    assert_eq!(group.sites[2].texts(), numbers(0..2));
}

/// Nobody is primary for three seconds: the producer waits, and goes on as soon as somebody is.
#[tokio::test]
async fn nobody_accepts_for_a_while() {
    let group = Group::start();
    let producer = group.producer(Options::default()).await;
    ack(append(&producer, "0").await).await.expect("durable");
    group.ship(0, 1, 1);
    for site in 0..3 {
        group.nobody(site, 1);
    }
    let mut waiting = append(&producer, "1").await;
    assert!(timeout(Duration::from_secs(3), &mut waiting).await.is_err(), "nobody takes it");
    let opened = Instant::now();
    group.say(1, 1, 2);
    assert_eq!(ack(waiting).await.expect("durable").epoch.0, 2);
    assert!(opened.elapsed() < Duration::from_millis(300), "{:?} after the opening", opened.elapsed());
    assert_eq!(group.sites[1].texts(), numbers(0..2));
}

/// It also gives up in time, if it is to, and says what each site said.
#[tokio::test]
async fn gives_up_and_says_who_said_what() {
    let group = Group::start();
    for site in 0..3 {
        group.nobody(site, 1);
    }
    let options = Options { give_up_after: Some(Duration::from_millis(300)), ..Options::default() };
    let Err(why) = group.try_producer(&[0, 1, 2], options).await else { panic!("nobody accepts") };
    assert!(matches!(*why, Fatal::GaveUp { .. }));
    assert!(NAMES.iter().all(|name| why.to_string().contains(name)), "{why}");
}

/// Invariant 8: a switchover that is begun and aborted, over and over, loses and doubles nothing.
#[tokio::test]
async fn a_role_that_flaps_costs_nothing() {
    let group = Group::start();
    let producer = group.producer(Options::default()).await;
    let mut appends = Vec::new();
    for round in 0..20u32 {
        appends.push(producer.append_all(entries(round * 50..round * 50 + 50)).await.expect("room"));
        group.sites[0].role.send_modify(|role| role.accepting = false);
        tokio::time::sleep(Duration::from_millis(3)).await;
        if round % 3 == 0 {
            group.sites[0].fault(Fault::BreakAfterStoring);
        }
        group.say(0, 0, 1);
    }
    for append in appends {
        ack(append).await.expect("durable");
    }
    assert_eq!(group.sites[0].texts(), numbers(0..1000));
    group.sites[0].assert_contiguous();
}

/// Invariants 4 and 8, with local durability: the new primary holds less than the old one acknowledged, or nothing. What
/// was acknowledged is not sent again, it comes late with the old primary; the producer goes on behind it, and a
/// connection that breaks in the new epoch is no reason for alarm.
#[tokio::test]
async fn a_new_primary_that_holds_less_goes_on_behind_what_was_acknowledged() {
    for held in [0, 4] {
        let group = Group::start();
        let producer = group.producer(Options::default()).await;
        let first = producer.append_all(entries(0..10)).await.expect("room");
        assert_eq!(ack(first).await.expect("durable").seq, 10);
        group.ship(0, 1, held);
        group.kill(0).await;
        // Refuses what comes with the connection, once held less has been acknowledged in the new epoch.
        group.sites[1].fault(Fault::Break);
        group.sites[1].fault(Fault::Break);
        let next = producer.append_all(entries(10..15)).await.expect("room");
        group.say(1, 1, 2);
        let next = ack(next).await.expect("durable");
        assert_eq!((next.seq, next.epoch.0), (15, 2));
        let seqs: Vec<u64> = group.sites[1].journal().entries.iter().map(|(_, seq, _)| *seq).collect();
        let expected: Vec<u64> = (1..=held as u64).chain(11..=15).collect();
        assert_eq!(seqs, expected);
    }
}

/// Invariant 8: what one site stored and did not acknowledge is held against nobody when that site leads again after
/// another has refused it.
#[tokio::test]
async fn two_failovers_back_to_a_site_that_holds_more() {
    let group = Group::start();
    let producer = group.producer(Options::default()).await;
    ack(append(&producer, "0").await).await.expect("durable");
    group.ship(0, 1, 1);
    group.sites[0].mute(true);
    let waiting = producer.append_all(entries(1..6)).await.expect("room");
    timeout(SOON, async {
        while group.sites[0].texts().len() < 6 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("stored");
    // site-b leads, takes hello, refuses the entries and leads no more.
    let refusal = cfs_rpc::v1::Fenced { current_epoch: 3 };
    group.sites[1].fault(Fault::Refuse(cfs_rpc::v1::refusal::Reason::Fenced(refusal)));
    group.nobody(0, 1);
    group.say(1, 1, 2);
    timeout(SOON, async {
        while group.sites[1].journal().messages == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        group.nobody(1, 2);
    })
    .await
    .expect("refused");
    group.sites[0].mute(false);
    group.say(0, 0, 3);
    let waiting = ack(waiting).await;
    assert!(!matches!(&waiting, Err(Error::Unknown(why)) if matches!(**why, Fatal::NameInUse { .. })), "{waiting:?}");
    assert_eq!(waiting.expect("durable").seq, 6);
    assert_eq!(group.sites[0].texts(), numbers(0..6));
}

/// Invariants 2 and 8: an acknowledgement that was held up on its way until its lease had ended counts for nothing; the
/// new primary is asked.
#[tokio::test]
async fn an_acknowledgement_that_comes_late_counts_for_nothing() {
    let group = Group::start();
    group.sites[0].journal().deadline_ns = Some(1);
    group.sites[0].journal().left_ns = Some(200_000_000);
    let producer = group.producer(Options::default()).await;
    ack(append(&producer, "0").await).await.expect("durable, within 200 ms");
    group.links[0].freeze(true);
    let mut waiting = append(&producer, "1").await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let mut acks = producer.acks();
    group.sites[0].journal().left_ns = Some(0);
    group.links[0].freeze(false);
    assert!(timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "its lease was over");
    assert!(acks.try_recv().is_err());
    // site-b never had the entry.
    group.ship(0, 1, 1);
    group.say(1, 1, 2);
    assert_eq!(ack(waiting).await.expect("durable").epoch.0, 2);
    assert_eq!(group.sites[1].texts(), numbers(0..2));
}
