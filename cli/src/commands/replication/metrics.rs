//! `cfs admin replication metrics`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;

use cfs_rpc::v1::MetricsRequest;
use serde::Serialize;

use crate::output::{self, Document};
use crate::{Context, client};

/// Figures that an operator greps for, and the metric behind each. The first metric that exists is taken; of samples
/// of several sites, the largest.
const FIGURES: [(&str, &[&str]); 8] = [
    ("lag_ms", &["claudefs_replication_lag_ms"]),
    ("entries_processed", &["claudefs_replication_entries_processed"]),
    ("errors", &["claudefs_replication_errors_total"]),
    ("conflict_count", &["claudefs_replication_conflict_count", "claudefs_replication_conflicts_total"]),
    ("compression_ratio", &["claudefs_replication_compression_ratio"]),
    ("compression_queue_size", &["claudefs_replication_compression_queue_size"]),
    ("bandwidth_sent_bytes", &["claudefs_replication_bytes_sent", "claudefs_replication_sent_bytes_total"]),
    ("bandwidth_received_bytes", &["claudefs_replication_bytes_received", "claudefs_replication_received_bytes_total"]),
];

/// Printed where there is no data: 0 would be a claim.
const NO_DATA: &str = "n/a";

/// Arguments of `cfs admin replication metrics`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only the figures that matter most
    #[arg(value_enum, value_name = "summary")]
    only: Option<Only>,
}

/// What to leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    /// Everything but the most important figures
    Summary,
}

#[derive(Debug, Serialize)]
struct Metrics {
    /// Null: there is no data.
    summary: BTreeMap<&'static str, Option<f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    samples: Option<Vec<Sample>>,
}

/// One line of the exposition format.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Sample {
    name: String,
    /// As exposed, without braces.
    labels: String,
    /// Null: not a finite number.
    value: Option<f64>,
    #[serde(skip)]
    text: String,
}

impl Sample {
    /// Reads a line; comments and what is no sample give `None`.
    fn parse(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let (name, labels, rest) = match line.split_once('{') {
            // A label's value may hold braces: the last one ends the set.
            Some((name, rest)) => {
                let (labels, rest) = rest.rsplit_once('}')?;
                (name, labels, rest)
            }
            None => {
                let (name, rest) = line.split_once(' ')?;
                (name, "", rest)
            }
        };
        let text = rest.split_whitespace().next()?.to_owned();
        let value = text.parse::<f64>().ok()?;
        let value = value.is_finite().then_some(value);
        Some(Self { name: name.to_owned(), labels: labels.to_owned(), value, text })
    }

    fn line(&self) -> String {
        let labels = if self.labels.is_empty() { String::new() } else { format!("{{{}}}", self.labels) };
        format!("{}{labels} {}", self.name, self.text)
    }
}

impl Metrics {
    fn of(text: &str, summary_only: bool) -> Self {
        let samples: Vec<Sample> = text.lines().filter_map(Sample::parse).collect();
        let summary = FIGURES.iter().map(|(figure, names)| (*figure, figure_of(&samples, names))).collect();
        Self { summary, samples: (!summary_only).then_some(samples) }
    }
}

/// One of the figures that an operator greps for, out of a shipper's metrics; `None` where there is no data.
pub fn figure(text: &str, name: &str) -> Option<f64> {
    Metrics::of(text, true).summary.get(name).copied().flatten()
}

fn figure_of(samples: &[Sample], names: &[&str]) -> Option<f64> {
    names.iter().find_map(|name| samples.iter().filter(|s| s.name == *name).filter_map(|s| s.value).reduce(f64::max))
}

impl Document for Metrics {
    const SCHEMA: &'static str = "cfs.metrics/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        for (figure, _) in FIGURES {
            match self.summary.get(figure).copied().flatten() {
                Some(value) => writeln!(out, "{figure} {value}")?,
                None => writeln!(out, "{figure} {NO_DATA}")?,
            }
        }
        for sample in self.samples.iter().flatten() {
            writeln!(out, "{}", sample.line())?;
        }
        Ok(())
    }
}

/// Runs the command.
///
/// # Errors
/// When the shipper cannot be reached.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut inspect = client::inspect(context).await?;
    let reply = inspect.metrics(MetricsRequest {}).await.map_err(client::failed("report its metrics"))?;
    let metrics = Metrics::of(&reply.into_inner().text, args.only == Some(Only::Summary));
    output::print(context.format(), &metrics)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, write_document};

    const TEXT: &str = "# HELP claudefs_replication_lag_ms Lag.\n\
        claudefs_replication_lag_ms{site=\"a}b\"} 5\n\
        claudefs_replication_lag_ms{site=\"c\"} 7\n\
        claudefs_replication_compression_ratio NaN\n\
        claudefs_replication_errors_total 0 1700000000\n# EOF\n";

    #[test]
    fn figures_without_data_are_not_zero() {
        let metrics = Metrics::of(TEXT, false);
        assert_eq!(metrics.summary["lag_ms"], Some(7.0));
        assert_eq!(metrics.summary["errors"], Some(0.0));
        assert_eq!(metrics.summary["compression_ratio"], None);
        assert_eq!(metrics.samples.as_ref().map(Vec::len), Some(4));
    }

    #[test]
    fn the_table_can_be_grepped() {
        let mut out = Vec::new();
        write_document(&mut out, Format::Table, &Metrics::of(TEXT, false)).expect("memory does not fail");
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("\ncompression_ratio n/a\n"), "{text}");
        assert!(text.contains("\nclaudefs_replication_lag_ms{site=\"a}b\"} 5\n"), "{text}");
    }
}
