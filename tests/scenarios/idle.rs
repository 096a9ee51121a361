//! What a control process takes while nothing happens.

use std::fs;
use std::time::Duration;

use crate::harness::{Cluster, is_long, quiet};

/// Limits of an optimised build; others have more code to hold and are slower.
const MAX_CPU: f64 = if cfg!(debug_assertions) { 0.10 } else { 0.01 };
const MAX_RSS_KIB: u64 = if cfg!(debug_assertions) { 120 * 1024 } else { 40 * 1024 };

/// Linux counts CPU time for /proc in these, on every machine.
const TICKS_PER_S: f64 = 100.0;

/// CPU seconds of a process so far.
fn cpu_s(pid: u64) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // The name, in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
    let ticks: f64 = fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime");
    ticks / TICKS_PER_S
}

fn rss_kib(pid: u64) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn files(pid: u64) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

fn idle(time: Duration) {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let sites: Vec<&str> = cluster.sites().collect();
    let pids: Vec<u64> =
        sites.iter().map(|site| cluster.layout(site)["control_pid"].as_u64().expect("a pid")).collect();
    // What starting left behind is done with.
    std::thread::sleep(Duration::from_secs(5));
    let look =
        || -> Vec<(f64, u64, usize)> { pids.iter().map(|pid| (cpu_s(*pid), rss_kib(*pid), files(*pid))).collect() };
    let (before, changes) = (look(), cluster.changes("site-a"));
    std::thread::sleep(time);
    let after = look();
    for ((site, (cpu, rss, open)), (cpu_after, rss_after, open_after)) in sites.iter().zip(before).zip(after) {
        let share = (cpu_after - cpu) / time.as_secs_f64();
        eprintln!(
            "{site}, idle for {time:?}: {:.2} % of a core, {:.1} MiB, before that {:.1} MiB; {open_after} files, {open} before",
            100.0 * share,
            rss_after as f64 / 1024.0,
            rss as f64 / 1024.0
        );
        assert!(share < MAX_CPU, "cfs-control of {site} takes {:.2} % of a core while it is idle", 100.0 * share);
        assert!(rss_after < MAX_RSS_KIB, "cfs-control of {site} holds {rss_after} KiB");
        // A trickle would add up over months.
        let allowed = rss / 20 + 512;
        assert!(rss_after < rss + allowed, "cfs-control of {site} grew from {rss} to {rss_after} KiB");
        assert!(open_after <= open + 4, "cfs-control of {site} went from {open} to {open_after} open files");
    }
    assert_eq!(cluster.changes("site-a"), changes, "something happened meanwhile");
}

#[test]
fn an_idle_control_process_takes_next_to_nothing() {
    idle(Duration::from_secs(if is_long() { 60 } else { 10 }));
}

/// An hour, or as many seconds as `CFS_IDLE_S` says.
#[test]
#[ignore = "campaign: an hour"]
fn campaign_idle() {
    let seconds = std::env::var("CFS_IDLE_S").ok().map_or(3600, |text| text.parse().expect("CFS_IDLE_S is a number"));
    idle(Duration::from_secs(seconds));
}
