//! Metrics of each other site and of each producer, read when they are asked for.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Rates;
use crate::node::Node;
use crate::status::lag_of;

/// One sample of a family: what its label says, and its value.
type Samples<T> = Vec<(String, T)>;

/// Families with a label.
#[derive(Debug, Default)]
pub(super) struct Labelled {
    lag_ms: Samples<u64>,
    peer_up: Samples<u64>,
    sent_bytes: Samples<u64>,
    received_bytes: Samples<u64>,
    saved_bytes: Samples<u64>,
    sent_per_second: Samples<f64>,
    producers: Samples<f64>,
}

impl Labelled {
    /// `own_lag_ms`: how far this site is behind.
    pub(super) fn read(node: &Node, rates: &mut Rates, own_lag_ms: u64) -> Self {
        let now_ms = node.boot_ms();
        let directed = node.governed.directed();
        let mut all = Self { producers: std::mem::take(&mut rates.producers), ..Self::default() };
        let peers = node.peers.lock().clone();
        for (site, peer) in peers.iter().filter(|(_, peer)| !directed.witnesses.contains(&peer.id)) {
            let name = || site.to_string();
            all.lag_ms.push((name(), lag_of(node, peer, now_ms)));
            all.peer_up.push((name(), u64::from(peer.is_heard(now_ms, node.silence_ms()))));
            all.sent_bytes.push((name(), peer.sent_bytes));
            all.received_bytes.push((name(), peer.received_bytes));
            all.saved_bytes.push((name(), peer.saved_bytes));
            if let Some(rate) = node.recent.sent_to(site, now_ms, peer.sent_bytes) {
                all.sent_per_second.push((name(), rate));
            }
        }
        all.lag_ms.push((node.site().to_string(), own_lag_ms));
        all
    }
}

impl Collector for Labelled {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let states = [
            ("claudefs_replication_lag_ms", "How far the site is behind, in ms", &self.lag_ms),
            ("claudefs_replication_peer_up", "Whether the site was heard lately", &self.peer_up),
        ];
        for (name, help, samples) in states {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (site, value) in samples {
                let gauge = ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&[("site", site.as_str())])?)?;
            }
        }
        let counters = [
            ("claudefs_replication_peer_sent_bytes", "Bytes of batches sent to the site", &self.sent_bytes),
            (
                "claudefs_replication_peer_received_bytes",
                "Bytes of batches received from the site",
                &self.received_bytes,
            ),
            (
                "claudefs_replication_peer_saved_bytes",
                "By so many bytes compression made smaller what was sent",
                &self.saved_bytes,
            ),
        ];
        for (name, help, samples) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (site, value) in samples {
                ConstCounter::new(*value).encode(family.encode_family(&[("site", site.as_str())])?)?;
            }
        }
        let rates = [
            (
                "claudefs_replication_peer_sent_bytes_per_second",
                "Sent to the site in the last 10 s",
                "site",
                &self.sent_per_second,
            ),
            (
                "claudefs_replication_producer_entries_per_second",
                "Entries admitted in the last 10 s, of the busiest producers",
                "producer",
                &self.producers,
            ),
        ];
        for (name, help, label, samples) in rates {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (of, value) in samples {
                ConstGauge::new(*value).encode(family.encode_family(&[(label, of.as_str())])?)?;
            }
        }
        Ok(())
    }
}
