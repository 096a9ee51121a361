//! What `cfs bench append --follow-primary` found out.

use std::io::{self, Write};

use cfs_model::Epoch;
use jiff::Timestamp;
use serde::Serialize;

use super::speed::Speed;
use crate::bench::{Gap, Primary};
use crate::output::{Document, Table};

#[derive(Debug, Serialize)]
pub(super) struct Results {
    #[serde(flatten)]
    pub(super) speed: Speed,
    pub(super) longest_gap_ms: f64,
    pub(super) longest_gap: Option<Gap>,
    /// Those over 100 ms.
    pub(super) gaps: Vec<Gap>,
    pub(super) primary_changes: usize,
    pub(super) primaries: Vec<Primary>,
    /// Entries that were sent once more because a session ended.
    pub(super) resent: u64,
    /// Entries that may be in the journal or not.
    pub(super) unknown: u64,
    /// Why it ended early.
    pub(super) failure: Option<String>,
}

fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| unix_ms.to_string(), |time| format!("{time:.3}"))
}

impl Document for Results {
    const SCHEMA: &'static str = "cfs.bench-follow/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        self.speed.write_table(out)?;
        match &self.longest_gap {
            Some(gap) => writeln!(out, "longest gap: {:.1} ms, from {}", gap.ms, time(gap.began_unix_ms))?,
            None => writeln!(out, "longest gap: n/a")?,
        }
        writeln!(out, "sent again: {}, unknown: {}", self.resent, self.unknown)?;
        if let Some(why) = &self.failure {
            writeln!(out, "ended early: {why}")?;
        }
        writeln!(out, "primary changes: {}", self.primary_changes)?;
        let mut table = Table::new(&["PRIMARY", ">EPOCH", "FIRST ACK", "LAST ACK"]);
        for primary in &self.primaries {
            let (first, last) = (time(primary.first_ack_unix_ms), time(primary.last_ack_unix_ms));
            table.row([primary.place.site.clone(), Epoch(primary.place.epoch).to_string(), first, last]);
        }
        table.write(out)
    }
}
