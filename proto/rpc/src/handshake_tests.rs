//! Invariant 9: real TLS over 127.0.0.1, everybody who should not get in, and those who should.

use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Instant;

use futures::future::BoxFuture;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

use super::*;
use crate::connect::{Connector, Dial, Error as ConnectError};
use crate::http2;
use crate::net::RealNet;
use crate::test_site::{CLUSTER, Cluster, identity};

/// Answers every call with who called.
#[derive(Clone)]
struct WhoAmI;

impl tonic::server::NamedService for WhoAmI {
    const NAME: &'static str = "test.WhoAmI";
}

impl Service<http::Request<Body>> for WhoAmI {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<PeerIdentity>().expect("every request carries its caller").clone();
        Box::pin(async move {
            let mut response = http::Response::new(Body::empty());
            response.headers_mut().insert("caller", peer.identity.uri().parse().expect("ASCII"));
            Ok(response)
        })
    }
}

struct Server {
    addr: String,
    refused: Arc<Mutex<Vec<Reason>>>,
    _running: tokio::task::JoinSet<()>,
}

impl Server {
    async fn start(tls: SharedTls) -> Self {
        Self::with_limits(tls, Limits::default()).await
    }

    async fn with_limits(tls: SharedTls, limits: Limits) -> Self {
        let listener = RealNet::shared().bind("127.0.0.1:0").await.expect("bound");
        let addr = listener.local_addr().expect("an address").to_string();
        let refused = Arc::new(Mutex::new(Vec::new()));
        let seen = refused.clone();
        let admission = Admission::of([Role::Shipper, Role::Control])
            .with_limits(limits)
            .on_refused(move |refused| seen.lock().expect("not poisoned").push(refused.reason.clone()));
        let incoming = incoming(listener, tls, admission);
        let mut running = tokio::task::JoinSet::new();
        running.spawn(async move {
            http2::server().add_service(WhoAmI).serve_with_incoming(incoming).await.expect("serves");
        });
        Self { addr, refused, _running: running }
    }

    fn refused(&self) -> Vec<Reason> {
        self.refused.lock().expect("not poisoned").clone()
    }

    /// The only refusal, as soon as it is there.
    async fn reason(&self) -> String {
        let limit = Instant::now() + Duration::from_secs(10);
        while self.refused().is_empty() && Instant::now() < limit {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let refused = self.refused();
        assert_eq!(refused.len(), 1, "one refusal, reported once: {refused:?}");
        refused[0].to_string()
    }

    async fn connect(&self, tls: &SharedTls) -> Result<Channel, ConnectError> {
        Connector::new(RealNet::shared(), tls.clone()).dial(&self.addr, &identity("site-a", Role::Shipper)).await
    }

    async fn raw(&self) -> TcpStream {
        TcpStream::connect(&self.addr).await.expect("connected")
    }
}

/// Whom the server takes us for.
async fn caller(channel: &mut Channel) -> String {
    let request = http::Request::post("http://site-a/test.WhoAmI/Ask").body(Body::empty()).expect("a request");
    let response = channel.ready().await.expect("ready").call(request).await.expect("an answer");
    response.headers()["caller"].to_str().expect("ASCII").to_owned()
}

#[tokio::test]
async fn a_member_gets_in_and_handlers_see_who_it_is() {
    let cluster = Cluster::new();
    let server = Server::start(cluster.site("site-a", Role::Shipper)).await;
    for (site, role) in [("site-b", Role::Shipper), ("site-c", Role::Control)] {
        let mut channel = server.connect(&cluster.site(site, role)).await.expect("gets in");
        assert_eq!(caller(&mut channel).await, identity(site, role).uri());
    }
    assert_eq!(server.refused(), []);
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused_with_the_reason_on_both_ends() {
    let cluster = Cluster::new();
    let server = Server::start(cluster.site("site-a", Role::Shipper)).await;
    // It trusts us, so that the server's check is the one that is tested.
    let stranger = Cluster::new();
    let dir = stranger.install(&identity("site-b", Role::Shipper));
    let both = format!("{}{}", stranger.authority.cert_pem(), cluster.authority.cert_pem());
    std::fs::write(dir.join("ca.pem"), both).expect("written");
    let error = server.connect(&crate::test_site::load(&dir, Role::Shipper)).await.expect_err("refused");
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    assert!(server.reason().await.contains("not issued by our cluster's authority"));
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused() {
    let server = Server::start(Cluster::new().site("site-a", Role::Shipper)).await;
    let error = server.connect(&Cluster::new().site("site-b", Role::Shipper)).await.expect_err("refused");
    assert!(matches!(error, ConnectError::Distrusted { .. }), "{error}");
    assert!(error.to_string().contains("not issued by our cluster's authority"), "{error}");
}

#[tokio::test]
async fn expired_certificates_are_refused_at_either_end() {
    let cluster = Cluster::new();
    let server = Server::start(cluster.site("site-a", Role::Shipper)).await;
    let error = server.connect(&cluster.expired_site("site-b", Role::Shipper)).await.expect_err("refused");
    assert!(error.to_string().contains("CertificateExpired"), "{error}");
    assert_eq!(server.reason().await, "its certificate has expired");

    let server = Server::start(cluster.expired_site("site-a", Role::Shipper)).await;
    let error = server.connect(&cluster.site("site-b", Role::Shipper)).await.expect_err("refused");
    assert!(error.to_string().contains("its certificate has expired"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_another_member_is_not_taken_for_the_one_meant() {
    let cluster = Cluster::new();
    let client = cluster.site("site-c", Role::Shipper);
    for (site, role) in [("site-b", Role::Shipper), ("site-a", Role::Control)] {
        let server = Server::start(cluster.site(site, role)).await;
        let error = server.connect(&client).await.expect_err("refused");
        assert!(matches!(error, ConnectError::WrongPeer { .. }), "{error}");
        assert!(error.to_string().contains("site-a"), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_cluster_is_refused_at_either_end() {
    let cluster = Cluster::new();
    let mut other = identity("site-a", Role::Shipper);
    other.cluster = cfs_model::ClusterId([9; 16]);
    let foreign = crate::test_site::load(&cluster.install(&other), Role::Shipper);
    let member = cluster.site("site-b", Role::Shipper);
    let server = Server::start(foreign.clone()).await;
    let error = server.connect(&member).await.expect_err("refused");
    assert!(matches!(error, ConnectError::WrongPeer { .. }), "{error}");

    let server = Server::start(cluster.site("site-a", Role::Shipper)).await;
    let error = server.connect(&foreign).await.expect_err("refused");
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    assert!(matches!(server.refused()[..], [Reason::Cluster(_)]), "{:?}", server.refused());
}

#[tokio::test]
async fn a_role_that_may_not_connect_here_is_refused() {
    let cluster = Cluster::new();
    let server = Server::start(cluster.site("site-a", Role::Shipper)).await;
    let error = server.connect(&cluster.site("site-b", Role::Producer)).await.expect_err("refused");
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("producer of site-b"), "{error}");
    assert!(server.reason().await.contains("that role may not connect"));
}

#[tokio::test]
async fn a_certificate_of_a_role_that_never_serves_cannot_serve() {
    let cluster = Cluster::new();
    let server = Server::start(cluster.site("site-a", Role::Operator)).await;
    let error = server.connect(&cluster.site("site-b", Role::Shipper)).await.expect_err("refused");
    assert!(error.to_string().contains("not meant for this end"), "{error}");
}

#[tokio::test]
async fn a_valid_certificate_without_an_identity_is_refused() {
    let cluster = Cluster::new();
    let server = Server::start(cluster.site("site-a", Role::Shipper)).await;
    let names = vec![rcgen::SanType::DnsName("site-b".try_into().expect("ASCII"))];
    let issued = cluster
        .authority
        .issue_with_names(
            "x",
            names,
            true,
            crate::ca::Validity::lasting(std::time::SystemTime::now(), crate::test_site::HOUR),
        )
        .expect("issued");
    tls_client(&server, &cluster, Some(&issued), &rustls::version::TLS13).await;
    assert!(server.reason().await.contains("0 URIs"));
}

/// Shakes hands with a configuration of its own and waits for the server to hang up.
async fn tls_client(
    server: &Server,
    cluster: &Cluster,
    certificate: Option<&crate::ca::Issued>,
    version: &'static rustls::SupportedProtocolVersion,
) {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(cluster.authority.cert_pem().as_bytes()).expect("a certificate");
    roots.add(authority).expect("usable");
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots);
    let config = match certificate {
        None => config.with_no_client_auth(),
        Some(issued) => {
            let leaf = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).expect("a certificate");
            let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).expect("a key");
            config.with_client_auth_cert(vec![leaf], key).expect("usable")
        }
    };
    let name = ServerName::try_from("site-a").expect("a name");
    let shaken = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, server.raw().await).await;
    if let Ok(mut stream) = shaken {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let cluster = Cluster::new();
    let server = Server::start(cluster.site("site-a", Role::Shipper)).await;
    tls_client(&server, &cluster, None, &rustls::version::TLS13).await;
    assert_eq!(server.reason().await, "it presented no certificate");
}

#[tokio::test]
async fn older_tls_is_refused() {
    let cluster = Cluster::new();
    let server = Server::start(cluster.site("site-a", Role::Shipper)).await;
    let validity = crate::ca::Validity::lasting(std::time::SystemTime::now(), crate::test_site::HOUR);
    let issued = cluster.authority.issue(&identity("site-b", Role::Shipper), validity).expect("issued");
    tls_client(&server, &cluster, Some(&issued), &rustls::version::TLS12).await;
    assert!(server.reason().await.contains("TLS 1.3"));
}

#[tokio::test]
async fn garbage_instead_of_tls_is_refused() {
    let cluster = Cluster::new();
    let server = Server::start(cluster.site("site-a", Role::Shipper)).await;
    let mut stream = server.raw().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: site-a\r\n\r\n").await.expect("sent");
    let _ = stream.read_to_end(&mut Vec::new()).await;
    assert_eq!(server.reason().await, "it does not speak TLS");
}

#[tokio::test]
async fn a_port_probe_is_neither_logged_nor_counted() {
    let cluster = Cluster::new();
    let server = Server::start(cluster.site("site-a", Role::Shipper)).await;
    for reset in [false, true] {
        let stream = server.raw().await;
        if reset {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("set");
        }
        drop(stream);
    }
    // Connections are accepted in order: once this one is in, the probes have been dealt with.
    let mut channel = server.connect(&cluster.site("site-b", Role::Shipper)).await.expect("gets in");
    caller(&mut channel).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.refused(), []);
}

#[tokio::test]
async fn slow_handshakes_end_in_time_and_do_not_lock_members_out_for_longer() {
    let cluster = Cluster::new();
    let limits = Limits { handshakes: 2, connections: 8, handshake_timeout: Duration::from_millis(300) };
    let server = Server::with_limits(cluster.site("site-a", Role::Shipper), limits).await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = server.raw().await;
        // The beginning of a TLS record, and then nothing.
        stream.write_all(&[22, 3, 1]).await.expect("sent");
        slow.push(stream);
    }
    let started = Instant::now();
    let mut channel = server.connect(&cluster.site("site-b", Role::Shipper)).await.expect("gets in");
    caller(&mut channel).await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    for mut stream in slow {
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)), "closed");
    }
    assert_eq!(server.refused(), vec![Reason::Timeout(limits.handshake_timeout); 2]);
}

/// Invariant 10.
#[tokio::test]
async fn connections_are_bounded_and_come_free_again() {
    let cluster = Cluster::new();
    let limits = Limits { connections: 1, ..Limits::default() };
    let server = Server::with_limits(cluster.site("site-a", Role::Shipper), limits).await;
    let client = cluster.site("site-b", Role::Shipper);
    let mut first = server.connect(&client).await.expect("gets in");
    caller(&mut first).await;
    server.connect(&client).await.expect_err("one too many");
    assert_eq!(server.refused(), [Reason::TooMany(1)]);
    drop(first);
    let limit = Instant::now() + Duration::from_secs(10);
    while server.connect(&client).await.is_err() {
        assert!(Instant::now() < limit, "a closed connection makes room");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_reload_keeps_live_connections_and_a_withdrawn_authority_ends_them() {
    let cluster = Cluster::new();
    let served = cluster.site("site-a", Role::Shipper);
    let server = Server::start(served.clone()).await;
    let client = cluster.site("site-b", Role::Shipper);
    let mut live = server.connect(&client).await.expect("gets in");
    caller(&mut live).await;

    // A fresh certificate, and a second authority beside the first.
    let successor = Cluster::new();
    let dir = cluster.install(&identity("site-a", Role::Shipper));
    let both = format!("{}{}", cluster.authority.cert_pem(), successor.authority.cert_pem());
    std::fs::write(dir.join("ca.pem"), both).expect("written");
    assert!(served.reload().expect("reloaded"));
    let connections = server.refused();
    assert_eq!(caller(&mut live).await, identity("site-b", Role::Shipper).uri(), "the live connection goes on");
    let mut fresh = server.connect(&client).await.expect("a new connection gets in");
    caller(&mut fresh).await;
    assert_eq!(connections, []);

    // The certificate of the successor alone: whoever holds one of the first authority is out, live or not.
    let issued = successor
        .authority
        .issue(
            &identity("site-a", Role::Shipper),
            crate::ca::Validity::lasting(std::time::SystemTime::now(), crate::test_site::HOUR),
        )
        .expect("issued");
    crate::ca::install(&dir, Role::Shipper, successor.authority.cert_pem(), &issued).expect("installed");
    assert!(served.reload().expect("reloaded"));
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let request = http::Request::post("http://site-a/test.WhoAmI/Ask").body(Body::empty()).expect("a request");
        let answered = match live.ready().await {
            Ok(ready) => ready.call(request).await.is_ok(),
            Err(_) => false,
        };
        if !answered {
            break;
        }
        assert!(Instant::now() < limit, "the live connection ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn nobody_there_is_said_with_the_address() {
    let cluster = Cluster::new();
    let listener = RealNet::shared().bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let connector = Connector::new(RealNet::shared(), cluster.site("site-b", Role::Shipper));
    let error = connector.dial(&addr, &identity("site-a", Role::Shipper)).await.expect_err("nobody there");
    assert!(matches!(&error, ConnectError::Unreachable { addr: at, .. } if *at == addr), "{error}");
    assert_eq!(identity("site-a", Role::Shipper).cluster, CLUSTER);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let cluster = Cluster::new();
    let mut listener = RealNet::shared().bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("an address").to_string();
    let connector = Connector::new(RealNet::shared(), cluster.site("site-b", Role::Shipper))
        .with_timeout(Duration::from_millis(100));
    let expected = identity("site-a", Role::Shipper);
    let (accepted, dialled) = tokio::join!(listener.accept(), connector.dial(&addr, &expected));
    assert!(matches!(dialled, Err(ConnectError::Timeout { .. })), "{dialled:?}");
    drop(accepted);
}
