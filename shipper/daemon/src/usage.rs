//! What this process uses of the machine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cfs_rpc::v1;

/// How often memory is looked at for its peak.
const INTERVAL: Duration = Duration::from_millis(100);

/// The highest anonymous memory seen.
static PEAK_BYTES: AtomicU64 = AtomicU64::new(0);

/// Follows the peak for as long as the process lives.
pub(crate) async fn watch() {
    loop {
        PEAK_BYTES.fetch_max(memory().0, Ordering::Relaxed);
        tokio::time::sleep(INTERVAL).await;
    }
}

/// (anonymous and shared memory, resident pages of mapped files) in bytes, from `/proc/self/status`; reading it does not
/// touch a disk.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    (field("RssAnon") + field("RssShmem"), field("RssFile"))
}

/// CPU time of all threads so far, in seconds.
fn cpu_s() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

/// All of it.
pub(crate) fn process(name: String, uptime_ms: u64) -> v1::ProcessUsage {
    let (rss_bytes, mapped_bytes) = memory();
    let rss_peak_bytes = PEAK_BYTES.fetch_max(rss_bytes, Ordering::Relaxed).max(rss_bytes);
    v1::ProcessUsage {
        name,
        cpu_s: cpu_s(),
        rss_peak_bytes,
        rss_bytes,
        mapped_bytes,
        pid: std::process::id(),
        uptime_ms,
    }
}
