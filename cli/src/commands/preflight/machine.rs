//! Disk, memory, and whether somebody watches.

use std::path::Path;

use super::Check;

const JOB: &str = "claudefs-repl";
/// Free share of the disk that there should be, in percent.
const FREE_PERCENT: u64 = 20;
const MEMORY_BYTES: u64 = 2_000_000_000;

/// Whether Prometheus scrapes this cluster. Blocks.
pub(super) fn monitoring(file: &Path) -> Check {
    const EXPECTED: &str = "a scrape job claudefs-repl";
    const NEXT: &str = "add the job in deploy/prometheus, or name the file on this machine with --prometheus";
    let found = |text: String| Check::pass("monitoring", file.display().to_string(), text, EXPECTED);
    match std::fs::read_to_string(file) {
        Ok(text) if text.lines().any(|line| line.split('#').next().is_some_and(|line| line.contains(JOB))) => {
            found("the job is there".into())
        }
        Ok(_) => found("no such job in it".into()).warn(NEXT),
        Err(error) => found(error.to_string()).warn(NEXT),
    }
}

/// Whether the disk of the state has room. Blocks.
pub(super) fn disk(state: &Path) -> Check {
    const EXPECTED: &str = "at least 20% free";
    let found = |text: String| Check::pass("disk", state.display().to_string(), text, EXPECTED);
    // Before the first start there is no such directory: its disk is that of the nearest one above.
    let existing = state.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(space) if space.f_blocks > 0 => {
            // As df counts: what is kept for root is neither free nor used.
            let (free, used) = (space.f_bavail, space.f_blocks.saturating_sub(space.f_bfree));
            let percent = free.saturating_mul(100) / free.saturating_add(used).max(1);
            let check = found(format!("{percent}% free"));
            if percent >= FREE_PERCENT {
                check
            } else {
                check.fail("free space there, or move paths.state to a larger disk")
            }
        }
        Ok(_) => found("its size is not told".into()).warn("df -h shows it"),
        Err(error) => found(error.to_string()).warn("df -h shows it"),
    }
}

/// Whether there is memory enough. Blocks.
pub(super) fn memory() -> Check {
    judge_memory(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

fn judge_memory(meminfo: &str) -> Check {
    const NEXT: &str = "give the machine more memory, or move other work away";
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    let found = |text: String| Check::pass("memory", "available", text, "at least 2 GB");
    let gb = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    match (bytes("MemAvailable"), bytes("MemTotal")) {
        (Some(available), _) if available >= MEMORY_BYTES => found(gb(available)),
        // It has as much, others use it now.
        (Some(available), Some(total)) if total >= MEMORY_BYTES => {
            found(format!("{} of {}", gb(available), gb(total))).warn(NEXT)
        }
        (Some(available), _) => found(gb(available)).fail(NEXT),
        (None, _) => found("it is not told".into()).warn("free -h shows it"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn memory_is_judged_by_what_is_available() {
        let info =
            |total: u64, available: u64| format!("MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable: {available} kB\n");
        assert_eq!(judge_memory(&info(8_000_000, 4_000_000)).result, Outcome::Pass);
        assert_eq!(judge_memory(&info(8_000_000, 1_000_000)).result, Outcome::Warn);
        assert_eq!(judge_memory(&info(1_900_000, 1_000_000)).result, Outcome::Fail);
        assert_eq!(judge_memory("").result, Outcome::Warn);
    }

    #[test]
    fn the_job_counts_only_outside_of_comments() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("prometheus.yml");
        assert_eq!(monitoring(&file).result, Outcome::Warn);
        std::fs::write(&file, "scrape_configs:\n# - job_name: claudefs-repl\n").expect("written");
        assert_eq!(monitoring(&file).result, Outcome::Warn);
        std::fs::write(&file, "scrape_configs:\n- job_name: 'claudefs-repl'\n").expect("written");
        assert_eq!(monitoring(&file).result, Outcome::Pass);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_has_a_disk() {
        let dir = tempfile::tempdir().expect("a folder");
        let check = disk(&dir.path().join("not/there/yet"));
        assert!(check.found.contains("% free"), "{check:?}");
    }
}
