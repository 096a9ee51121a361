//! Producers that follow the primary beside a scenario, and what was acknowledged to them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Cluster, PATIENCE, Running, eventually};

/// Entries a second that a campaign appends: the 5000, or what an unoptimised build bears beside others.
pub(crate) const RATE: u64 = if cfg!(debug_assertions) { 500 } else { 5000 };

/// A site that acknowledged in one epoch, as the producers saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tenure {
    pub(crate) site: String,
    pub(crate) epoch: u64,
    /// First and last acknowledgement, in ms since 1970.
    pub(crate) first_ms: u64,
    pub(crate) last_ms: u64,
    pub(crate) entries: u64,
}

/// Reads a record while it is written.
#[derive(Debug)]
struct Record {
    path: PathBuf,
    read: u64,
    rest: Vec<u8>,
    tenures: Vec<Tenure>,
}

impl Record {
    /// Reads what is new; the last line may be half written.
    fn refresh(&mut self) {
        let Ok(mut file) = File::open(&self.path) else { return };
        file.seek(SeekFrom::Start(self.read)).expect("it seeks");
        let read = file.read_to_end(&mut self.rest).expect("it reads");
        self.read += read as u64;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return };
        let lines: Vec<u8> = self.rest.drain(..=end).collect();
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let entry: Value = serde_json::from_slice(line).expect("a line of the record");
            let (site, epoch) = (entry["site"].as_str().expect("a site"), entry["epoch"].as_u64().expect("an epoch"));
            self.acknowledged(site, epoch, entry["unix_ms"].as_u64().expect("a time"));
        }
    }

    fn acknowledged(&mut self, site: &str, epoch: u64, at_ms: u64) {
        match self.tenures.iter_mut().find(|tenure| tenure.epoch == epoch && tenure.site == site) {
            Some(tenure) => {
                tenure.first_ms = tenure.first_ms.min(at_ms);
                tenure.last_ms = tenure.last_ms.max(at_ms);
                tenure.entries += 1;
            }
            None => {
                let site = site.to_owned();
                self.tenures.push(Tenure { site, epoch, first_ms: at_ms, last_ms: at_ms, entries: 1 });
            }
        }
    }
}

/// `cfs bench append --follow-primary`, running.
pub(crate) struct Load {
    running: Running,
    record: Record,
    place: TempDir,
}

impl Load {
    /// Starts it with the configuration of `site`, which need not be the primary, and waits for the first acknowledgement.
    pub(crate) fn start(cluster: &Cluster, site: &str, durability: &str, rate: u64) -> Self {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("record");
        let rate = rate.max(1).to_string();
        let words = ["bench", "append", "--follow-primary", "--duration", "86400", "--rate", &rate, "--durability"];
        let record = ["--record", path.to_str().expect("UTF-8"), "-o", "json"];
        let running = cluster.spawn(site, &[&words[..], &[durability], &record].concat());
        let record = Record { path, read: 0, rest: Vec::new(), tenures: Vec::new() };
        let mut load = Self { running, record, place };
        load.until(cluster, "the first acknowledgement", PATIENCE, |_| true);
        load
    }

    /// Who acknowledged so far, in the order of first acknowledgements.
    pub(crate) fn tenures(&mut self) -> &[Tenure] {
        self.record.refresh();
        &self.record.tenures
    }

    /// Waits until there is such a tenure.
    pub(crate) fn until(
        &mut self,
        cluster: &Cluster,
        what: &str,
        limit: Duration,
        is_it: impl Fn(&Tenure) -> bool,
    ) -> Tenure {
        eventually(what, limit, || {
            assert!(
                !self.running.has_ended(),
                "the producers ended by themselves; before that: {:?}",
                self.record.tenures
            );
            let found = self.tenures().iter().find(|tenure| is_it(tenure)).cloned();
            found.ok_or_else(|| format!("{:?}\n{}", self.record.tenures, cluster.logs()))
        })
    }

    /// Waits until a site acknowledges in an epoch after this one.
    pub(crate) fn until_after(&mut self, cluster: &Cluster, epoch: u64) -> Tenure {
        self.until(cluster, "another epoch's first acknowledgement", PATIENCE, |tenure| tenure.epoch > epoch)
    }

    /// Waits until more is acknowledged, by whomever.
    pub(crate) fn until_more(&mut self, cluster: &Cluster) {
        let since = crate::cluster::unix_ms();
        self.until(cluster, "acknowledgements to go on", PATIENCE, |tenure| tenure.last_ms > since);
    }

    /// Where what was acknowledged is written.
    pub(crate) fn record(&self) -> &Path {
        &self.record.path
    }

    /// Ends it; the fate of every entry must be known.
    pub(crate) fn finish(mut self) -> Outcome {
        self.running.interrupt();
        let said = self.running.finish();
        assert_eq!(said.code, 0, "the fate of some entries is unknown: {said:?}");
        let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
        self.record.refresh();
        assert_eq!(report["unknown"], 0, "{report:#}");
        Outcome { report, record: self.record, _place: self.place }
    }
}

/// What became of a load.
pub(crate) struct Outcome {
    /// What the benchmark printed.
    pub(crate) report: Value,
    record: Record,
    _place: TempDir,
}

impl Outcome {
    pub(crate) fn tenures(&self) -> &[Tenure] {
        &self.record.tenures
    }

    pub(crate) fn record(&self) -> &Path {
        &self.record.path
    }

    pub(crate) fn longest_gap_ms(&self) -> f64 {
        self.report["longest_gap_ms"].as_f64().expect("a number")
    }

    /// Who acknowledged in this epoch.
    pub(crate) fn of_epoch(&self, epoch: u64) -> &Tenure {
        let found = self.tenures().iter().find(|tenure| tenure.epoch == epoch);
        found.unwrap_or_else(|| panic!("nobody acknowledged in epoch {epoch}: {:?}", self.tenures()))
    }
}
