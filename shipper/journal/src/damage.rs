//! Damage: what recovery, readers and checks refuse to go past.

use std::fmt;
use std::path::PathBuf;

use cfs_model::Lsn;
use serde::Serialize;

/// A segment that does not hold what was once durable in it. Whoever finds this changes nothing on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The file.
    pub segment: PathBuf,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// First LSN that cannot be trusted.
    pub lsn: Lsn,
    /// What was found there.
    pub what: String,
}

impl Damage {
    /// What an operator should do next.
    pub fn what_to_do(&self) -> String {
        let dir = self.segment.parent().unwrap_or(&self.segment);
        format!(
            "check the disk, stop this site's shipper, move {} out of the journal and keep it, then start again: the \
             stream is fetched from the sites that hold it; entries that no other site holds are only in what you moved",
            dir.display()
        )
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "segment {} is damaged at offset {}, LSN {}: {}. Nothing was changed; {}",
            self.segment.display(),
            self.offset,
            self.lsn,
            self.what,
            self.what_to_do()
        )
    }
}
