//! What load balancers and orchestrators ask, and the real HAProxy asking it.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use cfs_rpc::ca::Validity;
use cfs_rpc::connect::{Connector, Dial};
use cfs_rpc::identity::Role;
use cfs_rpc::net::RealNet;
use cfs_rpc::v1::WatchRoleRequest;
use cfs_rpc::v1::producer_client::ProducerClient;

use crate::harness::{Cluster, PATIENCE, eventually, http, http_get, quiet, skipped};
use crate::peers::{authority, certificates, identity};

const METHODS: [&str; 3] = ["GET", "HEAD", "OPTIONS"];

/// Every method gives this code; GET alone says why.
fn expect_probe(cluster: &Cluster, site: &str, path: &str, code: u16) {
    let port = cluster.port(site, "http");
    for method in METHODS {
        let (answered, body) = http(port, method, path).expect("it answers");
        assert_eq!(answered, code, "{method} {path} at {site}: {body}\n{}", cluster.logs());
        assert_eq!(body.is_empty(), method != "GET", "{method} {path}: {body:?}");
    }
    let (refused, _) = http(port, "POST", path).expect("it answers");
    assert_eq!(refused, 405, "POST {path}");
}

/// Probes say the truth, by each method, before and after a failover.
#[test]
fn probes_follow_the_role() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let (primary, _) = cluster.primary_and_epoch();
    let replica = cluster.other(&primary);
    for (site, path, code) in [
        (&*primary, "/liveness", 200),
        (&*primary, "/readiness", 200),
        (&*primary, "/primary", 200),
        (&*primary, "/replica", 503),
        (&*primary, "/replica?lag=10s", 503),
        (&*replica, "/readiness", 200),
        (&*replica, "/primary", 503),
        (&*replica, "/replica", 200),
        (&*replica, "/replica?lag=10s", 200),
        ("site-w", "/liveness", 200),
        ("site-w", "/readiness", 200),
        ("site-w", "/primary", 503),
        ("site-w", "/replica", 503),
    ] {
        expect_probe(&cluster, site, path, code);
    }
    let port = cluster.port(&replica, "http");
    for nonsense in ["/replica?lag=", "/replica?lag=soon", "/replica?lag=-1"] {
        assert_eq!(http(port, "GET", nonsense).expect("it answers").0, 400, "{nonsense}");
    }
    assert_eq!(http(port, "GET", "/nothing").expect("it answers").0, 404);
    for site in ["site-a", "site-b", "site-w"] {
        let page = http_get(cluster.port(site, "http"), "/metrics");
        assert!(page.contains("\nclaudefs_replication_split_brain 0"), "{site}:\n{page}");
        assert!(page.ends_with("# EOF\n"), "{site}: it is not OpenMetrics");
    }

    cluster.kill_at_once(&primary);
    eventually("the other site to say that it is primary", PATIENCE, || {
        match cluster.probe(&replica, "OPTIONS", "/primary")? {
            200 => Ok(()),
            code => Err(format!("{code}\n{}", cluster.logs())),
        }
    });
    expect_probe(&cluster, &replica, "/replica", 503);
    cluster.start(&primary);
    cluster.wait_ready();
    expect_probe(&cluster, &primary, "/primary", 503);
    expect_probe(&cluster, &primary, "/replica?lag=10s", 200);
    // Alone, it is alive and no more than that.
    cluster.kill_at_once(&replica);
    cluster.kill_at_once("site-w");
    eventually("the survivor to notice", PATIENCE, || match cluster.probe(&primary, "HEAD", "/readiness")? {
        503 => Ok(()),
        code => Err(format!("{code}")),
    });
    expect_probe(&cluster, &primary, "/liveness", 200);
    expect_probe(&cluster, &primary, "/primary", 503);
}

/// HAProxy as Debian has it, with the example of `deploy/haproxy`.
struct HaProxy {
    child: Child,
    primary: u16,
    replica: u16,
    _place: tempfile::TempDir,
}

impl HaProxy {
    /// The example's sites listen elsewhere here; all else is as it stands.
    fn start(cluster: &Cluster) -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let ports: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap()).collect();
        let port = |index: usize| ports[index].local_addr().unwrap().port();
        let (primary, replica) = (port(0), port(1));
        let example = include_str!("../../deploy/haproxy/haproxy.cfg");
        let mut text = example
            .replace("bind :9600", &format!("bind 127.0.0.1:{primary}"))
            .replace("bind :9601", &format!("bind 127.0.0.1:{replica}"));
        for site in ["site-a", "site-b"] {
            let (producer, probe) = (cluster.port(site, "producer"), cluster.port(site, "http"));
            let here = format!("{site} 127.0.0.1:{producer} check port {probe}");
            let replaced = text.replace(&format!("{site} {site}:9504 check port 9502"), &here);
            assert_ne!(replaced, text, "the example does not name {site}");
            text = replaced;
        }
        let config = place.path().join("haproxy.cfg");
        std::fs::write(&config, text).unwrap();
        drop(ports);
        let checked = Command::new("haproxy").arg("-c").arg("-f").arg(&config).output().ok()?;
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        let child = Self::run(&config);
        Some(Self { child, primary, replica, _place: place })
    }

    fn run(config: &Path) -> Child {
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("it starts")
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a producer that connects to this port reaches this site's shipper, and what it says of the primary.
async fn reaches(cluster: &Cluster, port: u16, site: &str) -> Result<(String, bool), String> {
    let ours = authority(cluster);
    let valid = Validity::lasting(SystemTime::now(), Duration::from_secs(3600));
    let tls = certificates(&ours, "site-a", Role::Producer, valid, ours.cert_pem());
    let who = identity(ours.cluster(), site, Role::Shipper);
    let dialling = async {
        let connector = Connector::new(RealNet::shared(), tls);
        let channel = connector.dial(&format!("127.0.0.1:{port}"), &who).await.map_err(|e| e.to_string())?;
        let watched = ProducerClient::new(channel).watch_role(WatchRoleRequest {}).await.map_err(|s| s.to_string())?;
        let state = watched.into_inner().message().await.map_err(|s| s.to_string())?.ok_or("it ended")?;
        Ok((state.primary, state.accepting))
    };
    tokio::time::timeout(Duration::from_secs(5), dialling).await.unwrap_or_else(|_| Err("no answer".into()))
}

/// HAProxy leads to a site that names this primary; just after a change it may still lead to the one before.
fn expect_route(runtime: &tokio::runtime::Runtime, cluster: &Cluster, port: u16, site: &str, primary: &str) {
    eventually(&format!("port {port} to lead to {site}"), PATIENCE, || {
        match runtime.block_on(reaches(cluster, port, site)) {
            Ok((named, accepting)) if named == primary && accepting == (site == primary) => Ok(()),
            other => Err(format!("{other:?}\n{}", cluster.logs())),
        }
    });
}

/// The example sends writers to the primary and readers to the replica, also after a failover.
#[test]
fn haproxy_leads_to_the_primary() {
    if Command::new("haproxy").arg("-v").output().is_err() {
        return skipped("HAProxy: `haproxy` is not installed (apt-get install haproxy)");
    }
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let (primary, _) = cluster.primary_and_epoch();
    let replica = cluster.other(&primary);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let haproxy = HaProxy::start(&cluster).expect("it starts");
    let expect = |port, site: &str, primary: &str| expect_route(&runtime, &cluster, port, site, primary);
    expect(haproxy.primary, &primary, &primary);
    expect(haproxy.replica, &replica, &primary);

    cluster.switch_to(&primary, &replica);
    expect(haproxy.primary, &replica, &replica);
    expect(haproxy.replica, &primary, &replica);

    cluster.kill_at_once(&replica);
    expect(haproxy.primary, &primary, &primary);
    // There is no replica left: readers get the primary.
    expect(haproxy.replica, &primary, &primary);
    cluster.start(&replica);
    cluster.wait_ready();
    expect(haproxy.replica, &replica, &primary);
}
