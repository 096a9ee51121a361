//! From the lines of the exposition format to the figures that operators grep for. Pure.

use std::collections::BTreeMap;

use cfs_rpc::v1::ProcessUsage;
use serde::{Serialize, Serializer};

/// How a figure comes from a metric.
#[derive(Debug, Clone, Copy)]
enum By {
    /// Of samples of several sites, the largest.
    Largest,
    /// Of all samples; a metric without one yet is 0, since what counts is there from the start.
    Sum,
    /// Below it are 99 of 100 observations of the histogram, in ms.
    P99Ms,
    /// What the control process says of itself.
    ControlCpu,
    ControlMemory,
}

/// Figures, in the order in which they are printed, and the metric behind each.
const FIGURES: [(&str, By, &str); 19] = [
    ("lag_ms", By::Largest, "claudefs_replication_lag_ms"),
    ("entries_processed", By::Largest, "claudefs_replication_entries_processed"),
    ("append_rate", By::Largest, "claudefs_replication_appended_entries_per_second"),
    ("queue_depth", By::Largest, "claudefs_replication_compression_queue_size"),
    ("refusals", By::Sum, "claudefs_replication_refusals_total"),
    ("fsync_p99_ms", By::P99Ms, "claudefs_replication_fsync_seconds"),
    ("errors", By::Largest, "claudefs_replication_errors_total"),
    ("conflict_count", By::Largest, "claudefs_replication_conflicts_total"),
    ("compression_ratio", By::Largest, "claudefs_replication_compression_ratio"),
    ("compression_queue_size", By::Largest, "claudefs_replication_compression_queue_size"),
    ("bandwidth_sent_bytes", By::Largest, "claudefs_replication_bytes_sent"),
    ("bandwidth_saved_bytes", By::Sum, "claudefs_replication_peer_saved_bytes_total"),
    ("bandwidth_received_bytes", By::Largest, "claudefs_replication_received_bytes_total"),
    ("bandwidth_sent_bytes_per_second", By::Largest, "claudefs_replication_sent_bytes_per_second"),
    ("bandwidth_received_bytes_per_second", By::Largest, "claudefs_replication_received_bytes_per_second"),
    ("cpu_percent_shipper", By::Largest, "claudefs_replication_process_cpu_percent"),
    ("cpu_percent_control", By::ControlCpu, ""),
    ("memory_bytes_shipper", By::Largest, "claudefs_replication_process_memory_bytes"),
    ("memory_bytes_control", By::ControlMemory, ""),
];

/// One line of the exposition format.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Sample {
    pub(super) name: String,
    /// As exposed, without braces.
    pub(super) labels: String,
    /// Null: not a finite number.
    #[serde(serialize_with = "number")]
    pub(super) value: Option<f64>,
    #[serde(skip)]
    text: String,
}

impl Sample {
    /// Reads a line; comments and what is no sample give `None`.
    pub(super) fn parse(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let (name, labels, rest) = match line.split_once('{') {
            // A label's value may hold braces: the last one ends the set.
            Some((name, rest)) => {
                let (labels, rest) = rest.rsplit_once('}')?;
                (name, labels, rest)
            }
            None => {
                let (name, rest) = line.split_once(' ')?;
                (name, "", rest)
            }
        };
        let text = rest.split_whitespace().next()?.to_owned();
        let value = text.parse::<f64>().ok()?;
        let value = value.is_finite().then_some(value);
        Some(Self { name: name.to_owned(), labels: labels.to_owned(), value, text })
    }

    pub(super) fn line(&self) -> String {
        let labels = if self.labels.is_empty() { String::new() } else { format!("{{{}}}", self.labels) };
        format!("{}{labels} {}", self.name, self.text)
    }

    /// The value of its only label, as it was before it was escaped.
    fn label(&self, name: &str) -> Option<String> {
        let quoted = self.labels.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"')?;
        let mut value = String::new();
        let mut chars = quoted.chars();
        while let Some(char) = chars.next() {
            value.push(match char {
                '\\' => match chars.next()? {
                    'n' => '\n',
                    other => other,
                },
                char => char,
            });
        }
        Some(value)
    }
}

/// What goes to another site and what comes from there. Null: there is no data.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct PeerFigures {
    pub(super) site: String,
    #[serde(serialize_with = "number")]
    pub(super) bandwidth_sent_bytes: Option<f64>,
    #[serde(serialize_with = "number")]
    pub(super) bandwidth_saved_bytes: Option<f64>,
    #[serde(serialize_with = "number")]
    pub(super) bandwidth_received_bytes: Option<f64>,
    #[serde(serialize_with = "number")]
    pub(super) bandwidth_sent_bytes_per_second: Option<f64>,
}

/// A producer that appended lately.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct ProducerFigures {
    pub(super) producer: String,
    /// Entries a second.
    #[serde(serialize_with = "number")]
    pub(super) append_rate: Option<f64>,
}

/// A figure as a program reads it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Figure(#[serde(serialize_with = "number")] pub(super) Option<f64>);

/// Whole numbers without a point: counters are exact, and a parser of whole numbers takes them.
fn number<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    /// From here on a float does not hold every whole number.
    const EXACT: f64 = (1u64 << 53) as f64;
    match *value {
        Some(value) if value.fract() == 0.0 && value.abs() < EXACT => to.serialize_i64(value as i64),
        Some(value) => to.serialize_f64(value),
        None => to.serialize_none(),
    }
}

/// The figures in their order; `None`: there is no data.
pub(super) fn summary(samples: &[Sample], control: Option<&ProcessUsage>) -> Vec<(&'static str, Option<f64>)> {
    let value = |by, metric| match by {
        By::Largest => of(samples, metric).reduce(f64::max),
        // The sum of nothing is -0.0 otherwise.
        By::Sum => (!samples.is_empty()).then(|| of(samples, metric).sum::<f64>() + 0.0),
        By::P99Ms => quantile(samples, metric, 0.99).map(|seconds| seconds * 1000.0),
        By::ControlCpu => control.and_then(|usage| usage.cpu_percent),
        By::ControlMemory => control.map(|usage| usage.rss_bytes as f64),
    };
    FIGURES.iter().map(|(figure, by, metric)| (*figure, value(*by, metric).map(short))).collect()
}

/// Three decimals are enough for people and programs.
fn short(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn of<'a>(samples: &'a [Sample], metric: &'a str) -> impl Iterator<Item = f64> + 'a {
    samples.iter().filter(move |sample| sample.name == metric).filter_map(|sample| sample.value)
}

/// As Prometheus's `histogram_quantile`: within a bucket it is taken for granted that observations lie evenly.
fn quantile(samples: &[Sample], metric: &str, share: f64) -> Option<f64> {
    let bucket = format!("{metric}_bucket");
    let bound = |sample: &Sample| {
        let le = sample.label("le")?;
        Some((if le == "+Inf" { f64::INFINITY } else { le.parse().ok()? }, sample.value?))
    };
    let mut buckets: Vec<(f64, f64)> = samples.iter().filter(|s| s.name == bucket).filter_map(bound).collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all = buckets.last()?.1;
    let rank = share * all;
    let at = buckets.iter().position(|(_, count)| *count >= rank && *count > 0.0)?;
    let (start, before) = if at == 0 { (0.0, 0.0) } else { buckets[at - 1] };
    let (end, count) = buckets[at];
    if end.is_infinite() {
        // More is not known.
        return Some(start);
    }
    Some(start + (end - start) * (rank - before) / (count - before).max(f64::MIN_POSITIVE))
}

/// Figures of each other site, by name.
pub(super) fn peers(samples: &[Sample]) -> Vec<PeerFigures> {
    let mut peers: BTreeMap<String, PeerFigures> = BTreeMap::new();
    for sample in samples {
        let Some(metric) = sample.name.strip_prefix("claudefs_replication_peer_") else { continue };
        let Some(site) = sample.label("site") else { continue };
        let peer = peers.entry(site.clone()).or_insert_with(|| PeerFigures { site, ..PeerFigures::default() });
        match metric {
            "sent_bytes_total" => peer.bandwidth_sent_bytes = sample.value,
            "saved_bytes_total" => peer.bandwidth_saved_bytes = sample.value,
            "received_bytes_total" => peer.bandwidth_received_bytes = sample.value,
            "sent_bytes_per_second" => peer.bandwidth_sent_bytes_per_second = sample.value.map(short),
            _ => {}
        }
    }
    peers.into_values().collect()
}

/// Producers in the order in which they are told: the busiest first.
pub(super) fn producers(samples: &[Sample]) -> Vec<ProducerFigures> {
    let of = samples.iter().filter(|sample| sample.name == "claudefs_replication_producer_entries_per_second");
    of.filter_map(|sample| {
        Some(ProducerFigures { producer: sample.label("producer")?, append_rate: sample.value.map(short) })
    })
    .collect()
}

#[cfg(test)]
#[path = "figures_tests.rs"]
mod tests;
