//! What of it survives a restart.

use std::io;
use std::path::Path;

use cfs_rpc::private_file;
use serde::{Deserialize, Serialize};

const FILE: &str = "bootstrap.json";

/// The phases, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Phase {
    /// It holds nothing and belongs to no cluster.
    Idle,
    /// It belongs to a cluster, and looks from where it takes what the others hold.
    Enrolling,
    /// It copies another site's store.
    Snapshot,
    /// It applies what the journals hold beyond that.
    Catchup,
    /// It holds what the others held when it began to catch up.
    Complete,
}

impl Phase {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Idle => "IDLE",
            Self::Enrolling => "ENROLLING",
            Self::Snapshot => "SNAPSHOT",
            Self::Catchup => "CATCHUP",
            Self::Complete => "COMPLETE",
        }
    }
}

/// How it comes to hold what the others hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// By a copy of a store, and the journals from there.
    Snapshot,
    /// By the journals alone.
    Journal,
}

impl Way {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Journal => "journal",
        }
    }
}

/// A phase, and when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Passed {
    pub(super) phase: Phase,
    /// In ms since the Unix epoch.
    pub(super) at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// Never empty; the last is the present one.
    pub(super) passed: Vec<Passed>,
    pub(super) way: Option<Way>,
    pub(super) source: String,
    pub(super) bytes: u64,
    pub(super) rows_total: u64,
    /// Entries applied when catching up began.
    pub(super) catchup_from: u64,
}

impl Kept {
    pub(super) fn begin(phase: Phase, at_ms: u64) -> Self {
        let passed = vec![Passed { phase, at_ms }];
        Self { passed, way: None, source: String::new(), bytes: 0, rows_total: 0, catchup_from: 0 }
    }

    pub(super) fn phase(&self) -> Phase {
        self.passed.last().map_or(Phase::Idle, |passed| passed.phase)
    }

    /// When the present phase began.
    pub(super) fn since_ms(&self) -> u64 {
        self.passed.last().map_or(0, |passed| passed.at_ms)
    }

    /// Begins a phase. Those that came after it in an earlier try are no longer passed; what a site that was through passed
    /// belongs to a round that is over.
    pub(super) fn enter(&mut self, phase: Phase, at_ms: u64) {
        let over = self.phase() == Phase::Complete;
        self.passed.retain(|passed| !over && passed.phase < phase);
        self.passed.push(Passed { phase, at_ms });
    }

    /// `None`: nothing was kept. Blocks.
    pub(super) fn read(directory: &Path) -> io::Result<Option<Self>> {
        let path = directory.join(FILE);
        let bytes = match private_file::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let kept: Self = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
        if kept.passed.is_empty() {
            return Err(io::Error::other("it names no phase"));
        }
        Ok(Some(kept))
    }

    /// On stable storage on return. Blocks.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        private_file::replace(directory, FILE, &serde_json::to_vec_pretty(self).map_err(io::Error::other)?)
    }
}
