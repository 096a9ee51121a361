//! How fast it went: what every measurement of appends begins with.

use std::io::{self, Write};

use serde::Serialize;

use crate::bench::Histogram;

/// Entries that were acknowledged, and how long that took.
#[derive(Debug, Serialize)]
pub(super) struct Speed {
    entries: u64,
    entry_bytes: usize,
    producers: u64,
    seconds: f64,
    entries_per_s: f64,
    mb_per_s: f64,
    ack_ms: Option<Quantiles>,
}

impl Speed {
    pub(super) fn of(entries: u64, entry_bytes: usize, producers: u64, seconds: f64, acks: &Histogram) -> Self {
        let entries_per_s = entries as f64 / seconds;
        let mb_per_s = entries_per_s * entry_bytes as f64 / 1e6;
        Self { entries, entry_bytes, producers, seconds, entries_per_s, mb_per_s, ack_ms: Quantiles::of(acks) }
    }

    /// Four lines for people.
    pub(super) fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{} entries of {} bytes by {} producers in {:.3} s",
            self.entries, self.entry_bytes, self.producers, self.seconds
        )?;
        writeln!(out, "entries/s: {:.0}", self.entries_per_s)?;
        writeln!(out, "MB/s: {:.2}", self.mb_per_s)?;
        writeln!(out, "ack latency: {}", Quantiles::text(self.ack_ms))
    }
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Quantiles {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Quantiles {
    pub(super) fn of(histogram: &Histogram) -> Option<Self> {
        let (p50, p99) = (histogram.quantile_ms(0.5)?, histogram.quantile_ms(0.99)?);
        Some(Self { p50, p99, max: histogram.max_ms()? })
    }

    pub(super) fn text(quantiles: Option<Self>) -> String {
        quantiles.map_or_else(
            || "n/a".to_owned(),
            |q| format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", q.p50, q.p99, q.max),
        )
    }
}
