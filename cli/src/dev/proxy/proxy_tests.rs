use std::io;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::dev::faults::Fault;
use crate::dev::process::Process;
use crate::dev::{Cluster, Plan};

const CUT: Fault = Fault { cut: true, delay_ms: 0, bandwidth: None };
const SOON: Duration = Duration::from_secs(2);
/// Longer than anything takes that is not held up.
const QUIET: Duration = Duration::from_millis(150);

/// A proxy for one pair, and somebody who listens behind it.
struct World {
    there: Arc<Link>,
    back: Arc<Link>,
    port: u16,
    target: TcpListener,
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    listener.local_addr().expect("bound").port()
}

impl World {
    async fn new() -> Self {
        let target = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let (there, back) = (Arc::new(Link::new()), Arc::new(Link::new()));
        let port = free_port().await;
        let route = Route { from: 0, to: 1, listen: port, target: target.local_addr().expect("bound").port() };
        listen(route, there.clone(), back.clone(), Arc::new(Semaphore::new(64))).await.expect("it listens");
        Self { there, back, port, target }
    }

    async fn dial(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.expect("the proxy accepts")
    }

    async fn pair(&self) -> (TcpStream, TcpStream) {
        let dialled = self.dial().await;
        (dialled, timeout(SOON, self.target.accept()).await.expect("it arrives").expect("accepted").0)
    }
}

async fn expect_byte(stream: &mut TcpStream, byte: u8) {
    assert_eq!(timeout(SOON, stream.read_u8()).await.expect("it arrives").expect("a byte"), byte);
}

async fn expect_silence(stream: &mut TcpStream) {
    let read = timeout(QUIET, stream.read_u8()).await;
    assert!(read.is_err(), "{read:?}");
}

fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("set");
}

#[tokio::test]
async fn bytes_pass_both_ways_in_order() {
    let world = World::new().await;
    let (mut dialled, mut target) = world.pair().await;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let copy = sent.clone();
    let sending = tokio::spawn(async move {
        dialled.write_all(&copy).await.expect("it takes all");
        dialled.shutdown().await.expect("shut down");
        dialled
    });
    let mut got = Vec::new();
    timeout(SOON, target.read_to_end(&mut got)).await.expect("it ends").expect("it reads");
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
    // The other direction is still open.
    target.write_all(b"x").await.expect("it takes it");
    expect_byte(&mut sending.await.expect("done"), b'x').await;
}

#[tokio::test]
async fn a_cut_direction_stalls_until_it_is_healed() {
    let world = World::new().await;
    let (mut dialled, mut target) = world.pair().await;
    world.there.set(CUT);
    dialled.write_all(b"abc").await.expect("the proxy takes it");
    expect_silence(&mut target).await;
    target.write_all(b"y").await.expect("it takes it");
    expect_byte(&mut dialled, b'y').await;
    world.there.set(Fault::default());
    for byte in *b"abc" {
        expect_byte(&mut target, byte).await;
    }
}

#[tokio::test]
async fn a_new_connection_over_a_cut_waits_in_either_direction() {
    for back in [false, true] {
        let world = World::new().await;
        let link = if back { &world.back } else { &world.there };
        link.set(CUT);
        let mut dialled = world.dial().await;
        dialled.write_all(b"z").await.expect("the proxy takes it");
        assert!(timeout(QUIET, world.target.accept()).await.is_err(), "it reached the other side");
        link.set(Fault::default());
        let mut target = timeout(SOON, world.target.accept()).await.expect("healed").expect("accepted").0;
        expect_byte(&mut target, b'z').await;
    }
}

#[tokio::test]
async fn who_gives_up_waiting_never_arrives() {
    let world = World::new().await;
    world.there.set(CUT);
    let mut dialled = world.dial().await;
    dialled.write_all(b"z").await.expect("the proxy takes it");
    drop(dialled);
    tokio::time::sleep(QUIET).await;
    world.there.set(Fault::default());
    assert!(timeout(QUIET, world.target.accept()).await.is_err(), "a dead connection arrived");
}

#[tokio::test]
async fn ends_are_passed_on_at_once_whichever_side_dies() {
    let world = World::new().await;
    for (target_dies, with_reset) in [(false, false), (false, true), (true, false), (true, true)] {
        let (dialled, target) = world.pair().await;
        let (dies, mut stays) = if target_dies { (target, dialled) } else { (dialled, target) };
        let began = Instant::now();
        if with_reset {
            reset(dies);
        } else {
            drop(dies);
        }
        let read = timeout(SOON, stays.read_u8()).await.expect("it ends").expect_err("an end");
        let expected = if with_reset { io::ErrorKind::ConnectionReset } else { io::ErrorKind::UnexpectedEof };
        assert_eq!(read.kind(), expected, "target dies: {target_dies}");
        assert!(began.elapsed() < QUIET, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_death_behind_a_cut_stays_unknown_until_it_is_healed() {
    let world = World::new().await;
    let (dialled, mut target) = world.pair().await;
    world.there.set(CUT);
    drop(dialled);
    expect_silence(&mut target).await;
    // What it sends runs into a reset, which the cut keeps from it.
    target.write_all(b"xx").await.expect("it takes it");
    tokio::time::sleep(QUIET).await;
    target.write_all(b"yy").await.expect("it takes it");
    expect_silence(&mut target).await;
    world.there.set(Fault::default());
    timeout(SOON, target.read_u8()).await.expect("it learns of it").expect_err("an end");
}

#[tokio::test]
async fn a_port_that_refuses_ends_the_dialler_at_once() {
    let world = World::new().await;
    drop(world.target);
    let mut dialled = TcpStream::connect((Ipv4Addr::LOCALHOST, world.port)).await.expect("the proxy accepts");
    let read = timeout(SOON, dialled.read_u8()).await.expect("it ends").expect_err("an end");
    assert_eq!(read.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_delay_is_added_to_each_byte_and_to_nothing_else() {
    let world = World::new().await;
    let (mut dialled, mut target) = world.pair().await;
    let slow = Fault { delay_ms: 100, ..Fault::default() };
    world.there.set(slow);
    let began = Instant::now();
    for byte in 0..20 {
        dialled.write_u8(byte).await.expect("the proxy takes it");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for byte in 0..20 {
        expect_byte(&mut target, byte).await;
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(138) && took < Duration::from_millis(400), "{took:?}");
    let began = Instant::now();
    target.write_all(b"b").await.expect("it takes it");
    expect_byte(&mut dialled, b'b').await;
    assert!(began.elapsed() < Duration::from_millis(80), "the other direction has no delay");
    // Bytes under way keep their order when the delay goes.
    dialled.write_all(b"1").await.expect("the proxy takes it");
    tokio::time::sleep(Duration::from_millis(20)).await;
    world.there.set(Fault::default());
    dialled.write_all(b"2").await.expect("the proxy takes it");
    expect_byte(&mut target, b'1').await;
    expect_byte(&mut target, b'2').await;
}

#[tokio::test]
async fn a_bandwidth_is_shared_by_all_connections() {
    let world = World::new().await;
    let (mut first, mut first_target) = world.pair().await;
    let (mut second, mut second_target) = world.pair().await;
    world.there.set(Fault { bandwidth: Some(500_000), ..Fault::default() });
    let began = Instant::now();
    let send = async |stream: &mut TcpStream| stream.write_all(&[7; 100_000]).await.expect("the proxy takes it");
    let read = async |stream: &mut TcpStream| {
        let mut bytes = vec![0; 100_000];
        timeout(SOON, stream.read_exact(&mut bytes)).await.expect("it arrives").expect("it reads");
    };
    tokio::join!(send(&mut first), send(&mut second), read(&mut first_target), read(&mut second_target));
    let took = began.elapsed();
    assert!(took > Duration::from_millis(350) && took < Duration::from_millis(1500), "{took:?}");
}

/// What a command changes is in force when it returns, and the proxy ends with its cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_of_the_file_are_in_force_when_a_change_returns() {
    let place = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::open_or_create(&place.path().join("c"), &Plan::default()).expect("a cluster");
    let dir = cluster.dir().to_owned();
    let at = dir.clone();
    let proxy = std::thread::spawn(move || run(&at));
    let this = Process::running(std::process::id()).expect("it runs");
    let log = dir.join("proxy.log");
    faults::await_applied(&dir, this, 0, &log).expect("it starts");
    let target = TcpListener::bind((Ipv4Addr::LOCALHOST, cluster.sites()[1].ports.peer)).await.expect("a port");
    let port = cluster.record.proxied(0, 1).peer;
    let mut dialled = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("the proxy accepts");
    let mut target = timeout(SOON, target.accept()).await.expect("it arrives").expect("accepted").0;
    let (a, b) = (&cluster.sites()[0].name, &cluster.sites()[1].name);
    for round in 0..10 {
        let cut = faults::change(&dir, |faults| faults.set(a, b, CUT)).expect("writable");
        faults::await_applied(&dir, this, cut.generation(), &log).expect("taken over");
        dialled.write_u8(round).await.expect("the proxy takes it");
        assert!(timeout(Duration::from_millis(20), target.read_u8()).await.is_err(), "it passed the cut");
        let healed = faults::change(&dir, Faults::clear).expect("writable");
        faults::await_applied(&dir, this, healed.generation(), &log).expect("taken over");
        expect_byte(&mut target, round).await;
    }
    std::fs::remove_file(dir.join("dev.json")).expect("it was there");
    tokio::task::spawn_blocking(|| proxy.join().expect("no panic").expect("it ends")).await.expect("it ends");
}
