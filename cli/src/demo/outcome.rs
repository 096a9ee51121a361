//! What the demonstration found.

use std::io::{self, Write};
use std::path::PathBuf;

use cfs_model::Epoch;
use serde::Serialize;

use super::live::Change;
use crate::output::{Document, good_or_bad};

/// Verdict: all is the same everywhere, and nothing is missing.
pub const IDENTICAL: &str = "identical";
/// Verdict: it is not.
pub const DIFFERENT: &str = "DIFFERENT";

/// A planned change of primary.
#[derive(Debug, Clone, Serialize)]
pub struct Switchover {
    /// The new primary.
    pub to: String,
    /// The longest time between two acknowledged appends.
    pub gap_ms: f64,
    /// The epoch that it opened.
    pub epoch: u64,
}

/// The loss of the primary's site.
#[derive(Debug, Clone, Serialize)]
pub struct Failover {
    /// The new primary.
    pub to: String,
    /// From the kill to the first acknowledgement of the new primary.
    pub ms: f64,
    /// The epoch that it opened.
    pub epoch: u64,
    /// Entries that the lost site had acknowledged and not shipped: they are back when it is.
    pub at_risk: u64,
}

/// The return of the site that was lost.
#[derive(Debug, Clone, Serialize)]
pub struct Rejoin {
    /// From its start until it had all that was written before that, and the others had all of its entries.
    pub ms: f64,
    /// Entries of its old epoch that came with it.
    pub late_entries: u64,
}

/// What the demonstration found.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The tree that was imported.
    pub tree: PathBuf,
    /// [`IDENTICAL`] or [`DIFFERENT`].
    pub verdict: &'static str,
    /// Paths in the tree or in the store.
    pub paths_compared: u64,
    /// Paths that differ.
    pub paths_different: u64,
    /// The first ones.
    pub differences: Vec<String>,
    /// Directories that this user may not read.
    pub unreadable: u64,
    /// Paths that were imported.
    pub inodes: u64,
    /// Entries that they took.
    pub entries: u64,
    /// Until the last of them was applied at the other site.
    pub seconds: f64,
    /// Entries in a second.
    pub entries_per_s: f64,
    /// Bytes of batches sent until then.
    pub wire_bytes: u64,
    /// Share of bytes that compression saved; null: nothing was compressed.
    pub compression_ratio: Option<f64>,
    /// The largest lag seen until then.
    pub max_lag_ms: u64,
    /// Live changes.
    pub changes: Vec<Change>,
    /// Entries that were acknowledged while the primary moved.
    pub acknowledged: u64,
    /// Those of them that a site does not hold in the end.
    pub missing: u64,
    /// The planned change of primary.
    pub switchover: Switchover,
    /// The loss of the primary.
    pub failover: Failover,
    /// Its return.
    pub rejoin: Rejoin,
    /// Result lines of `cfs admin meta consistency-check`.
    pub checks: Vec<String>,
}

impl Document for Outcome {
    const SCHEMA: &'static str = "cfs.demo/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        for (name, what) in self.summary() {
            writeln!(out, "{name:<20} {what}")?;
        }
        for difference in &self.differences {
            writeln!(out, "  {difference}")?;
        }
        let same = self.verdict == IDENTICAL;
        let verdict = good_or_bad(self.verdict, same);
        let tree = self.tree.display();
        let (paths, different, missing) = (self.paths_compared, self.paths_different, self.missing);
        if same {
            writeln!(
                out,
                "VERDICT: {verdict}: all {paths} paths of {tree} are the same on the other site, and no acknowledged entry is missing"
            )
        } else {
            writeln!(
                out,
                "VERDICT: {verdict}: {different} of {paths} paths of {tree} differ, {missing} acknowledged entries are missing, or a \
                 check above failed"
            )
        }
    }
}

impl Outcome {
    /// What was measured and compared, each with its name.
    fn summary(&self) -> Vec<(&'static str, String)> {
        let saved = self.compression_ratio.map_or_else(|| "n/a".to_owned(), |ratio| format!("{:.0}%", ratio * 100.0));
        let (switchover, failover, rejoin) = (&self.switchover, &self.failover, &self.rejoin);
        let mut rows = vec![
            (
                "tree imported",
                format!(
                    "{} paths, {} entries in {:.2} s: {:.0} entries/s from the tree to the other site's store",
                    self.inodes, self.entries, self.seconds, self.entries_per_s
                ),
            ),
            (
                "on the wire",
                format!(
                    "{:.2} MB, {saved} saved by compression, lag at most {} ms",
                    self.wire_bytes as f64 / 1e6,
                    self.max_lag_ms
                ),
            ),
            ("written meanwhile", format!("{} entries acknowledged", self.acknowledged)),
            (
                "planned switchover",
                format!(
                    "{} in epoch {}, longest gap between two acknowledged appends {:.0} ms",
                    switchover.to,
                    Epoch(switchover.epoch),
                    switchover.gap_ms
                ),
            ),
            (
                "failover",
                format!(
                    "{} in epoch {} after {}, {:.0} ms from the kill to its first acknowledgement",
                    failover.to,
                    Epoch(failover.epoch),
                    Epoch(switchover.epoch),
                    failover.ms
                ),
            ),
            (
                "return",
                format!(
                    "by itself, all caught up after {:.0} ms, {} entries came late",
                    rejoin.ms, rejoin.late_entries
                ),
            ),
            ("entries at risk", format!("{} acknowledged by the lost site and not shipped yet", failover.at_risk)),
            ("entries lost", self.missing.to_string()),
            ("paths compared", format!("{}, {} differ", self.paths_compared, self.paths_different)),
        ];
        rows.extend(self.checks.iter().map(|check| ("digests compared", check.clone())));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_verdict() {
        let outcome = Outcome {
            tree: "/usr/share".into(),
            verdict: IDENTICAL,
            paths_compared: 10,
            paths_different: 0,
            differences: Vec::new(),
            unreadable: 0,
            inodes: 10,
            entries: 10,
            seconds: 0.5,
            entries_per_s: 20.0,
            wire_bytes: 1000,
            compression_ratio: None,
            max_lag_ms: 3,
            changes: Vec::new(),
            acknowledged: 12_000,
            missing: 0,
            switchover: Switchover { to: "site-b".to_owned(), gap_ms: 61.4, epoch: 2 },
            failover: Failover { to: "site-a".to_owned(), ms: 1100.2, epoch: 3, at_risk: 4 },
            rejoin: Rejoin { ms: 900.0, late_entries: 5 },
            checks: vec!["digests of all sites, seen from site-a: RESULT: MATCH".to_owned()],
        };
        let text = |outcome: &Outcome| {
            let mut out = Vec::new();
            outcome.write_table(&mut out).expect("memory");
            String::from_utf8(out).expect("text")
        };
        let same = text(&outcome);
        assert!(
            same.lines().last().is_some_and(|line| line.starts_with("VERDICT") && line.contains(IDENTICAL)),
            "{same}"
        );
        assert!(same.contains("1100 ms from the kill") && same.contains("gap between two acknowledged appends 61 ms"));
        let different = text(&Outcome { verdict: DIFFERENT, missing: 2, ..outcome });
        let last = different.lines().last().unwrap_or_default();
        assert!(last.contains(DIFFERENT) && last.contains("2 acknowledged entries are missing"), "{last}");
    }
}
