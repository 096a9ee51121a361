//! The metrics that this process owns. `docs/metrics.md` says what each means.

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use cfs_service::usage;

use crate::control::Control;
use crate::status;

/// A split-brain shows for so long at least, so that no scrape misses it.
const SPLIT_SHOWS_MS: u64 = 5 * 60 * 1000;

/// Counters of one control process; whatever can be read from the state is read when it is asked for.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    hook_failures: Counter,
    refused_connections: Counter,
    /// Boot time when a split-brain was last seen.
    split_seen_ms: Mutex<Option<u64>>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let (hook_failures, refused_connections) = (Counter::default(), Counter::default());
        let name = |what: &str| format!("claudefs_control_{what}");
        registry.register(name("hook_failures"), "Role-change programs that failed for good", hook_failures.clone());
        registry.register(
            name("refused_connections"),
            "Connections refused on the control port",
            refused_connections.clone(),
        );
        Self { registry, hook_failures, refused_connections, split_seen_ms: Mutex::default() }
    }

    pub(crate) fn hook_failed(&self) {
        self.hook_failures.inc();
    }

    pub(crate) fn refused_connection(&self) {
        self.refused_connections.inc();
    }

    /// Whether this site knows of two sides, or did in the last five minutes. Asked regularly, so that a split that nobody
    /// scraped is shown all the same.
    pub(crate) fn look_for_split(&self, control: &Control) -> bool {
        self.split_brain(status::sees_split(control, &control.state()), control.boot_ms())
    }

    /// 1 while two sites act for different epochs, and for five minutes after.
    fn split_brain(&self, now: bool, now_ms: u64) -> bool {
        let mut seen = self.split_seen_ms.lock().unwrap_or_else(PoisonError::into_inner);
        if now {
            *seen = Some(now_ms);
        }
        seen.is_some_and(|at| now_ms.saturating_sub(at) < SPLIT_SHOWS_MS)
    }
}

/// All metrics as OpenMetrics text.
pub(crate) fn text(control: &Control) -> Result<String, fmt::Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode_registry(&mut text, &control.metrics.registry)?;
    let mut now = Registry::default();
    now.register_collector(Box::new(Now::read(control)));
    prometheus_client::encoding::text::encode(&mut text, &now)?;
    Ok(text)
}

/// What is read from the state when metrics are asked for.
#[derive(Debug)]
struct Now(Vec<(&'static str, &'static str, f64)>);

impl Now {
    fn read(control: &Control) -> Self {
        let state = control.state();
        let node = control.node();
        let flag = |value: bool| f64::from(u8::from(value));
        let split = control.metrics.look_for_split(control);
        let process = usage::process(String::new(), 0);
        let mut gauges = vec![
            ("claudefs_replication_split_brain", "Whether two sites act for different epochs", flag(split)),
            ("claudefs_control_epoch", "The epoch opened last", state.epoch.0 as f64),
            ("claudefs_control_primary", "Whether this site is primary under a lease", flag(control.holds_lease())),
            ("claudefs_control_leader", "Whether this process leads the group", flag(control.lead().is_some())),
            (
                "claudefs_control_quorum",
                "Whether a leader with a majority is heard",
                flag(status::quorum(control) == "ok"),
            ),
            ("claudefs_control_enrolled", "Whether this site is a member", flag(state.site(control.id()).is_some())),
            (
                "claudefs_control_fenced",
                "Whether this site takes part in nothing until an operator says so",
                flag(control.local().is_fenced()),
            ),
            (
                "claudefs_control_automatic_failover",
                "Whether the primary role moves by itself",
                flag(status::automatic(control, &state).is_ok()),
            ),
            ("claudefs_control_changes", "Changes of primary that are remembered", state.changes.len() as f64),
            (
                "claudefs_control_certificate_expiry_seconds",
                "Time until the certificate in use expires; negative: since then",
                control.tls.current().expiry().certificate_in_s(control.clock.wall()),
            ),
            (
                "claudefs_control_authority_expiry_seconds",
                "Time until the last of the trusted authorities expires; negative: since then",
                control.tls.current().expiry().authority_in_s(control.clock.wall()),
            ),
            ("claudefs_control_term", "The group's term", node.map_or(0.0, |node| node.term() as f64)),
            ("claudefs_control_process_cpu_seconds", "CPU time of this process", process.cpu_s),
            (
                "claudefs_control_process_memory_bytes",
                "Memory of this process without mapped files",
                process.rss_bytes as f64,
            ),
            (
                "claudefs_control_process_memory_peak_bytes",
                "The highest of it since the start",
                process.rss_peak_bytes as f64,
            ),
        ];
        // Absent in the first second.
        if let Some(percent) = process.cpu_percent {
            let help = "CPU time of the last 10 s, in percent of one core";
            gauges.push(("claudefs_control_process_cpu_percent", help, percent));
        }
        Self(gauges)
    }
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in &self.0 {
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(*value).encode(encoder)?;
        }
        Ok(())
    }
}
