//! What a run costs: CPU, memory and bytes on the wire.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cfs_rpc::v1::{ProcessUsage, StatusReply};
use serde::Serialize;

/// How often memory is looked at for its peak.
const PEAK_INTERVAL: Duration = Duration::from_millis(100);

/// What processes had used at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    processes: BTreeMap<String, ProcessUsage>,
    sent_bytes: u64,
}

/// What one process used between two moments.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProcessDelta {
    /// Which process.
    pub name: String,
    /// CPU seconds between the moments.
    pub cpu_s: f64,
    /// The highest memory since its start, without pages mapped from files.
    pub rss_peak_bytes: u64,
}

impl Snapshot {
    /// Takes the usage out of a status that was asked for all sites, and adds this process's.
    pub fn of(reply: &StatusReply) -> Self {
        let all = std::iter::once(reply).chain(&reply.others);
        let shipper = |r: &StatusReply| Some((format!("shipper {}", r.site), r.process.clone()?));
        let mut processes: BTreeMap<String, ProcessUsage> = all.filter_map(shipper).collect();
        processes.insert("bench".to_owned(), this_process());
        Self { processes, sent_bytes: reply.peers.iter().map(|peer| peer.sent_bytes).sum() }
    }

    /// What each process used since `earlier`. One that was restarted counts from its start.
    pub fn since(&self, earlier: &Self) -> Vec<ProcessDelta> {
        let delta = |(name, now): (&String, &ProcessUsage)| {
            let before = earlier.processes.get(name).filter(|before| before.pid == now.pid);
            ProcessDelta {
                name: name.clone(),
                cpu_s: now.cpu_s - before.map_or(0.0, |before| before.cpu_s),
                rss_peak_bytes: now.rss_peak_bytes,
            }
        };
        self.processes.iter().map(delta).collect()
    }

    /// Bytes of batches that the site sent to others since `earlier`.
    pub const fn wire_bytes_since(&self, earlier: &Self) -> u64 {
        self.sent_bytes.saturating_sub(earlier.sent_bytes)
    }
}

/// The highest anonymous memory of this process that was seen.
static PEAK_BYTES: AtomicU64 = AtomicU64::new(0);

/// Follows this process's memory to its peak, until it is dropped.
pub async fn watch_peak() {
    loop {
        PEAK_BYTES.fetch_max(anonymous_bytes(), Ordering::Relaxed);
        tokio::time::sleep(PEAK_INTERVAL).await;
    }
}

fn this_process() -> ProcessUsage {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let now = anonymous_bytes();
    ProcessUsage {
        cpu_s: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
        rss_peak_bytes: PEAK_BYTES.fetch_max(now, Ordering::Relaxed).max(now),
        pid: std::process::id(),
        ..ProcessUsage::default()
    }
}

fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kib * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(pid: u32, cpu_s: f64) -> Snapshot {
        let usage = ProcessUsage { pid, cpu_s, ..ProcessUsage::default() };
        Snapshot { processes: [("p".to_owned(), usage)].into(), sent_bytes: 0 }
    }

    #[test]
    fn a_restarted_process_counts_from_its_start() {
        let cpu = |now: Snapshot, earlier: Snapshot| now.since(&earlier)[0].cpu_s;
        assert_eq!(cpu(snapshot(1, 5.0), snapshot(1, 3.0)), 2.0);
        assert_eq!(cpu(snapshot(2, 1.0), snapshot(1, 3.0)), 1.0);
    }
}
