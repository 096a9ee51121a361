//! What operators are told is true.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::{Cluster, PATIENCE, eventually, http_get};
use crate::producers::{Session, entry, socket};

/// Names that the runbook promises byte for byte.
const RUNBOOK: &[&str] = &[
    "claudefs_replication_lag_ms{site=\"site-a\"}",
    "claudefs_replication_lag_ms{site=\"site-b\"}",
    "claudefs_replication_errors_total",
    "claudefs_replication_entries_processed",
    "claudefs_replication_bytes_sent",
];

fn lag(cluster: &Cluster, of: &str) -> f64 {
    cluster.metrics("site-a").get(&format!("claudefs_replication_lag_ms{{site=\"{of}\"}}")).expect("a lag")
}

/// Lag is 0 when there is nothing to do, grows while a site is away, and is 0 again; an absence counts as one error,
/// however long; a port probe counts nothing. The page of metrics and its documentation agree.
#[tokio::test(flavor = "multi_thread")]
async fn lag_errors_and_metrics_are_true() {
    let cluster = Cluster::up();
    let (mut session, reply) = Session::hello(&socket(&cluster, "site-a"), "p", "").await;
    let epoch = reply.role.expect("a role").epoch;
    session.append(epoch, 1, (1..=100).map(entry).collect()).await;
    session.acked(100).await;
    cluster.settle();
    // Idle time is no lag.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((lag(&cluster, "site-a"), lag(&cluster, "site-b")), (0.0, 0.0));
    let status = cluster.status("site-a");
    assert_eq!((&status["status"], &status["role"]), (&"READY".into(), &"PRIMARY".into()));
    assert_eq!((&status["peers"][0]["site"], &status["peers"][0]["state"]), (&"site-b".into(), &"HEALTHY".into()));
    assert_eq!(cluster.status("site-b")["role"], "REPLICA");

    probes_count_nothing(&cluster);
    an_absence_is_one_error(&cluster, &mut session, epoch).await;

    // A refusal of each kind and an error have happened by now, so that every family has a sample.
    session.append(epoch + 1, 102, vec![entry(102)]).await;
    while session.answer().await.is_ok_and(|answer| answer.is_some()) {}
    documented_metrics_are_the_ones_served(&cluster);
}

fn probes_count_nothing(cluster: &Cluster) {
    let before = (cluster.log("site-a"), cluster.metrics("site-a").errors());
    for port in ["peer", "producer"] {
        for _ in 0..5 {
            drop(std::net::TcpStream::connect(("127.0.0.1", cluster.port("site-a", port))).unwrap());
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((cluster.log("site-a"), cluster.metrics("site-a").errors()), before, "a port probe left a trace");
}

async fn an_absence_is_one_error(cluster: &Cluster, session: &mut Session, epoch: u64) {
    let before = cluster.metrics("site-a").errors();
    cluster.stop("site-b");
    session.append(epoch, 101, vec![entry(101)]).await;
    session.acked(101).await;
    let first = lag(cluster, "site-b");
    // Long enough for many tries to connect.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let later = lag(cluster, "site-b");
    assert!(later >= first + 3000.0, "lag went from {first} to {later} in four seconds");
    assert_eq!(lag(cluster, "site-a"), 0.0, "the primary is not behind itself");
    let status = cluster.status("site-a");
    assert_eq!(status["peers"][0]["state"], "DOWN");
    assert_eq!(
        cluster.metrics("site-a").errors() - before,
        1.0,
        "one absence is one error:\n{}",
        cluster.log("site-a")
    );
    assert_eq!(cluster.metrics("site-a").get("claudefs_replication_peer_up{site=\"site-b\"}"), Some(0.0));

    cluster.start("site-b");
    eventually("no lag", PATIENCE, || {
        let lag = lag(cluster, "site-b");
        if lag == 0.0 { Ok(()) } else { Err(format!("{lag} ms")) }
    });
    assert_eq!(cluster.metrics("site-a").errors() - before, 1.0, "the return is no error:\n{}", cluster.log("site-a"));
}

fn documented_metrics_are_the_ones_served(cluster: &Cluster) {
    let text = cluster.metrics("site-a").0;
    for name in RUNBOOK {
        let there = text.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        assert!(there, "{name} is missing:\n{text}");
    }
    assert!(text.ends_with("# EOF\n"), "it is not OpenMetrics");
    let printed = cluster.at("site-a", &["admin", "replication", "metrics"]).ok();
    assert!(RUNBOOK.iter().all(|name| printed.contains(name)), "the command hides some:\n{printed}");
    let page = include_str!("../../docs/metrics.md").split_once("\n## Control process\n").expect("its own section");
    let control = http_get(cluster.port("site-a", "http"), "/metrics");
    for (text, rows) in [(text, page.0), (control, page.1)] {
        let served: BTreeSet<String> = text.lines().filter_map(served_name).collect();
        let documented: BTreeSet<String> = rows.lines().filter_map(documented_name).collect();
        assert_eq!(served, documented, "docs/metrics.md and the endpoint differ");
    }
    assert_eq!(http_get(cluster.port("site-b", "shipper_http"), "/liveness"), "ok\n");
}

/// The name under which a family is scraped.
fn served_name(line: &str) -> Option<String> {
    let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
    Some(if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
}

/// The name in a row of the page's tables.
fn documented_name(line: &str) -> Option<String> {
    let name = line.strip_prefix("| `claudefs_")?.split('`').next()?;
    Some(format!("claudefs_{}", name.split('{').next()?))
}
