//! What this process uses of the machine, and what the machine has left.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cfs_rpc::v1;

use crate::Window;

/// How often memory is looked at for its peak.
const PEAK_INTERVAL: Duration = Duration::from_millis(250);
/// How often CPU time is looked at.
const CPU_INTERVAL_MS: u64 = 1_000;
/// The share of a core that is told is that of so long.
const CPU_SPAN_MS: u64 = 10_000;
/// How often the disk is looked at.
const DISK_INTERVAL: Duration = Duration::from_secs(5);

/// The highest anonymous memory seen.
static PEAK_BYTES: AtomicU64 = AtomicU64::new(0);
/// CPU seconds of late.
static CPU: Mutex<Window> = Mutex::new(Window::new(CPU_SPAN_MS, CPU_INTERVAL_MS));
static DISK_FREE_BYTES: AtomicU64 = AtomicU64::new(0);
static DISK_USED_BYTES: AtomicU64 = AtomicU64::new(0);

/// Follows memory, CPU time and the disk of `state` for as long as the process lives.
pub async fn watch(state: PathBuf) {
    tokio::join!(watch_process(), watch_disk(state));
}

async fn watch_process() {
    loop {
        PEAK_BYTES.fetch_max(memory().0, Ordering::Relaxed);
        cpu_window().note(now_ms(), cpu_s());
        tokio::time::sleep(PEAK_INTERVAL).await;
    }
}

/// A disk that hangs holds up nothing else.
async fn watch_disk(state: PathBuf) {
    loop {
        let path = state.clone();
        if let Ok(Ok(stat)) = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&path)).await {
            // As df counts: what is kept for root is neither free nor used.
            DISK_FREE_BYTES.store(stat.f_bavail.saturating_mul(stat.f_frsize), Ordering::Relaxed);
            let used = stat.f_blocks.saturating_sub(stat.f_bfree);
            DISK_USED_BYTES.store(used.saturating_mul(stat.f_frsize), Ordering::Relaxed);
        }
        tokio::time::sleep(DISK_INTERVAL).await;
    }
}

fn cpu_window() -> std::sync::MutexGuard<'static, Window> {
    CPU.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// (anonymous memory, resident pages that files or other processes have too) of this process, in bytes. Reading it does not touch a
/// disk, and costs little: it is done often.
fn memory() -> (u64, u64) {
    pages(&std::fs::read_to_string("/proc/self/statm").unwrap_or_default())
}

/// The same, from the text of that file: the second number is what is resident, the third what of it is shared, in pages.
fn pages(statm: &str) -> (u64, u64) {
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let mut numbers = statm.split_whitespace().skip(1).map_while(|number| number.parse::<u64>().ok());
    let (resident, shared) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (resident.saturating_sub(shared).saturating_mul(page), shared.saturating_mul(page))
}

/// A number of KiB in a file of /proc, in bytes.
fn kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024)
}

/// CPU time of all threads so far, in seconds.
fn cpu_s() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

/// This process. Does not block.
pub fn process(name: String, uptime_ms: u64) -> v1::ProcessUsage {
    let (rss_bytes, mapped_bytes) = memory();
    let rss_peak_bytes = PEAK_BYTES.fetch_max(rss_bytes, Ordering::Relaxed).max(rss_bytes);
    let cpu_s = cpu_s();
    v1::ProcessUsage {
        name,
        cpu_s,
        rss_peak_bytes,
        rss_bytes,
        mapped_bytes,
        pid: std::process::id(),
        uptime_ms,
        cpu_percent: cpu_window().per_second(now_ms(), cpu_s).map(|share| share * 100.0),
    }
}

/// The machine. Does not block: the disk is as it was looked at last.
pub fn machine() -> v1::MachineUsage {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    v1::MachineUsage {
        memory_total_bytes: kib(&meminfo, "MemTotal"),
        memory_available_bytes: kib(&meminfo, "MemAvailable"),
        disk_free_bytes: DISK_FREE_BYTES.load(Ordering::Relaxed),
        disk_used_bytes: DISK_USED_BYTES.load(Ordering::Relaxed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_pages_are_told_apart() {
        let page = u64::try_from(rustix::param::page_size()).unwrap();
        assert_eq!(pages("58000 5902 5000 3000 0 9000 0\n"), (902 * page, 5000 * page));
        assert_eq!(pages(""), (0, 0));
    }

    #[tokio::test]
    async fn what_is_used_shows() {
        let watching = tokio::spawn(watch(std::env::temp_dir()));
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let (process, machine) = (process("p".into(), 0), machine());
            if process.cpu_percent.is_some_and(|percent| percent > 0.0) && machine.disk_used_bytes > 0 {
                assert!(process.rss_bytes > 0 && process.rss_peak_bytes >= process.rss_bytes, "{process:?}");
                assert!(machine.memory_available_bytes <= machine.memory_total_bytes, "{machine:?}");
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{process:?} {machine:?}");
        }
        watching.abort();
    }
}
