//! The metrics that this process owns. `docs/metrics.md` says what each means.

mod labelled;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use cfs_rpc::v1::refusal::Reason;
use cfs_service::usage;
use cfs_shipper_core::batch::Batch;
use cfs_store::apply::Applied;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::metrics::labelled::Labelled;
use crate::node::Node;
use crate::recent::Rates;
use crate::sync_time::SyncTime;
use crate::{retention, role, status};

/// A number that only grows, under a name without `_total`: the runbook's names are older than the convention.
#[derive(Debug, Default)]
struct Plain(std::sync::Arc<AtomicU64>);

impl EncodeMetric for Plain {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.0.load(Ordering::Relaxed))
    }
    fn metric_type(&self) -> MetricType {
        MetricType::Unknown
    }
}

impl Plain {
    fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn twin(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// Counters of one shipper; whatever can be read from the state is read when it is asked for.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    entries_processed: Plain,
    bytes_sent: Plain,
    appended: Counter,
    received_bytes: Counter,
    sent_bytes: Counter,
    raw_bytes: Counter,
    encoded_bytes: Counter,
    conflicts: Counter,
    /// Of these, those that lost something.
    losses: AtomicU64,
    /// Only whole numbers without labels carry the runbook's name; kinds are a metric of their own.
    errors: Counter,
    errors_by_kind: Family<Kind, Counter>,
    refusals: Family<Kind, Counter>,
    removed_bytes: Counter,
    fsync_s: Histogram,
    apply_s: Histogram,
    encode_s: Histogram,
    batch_entries: Histogram,
    sync_time: SyncTime,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let seconds = || Histogram::new(exponential_buckets(0.000_05, 2.0, 16));
        let metrics = Self {
            entries_processed: Plain::default(),
            bytes_sent: Plain::default(),
            appended: Counter::default(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            raw_bytes: Counter::default(),
            encoded_bytes: Counter::default(),
            conflicts: Counter::default(),
            losses: AtomicU64::new(0),
            errors: Counter::default(),
            errors_by_kind: Family::default(),
            refusals: Family::default(),
            removed_bytes: Counter::default(),
            fsync_s: seconds(),
            apply_s: seconds(),
            encode_s: seconds(),
            batch_entries: Histogram::new(exponential_buckets(1.0, 2.0, 17)),
            sync_time: SyncTime::default(),
            registry: Registry::default(),
        };
        metrics.register(&mut registry);
        Self { registry, ..metrics }
    }

    fn register(&self, registry: &mut Registry) {
        let r = registry;
        let name = |what: &str| format!("claudefs_replication_{what}");
        r.register(name("entries_processed"), "Entries applied to this site's store", self.entries_processed.twin());
        r.register(name("bytes_sent"), "Bytes of batches sent to other sites", self.bytes_sent.twin());
        r.register(name("errors"), "Errors, one for each episode", self.errors.clone());
        r.register(name("errors_by_kind"), "The same errors by kind", self.errors_by_kind.clone());
        r.register(name("appended_entries"), "Entries appended to this site's stream", self.appended.clone());
        r.register(name("sent_bytes"), "Bytes of batches sent to other sites", self.sent_bytes.clone());
        r.register(name("received_bytes"), "Bytes of batches received", self.received_bytes.clone());
        r.register(name("raw_bytes"), "Payload of own batches before compression", self.raw_bytes.clone());
        r.register(name("encoded_bytes"), "Payload of own batches as stored", self.encoded_bytes.clone());
        r.register(name("conflicts"), "Writes that lost a merge here", self.conflicts.clone());
        r.register(
            name("journal_removed_bytes"),
            "Bytes of segments that retention removed",
            self.removed_bytes.clone(),
        );
        r.register(name("refusals"), "Appends refused, by reason", self.refusals.clone());
        r.register(name("fsync_seconds"), "Writing and fsyncing one group to the journal", self.fsync_s.clone());
        r.register(name("apply_seconds"), "One transaction of the store", self.apply_s.clone());
        r.register(name("encode_seconds"), "Encoding and compressing one batch", self.encode_s.clone());
        r.register(name("batch_entries"), "Entries in own batches", self.batch_entries.clone());
    }

    /// An own batch is durable.
    pub(crate) fn committed(&self, batch: &Batch, encode_ns: u64, fsync_ns: u64) {
        let header = batch.header();
        self.appended.inc_by(u64::from(header.count));
        self.raw_bytes.inc_by(u64::from(header.raw_len));
        self.encoded_bytes.inc_by(u64::from(header.encoded_len));
        self.batch_entries.observe(f64::from(header.count));
        self.encode_s.observe(encode_ns as f64 / 1e9);
        self.replicated(fsync_ns);
    }

    /// Batches from another site are durable.
    pub(crate) fn replicated(&self, fsync_ns: u64) {
        self.fsync_s.observe(fsync_ns as f64 / 1e9);
        self.sync_time.took(fsync_ns / 1000);
    }

    /// What writing and fsyncing a group lately took; 0: none was written yet.
    pub(crate) fn sync_us(&self) -> u64 {
        self.sync_time.us()
    }

    /// A transaction was committed.
    pub(crate) fn applied(&self, batches: &[Batch], applied: &Applied, ns: u64) {
        self.entries_processed.add(batches.iter().map(|batch| u64::from(batch.header().count)).sum());
        self.conflicts.inc_by(applied.conflicts.len() as u64);
        self.losses.fetch_add(applied.losses() as u64, Ordering::Relaxed);
        self.apply_s.observe(ns as f64 / 1e9);
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.bytes_sent.add(bytes);
        self.sent_bytes.inc_by(bytes);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.received_bytes.inc_by(bytes);
    }

    /// Segments were removed.
    pub(crate) fn removed(&self, bytes: u64) {
        self.removed_bytes.inc_by(bytes);
    }

    /// Something went wrong that an operator may want to know; call it once for an episode.
    pub(crate) fn error(&self, kind: &'static str) {
        self.errors.inc();
        self.errors_by_kind.get_or_create(&Kind { kind }).inc();
    }

    /// An append was refused. Refusals are answers, not errors.
    pub(crate) fn refused(&self, reason: &Reason) {
        let kind = match reason {
            Reason::Fenced(_) => "fenced",
            Reason::NotPrimary(_) => "not_primary",
            Reason::Backpressure(_) => "backpressure",
            Reason::Invalid(_) => "invalid",
        };
        self.refusals.get_or_create(&Kind { kind }).inc();
    }

    pub(crate) fn entries_appended(&self) -> u64 {
        self.appended.get()
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors.get()
    }

    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes_sent(&self) -> u64 {
        self.sent_bytes.get()
    }

    pub(crate) fn bytes_received(&self) -> u64 {
        self.received_bytes.get()
    }

    pub(crate) fn entries_applied(&self) -> u64 {
        self.entries_processed.get()
    }

    /// Share of bytes that compression saved, 0 to 1; `None` before the first batch.
    fn compression_ratio(&self) -> Option<f64> {
        let raw = self.raw_bytes.get();
        (raw > 0).then(|| 1.0 - self.encoded_bytes.get() as f64 / raw as f64)
    }
}

/// All metrics of a node as OpenMetrics text.
pub(crate) fn text(node: &Node) -> Result<String, fmt::Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode_registry(&mut text, &node.metrics.registry)?;
    let mut now = Registry::default();
    let mut rates = node.recent.rates(node);
    // Nothing is behind itself, but for sites that all take appends.
    let (primary, _, _) = node.governed.primary();
    let alone = primary == node.site().as_str() && !node.governed.directed().shared;
    let own_lag_ms = if alone { 0 } else { status::lag_here(node, node.boot_ms()) };
    now.register_collector(Box::new(Labelled::read(node, &mut rates, own_lag_ms)));
    now.register_collector(Box::new(Now::read(node, &rates)));
    prometheus_client::encoding::text::encode(&mut text, &now)?;
    Ok(text)
}

/// What is read from the state when metrics are asked for.
#[derive(Debug)]
struct Now {
    gauges: Vec<(&'static str, &'static str, f64)>,
}

impl Now {
    fn read(node: &Node, rates: &Rates) -> Self {
        let (primary, _, epoch) = node.governed.primary();
        // Let go before anything below looks at it.
        let accepting = node.admission().accepting().is_some();
        let process = usage::process(String::new(), 0);
        let (store, journal) = (node.store.usage().unwrap_or_default(), node.journal.usage());
        let (expiry, now) = (node.tls.current().expiry(), node.world.clock.wall());
        let mut gauges = vec![
            ("epoch", "The epoch that this site was told", epoch.0 as f64),
            ("primary", "Whether this site is primary", f64::from(u8::from(primary == node.site().as_str()))),
            ("accepting", "Whether this site takes appends", f64::from(u8::from(accepting))),
            ("floor", "The highest epoch that this site has seen or was sealed at", node.governed.floor().0 as f64),
            ("lease_seconds", "What is left of the lease to append; 0 without one", lease_s(node)),
            (
                "sealed",
                "Whether a change of primary has sealed this site",
                f64::from(u8::from(node.governed.is_sealed())),
            ),
            (
                "drained",
                "Whether a switchover has drained this site",
                f64::from(u8::from(node.governed.drained_op() != 0)),
            ),
            ("append_path_age_seconds", "Since the append path last proved that it works", proof_age_s(node)),
            ("journal_bytes", "Bytes of the journal on disk", journal.bytes as f64),
            ("journal_segments", "Segments of the journal", journal.segments as f64),
            ("journal_retention_bytes", "Bytes that the journal is kept below", retention::budget(node).bytes as f64),
            (
                "journal_exhaustion_seconds",
                "Until a site falls behind what the journal keeps, at the present rate",
                retention::report::exhaustion(node).map_or(f64::INFINITY, |exhaustion| exhaustion.in_s as f64),
            ),
            (
                "sites_behind",
                "Enrolled sites that need a snapshot, this one included",
                retention::report::sites_behind(node) as f64,
            ),
            ("store_bytes", "Bytes of the store in use", store.used_bytes as f64),
            ("disk_free_bytes", "Free bytes on the disk of journal and store", node.space.free_bytes() as f64),
            ("read_only", "Whether appends wait for disk space", f64::from(u8::from(node.space.is_read_only()))),
            (
                "tombstones",
                "Removed names and inodes not forgotten yet",
                node.store.tombstones().unwrap_or_default() as f64,
            ),
            ("compression_queue_size", "Entries that wait for the group commit", node.queued_entries() as f64),
            (
                "certificate_expiry_seconds",
                "Time until the certificate in use expires; negative: since then",
                expiry.certificate_in_s(now),
            ),
            (
                "authority_expiry_seconds",
                "Time until the last of the trusted authorities expires; negative: since then",
                expiry.authority_in_s(now),
            ),
            ("process_cpu_seconds", "CPU time of this process", process.cpu_s),
            ("process_memory_bytes", "Memory of this process without mapped files", process.rss_bytes as f64),
            ("process_memory_peak_bytes", "The highest of it since the start", process.rss_peak_bytes as f64),
        ];
        // Absent while there is nothing to tell.
        let known = [
            ("compression_ratio", "Share of bytes saved by compression, 0 to 1", node.metrics.compression_ratio()),
            ("process_cpu_percent", "CPU time of the last 10 s, in percent of one core", process.cpu_percent),
            ("appended_entries_per_second", "Entries of the own stream made durable in the last 10 s", rates.appended),
            ("sent_bytes_per_second", "Bytes of batches sent in the last 10 s", rates.sent),
            ("received_bytes_per_second", "Bytes of batches received in the last 10 s", rates.received),
        ];
        gauges.extend(known.into_iter().filter_map(|(name, help, value)| Some((name, help, value?))));
        Self { gauges }
    }
}

/// A lease without an end is infinite.
fn lease_s(node: &Node) -> f64 {
    match role::lease_left_ns(node) {
        _ if !node.governed.is_told_primary() => 0.0,
        u64::MAX => f64::INFINITY,
        left_ns => left_ns as f64 / 1e9,
    }
}

fn proof_age_s(node: &Node) -> f64 {
    node.proof.age_ms(node.boot_ms()) as f64 / 1e3
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in &self.gauges {
            let name = format!("claudefs_replication_{name}");
            let encoder = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            ConstGauge::new(*value).encode(encoder)?;
        }
        Ok(())
    }
}
