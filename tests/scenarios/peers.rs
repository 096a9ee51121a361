//! Who may speak to a shipper's port for other sites, and as whom.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cfs_model::{ClusterId, SiteName};
use cfs_rpc::ca::{Authority, Validity, install};
use cfs_rpc::clock::RealClock;
use cfs_rpc::connect::{Connector, Dial};
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::net::RealNet;
use cfs_rpc::tls::SharedTls;
use cfs_rpc::v1::peer_client::PeerClient;
use cfs_rpc::v1::producer_client::ProducerClient;
use cfs_rpc::v1::receiver_frame::Kind;
use cfs_rpc::v1::{
    DescendRequest, DigestsRequest, PeerHello, PeerLookupRequest, ReceiverFrame, RegistersRequest, StatusRequest,
    VerifyRequest,
};
use tonic::transport::Channel;

use crate::harness::Cluster;

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn authority(cluster: &Cluster) -> Authority {
    Authority::load(&cluster.dir().join("ca")).expect("the cluster's authority")
}

pub(crate) fn identity(cluster: ClusterId, site: &str, role: Role) -> Identity {
    Identity { cluster, site: SiteName::new(site).expect("a name"), role }
}

/// Certificates in a folder of their own, as if somebody had stolen or forged them.
pub(crate) fn certificates(
    authority: &Authority,
    site: &str,
    role: Role,
    validity: Validity,
    trust: &str,
) -> SharedTls {
    let place = tempfile::tempdir().expect("a folder");
    let issued = authority.issue(&identity(authority.cluster(), site, role), validity).expect("a certificate");
    install(place.path(), role, trust, &issued).expect("written");
    SharedTls::load(place.path(), role, Arc::new(RealClock)).expect("they load")
}

fn valid() -> Validity {
    Validity::lasting(SystemTime::now(), HOUR)
}

async fn dial(tls: SharedTls, port: u16, expected: &Identity) -> Result<Channel, cfs_rpc::connect::Error> {
    Connector::new(RealNet::shared(), tls).dial(&format!("127.0.0.1:{port}"), expected).await
}

/// Says hello as `site` and returns what comes back.
async fn subscribe(channel: Channel, hello: PeerHello) -> Result<(), String> {
    let frames = vec![ReceiverFrame { kind: Some(Kind::Hello(hello)) }];
    let frames = tokio_stream::StreamExt::chain(tokio_stream::iter(frames), tokio_stream::pending());
    let asking = async {
        let mut answers = PeerClient::new(channel).subscribe(frames).await?.into_inner();
        answers.message().await
    };
    match tokio::time::timeout(Duration::from_secs(10), asking).await.expect("an answer") {
        Ok(_) => Ok(()),
        Err(status) => Err(status.message().to_owned()),
    }
}

fn hello(cluster: ClusterId, site: &str, site_id: u32) -> PeerHello {
    PeerHello { protocol: 1, cluster: cluster.to_string(), site: site.into(), site_id, ..PeerHello::default() }
}

/// Invariant 9: only a shipper of this cluster, with a valid certificate, as the site that it names.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused() {
    let cluster = Cluster::up();
    let ours = authority(&cluster);
    let (peer, producer) = (cluster.port("site-a", "peer"), cluster.port("site-a", "producer"));
    let site_a = identity(ours.cluster(), "site-a", Role::Shipper);
    let before = cluster.metrics("site-a").errors();

    let elsewhere = tempfile::tempdir().unwrap();
    let theirs = Authority::create(&elsewhere.path().join("ca"), ours.cluster(), SystemTime::now()).unwrap();
    refused_connections(&cluster, &ours, &theirs, peer, producer, &site_a).await;
    let refused = cluster.metrics("site-a").errors() - before;
    assert_eq!(refused, 5.0, "each refused connection counts once:\n{}", cluster.log("site-a"));

    names_are_bound_to_certificates(&ours, peer, &site_a).await;
    roles_are_bound_to_services(&ours, peer, producer, &site_a).await;

    // All that disturbed nobody.
    assert_eq!(cluster.status("site-a")["peers"][0]["state"], "HEALTHY");
    cluster.expect_identical();
}

async fn refused_connections(
    cluster: &Cluster,
    ours: &Authority,
    theirs: &Authority,
    peer: u16,
    producer: u16,
    site_a: &Identity,
) {
    // A certificate of their authority, whose holder trusts ours: only the other end can refuse it.
    let forged = forged(theirs, ours);
    assert!(dial(forged, peer, site_a).await.is_err(), "a certificate of another authority was accepted");
    let now = SystemTime::now();
    let past = Validity { from: now - 2 * HOUR, to: now - HOUR };
    let expired = certificates(ours, "site-b", Role::Shipper, past, ours.cert_pem());
    assert!(dial(expired, peer, site_a).await.is_err(), "an expired certificate was accepted");
    let as_producer = certificates(ours, "site-b", Role::Producer, valid(), ours.cert_pem());
    assert!(dial(as_producer, peer, site_a).await.is_err(), "a producer was let in as a peer");
    let as_shipper = certificates(ours, "site-b", Role::Shipper, valid(), ours.cert_pem());
    assert!(dial(as_shipper, producer, site_a).await.is_err(), "a shipper was let in as a producer");
    // No TLS at all.
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut plain = tokio::net::TcpStream::connect(("127.0.0.1", peer)).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), plain.read_to_end(&mut answer)).await.expect("it is closed");
    let log = cluster.log("site-a");
    assert!(log.contains("127.0.0.1") && log.to_lowercase().contains("expired"), "the log does not say why:\n{log}");
}

/// Loads only where the holder's own check passes, so the trust is swapped afterwards.
fn forged(theirs: &Authority, ours: &Authority) -> SharedTls {
    let place = tempfile::tempdir().unwrap();
    let who = identity(theirs.cluster(), "site-b", Role::Shipper);
    let issued = theirs.issue(&who, valid()).unwrap();
    let both = format!("{}\n{}", theirs.cert_pem(), ours.cert_pem());
    install(place.path(), Role::Shipper, &both, &issued).unwrap();
    load(place.path())
}

fn load(dir: &Path) -> SharedTls {
    SharedTls::load(dir, Role::Shipper, Arc::new(RealClock)).unwrap()
}

/// The right certificate with another name, number, cluster or protocol in hello is refused.
async fn names_are_bound_to_certificates(ours: &Authority, peer: u16, site_a: &Identity) {
    let site_b = || certificates(ours, "site-b", Role::Shipper, valid(), ours.cert_pem());
    let id = ours.cluster();
    let cases = [
        // Each is wrong in one thing alone.
        ("it says that it is site-a", hello(id, "site-a", 2)),
        ("it has number 1", hello(id, "site-b", 1)),
        ("it belongs to cluster", hello(ClusterId([9; 16]), "site-b", 2)),
        ("it speaks protocol 99", PeerHello { protocol: 99, ..hello(id, "site-b", 2) }),
    ];
    for (reason, hello) in cases {
        let channel = dial(site_b(), peer, site_a).await.expect("the certificate is good");
        let why = subscribe(channel, hello).await.expect_err(reason);
        assert!(why.contains(reason), "refused for another reason: {why}");
    }
    let stranger = certificates(ours, "site-z", Role::Shipper, valid(), ours.cert_pem());
    let channel = dial(stranger, peer, site_a).await.expect("the certificate is good");
    let why = subscribe(channel, hello(id, "site-z", 26)).await.expect_err("a site that is not enrolled was served");
    assert!(why.contains("site-z"), "{why}");
    // And the honest one is served, so that the others were refused for their lies.
    let channel = dial(site_b(), peer, site_a).await.unwrap();
    subscribe(channel, hello(id, "site-b", 2)).await.expect("site-b is served");
}

const PEER_CALLS: [&str; 7] = ["Status", "Digests", "Verify", "Descend", "ReadRegisters", "Lookup", "Losing"];

/// Which of the calls that one shipper makes to another are answered.
async fn answered(channel: Channel) -> [bool; 7] {
    let mut peer = PeerClient::new(channel);
    let part = RegistersRequest { inode: 1, ..RegistersRequest::default() };
    [
        peer.status(StatusRequest::default()).await.is_ok(),
        peer.digests(DigestsRequest::default()).await.is_ok(),
        peer.verify(VerifyRequest::default()).await.is_ok(),
        peer.descend(DescendRequest::default()).await.is_ok(),
        peer.read_registers(part).await.is_ok(),
        peer.lookup(PeerLookupRequest { inode: 1, ..PeerLookupRequest::default() }).await.is_ok(),
        peer.losing(cfs_rpc::v1::LosingRequest::default()).await.is_ok(),
    ]
}

/// What each role may call on the ports that it may connect to.
async fn roles_are_bound_to_services(ours: &Authority, peer: u16, producer: u16, site_a: &Identity) {
    for role in [Role::Control, Role::Operator, Role::Producer] {
        let tls = certificates(ours, "site-b", role, valid(), ours.cert_pem());
        if let Ok(channel) = dial(tls, peer, site_a).await {
            assert_eq!(answered(channel).await, [false; 7], "{role} is answered: {PEER_CALLS:?}");
        }
    }
    // Nor may a shipper that this site does not know; and one that it knows is answered, so that the others were
    // refused for what they are.
    for (site, answers) in [("site-z", [false; 7]), ("site-b", [true; 7])] {
        let tls = certificates(ours, site, Role::Shipper, valid(), ours.cert_pem());
        let channel = dial(tls, peer, site_a).await.expect("the certificate is good");
        assert_eq!(answered(channel).await, answers, "{site}: {PEER_CALLS:?}");
    }
    let tls = certificates(ours, "site-b", Role::Producer, valid(), ours.cert_pem());
    let channel = dial(tls, producer, site_a).await.expect("producers may connect");
    // The local services are not reachable from the network.
    let inspected =
        cfs_rpc::v1::inspect_client::InspectClient::new(channel.clone()).status(StatusRequest::default()).await;
    assert_eq!(inspected.unwrap_err().code(), tonic::Code::Unimplemented);
    let governed = cfs_rpc::v1::governor_client::GovernorClient::new(channel.clone())
        .restate(cfs_rpc::v1::RestateRequest::default())
        .await;
    assert_eq!(governed.unwrap_err().code(), tonic::Code::Unimplemented);
    let role = ProducerClient::new(channel).watch_role(cfs_rpc::v1::WatchRoleRequest {}).await;
    let state = role.expect("producers may watch").into_inner().message().await.unwrap().expect("a state");
    assert_eq!((state.primary.as_str(), state.accepting), ("site-a", true));
}
