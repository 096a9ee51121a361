use super::*;

fn samples(text: &str) -> Vec<Sample> {
    text.lines().filter_map(Sample::parse).collect()
}

fn figure(samples: &[Sample], name: &str) -> Option<f64> {
    let all = summary(samples, None);
    all.iter().find(|(figure, _)| *figure == name).unwrap_or_else(|| panic!("{name}")).1
}

#[test]
fn what_has_no_data_is_not_zero() {
    assert!(summary(&[], None).iter().all(|(_, value)| value.is_none()));
    let some = samples("claudefs_replication_lag_ms{site=\"a\"} 5\n");
    assert_eq!(figure(&some, "fsync_p99_ms"), None);
    // The page is there, and nothing was refused.
    assert_eq!(figure(&some, "refusals").map(|none| none.to_string()), Some("0".to_owned()));
    let refused = samples(
        "claudefs_replication_refusals_total{kind=\"fenced\"} 2\nclaudefs_replication_refusals_total{kind=\"invalid\"} 3\n",
    );
    assert_eq!(figure(&refused, "refusals"), Some(5.0));
}

#[test]
fn the_control_process_tells_of_itself() {
    let usage = ProcessUsage { cpu_percent: Some(1.23456), rss_bytes: 4096, ..ProcessUsage::default() };
    let all: BTreeMap<_, _> = summary(&[], Some(&usage)).into_iter().collect();
    assert_eq!((all["cpu_percent_control"], all["memory_bytes_control"]), (Some(1.235), Some(4096.0)));
    assert_eq!(all["cpu_percent_shipper"], None);
}

#[test]
fn a_quantile_lies_within_its_bucket() {
    let name = "claudefs_replication_fsync_seconds";
    let page = |counts: [u64; 3]| {
        let [first, second, all] = counts;
        samples(&format!(
            "{name}_sum 1\n{name}_count {all}\n{name}_bucket{{le=\"0.001\"}} {first}\n{name}_bucket{{le=\"0.002\"}} {second}\n\
             {name}_bucket{{le=\"+Inf\"}} {all}\n"
        ))
    };
    let p99 = |counts| figure(&page(counts), "fsync_p99_ms");
    assert_eq!(p99([0, 0, 0]), None);
    assert_eq!(p99([100, 100, 100]), Some(0.99));
    assert_eq!(p99([98, 100, 100]), Some(1.5));
    // Beyond the last bound nothing more is known.
    assert_eq!(p99([10, 90, 100]), Some(2.0));
}

#[test]
fn peers_and_producers_are_told_apart() {
    let text = "claudefs_replication_peer_up{site=\"site-b\"} 1\n\
        claudefs_replication_peer_sent_bytes_total{site=\"site-b\"} 100\n\
        claudefs_replication_peer_saved_bytes_total{site=\"site-b\"} 300\n\
        claudefs_replication_peer_saved_bytes_total{site=\"site-c\"} 7\n\
        claudefs_replication_peer_sent_bytes_per_second{site=\"site-b\"} 12.34567\n\
        claudefs_replication_producer_entries_per_second{producer=\"a\\\"b\\\\c}\"} 20.5\n\
        claudefs_replication_producer_entries_per_second{producer=\"quiet\"} 0\n";
    let samples = samples(text);
    let peers = peers(&samples);
    assert_eq!(
        peers[0],
        PeerFigures {
            site: "site-b".into(),
            bandwidth_sent_bytes: Some(100.0),
            bandwidth_saved_bytes: Some(300.0),
            bandwidth_received_bytes: None,
            bandwidth_sent_bytes_per_second: Some(12.346),
        }
    );
    assert_eq!((peers[1].site.as_str(), peers[1].bandwidth_sent_bytes), ("site-c", None));
    assert_eq!(figure(&samples, "bandwidth_saved_bytes"), Some(307.0));
    let producers = producers(&samples);
    let told: Vec<_> = producers.iter().map(|p| (p.producer.as_str(), p.append_rate)).collect();
    assert_eq!(told, [("a\"b\\c}", Some(20.5)), ("quiet", Some(0.0))]);
}
