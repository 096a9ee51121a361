//! `cfs admin replication metrics`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;

use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{MetricsRequest, ProcessUsage, StatusAnswer, StatusQuery};
use serde::Serialize;

use super::ask;
use super::gather::{in_time, is_witness};
use crate::output::{self, Document};
use crate::{Context, client};

mod figures;

use figures::{Figure, PeerFigures, ProducerFigures, Sample};

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
    summary: BTreeMap<&'static str, Figure>,
    peers: Vec<PeerFigures>,
    producers: Vec<ProducerFigures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    samples: Option<Vec<Sample>>,
    /// As they are printed.
    #[serde(skip)]
    figures: Vec<(&'static str, Option<f64>)>,
}

impl Metrics {
    /// `text` is the shipper's page, `control` what the control process says of itself.
    fn of(text: &str, control: Option<&ProcessUsage>, summary_only: bool) -> Self {
        let samples: Vec<Sample> = text.lines().filter_map(Sample::parse).collect();
        let figures = figures::summary(&samples, control);
        Self {
            summary: figures.iter().map(|(name, value)| (*name, Figure(*value))).collect(),
            peers: figures::peers(&samples),
            producers: figures::producers(&samples),
            samples: (!summary_only).then_some(samples),
            figures,
        }
    }
}

/// One of the figures that an operator greps for, out of a shipper's metrics; `None` where there is no data.
pub fn figure(text: &str, name: &str) -> Option<f64> {
    Metrics::of(text, None, true).summary.get(name).and_then(|figure| figure.0)
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| NO_DATA.to_owned(), |value| value.to_string())
}

impl Document for Metrics {
    const SCHEMA: &'static str = "cfs.metrics/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        for (figure, value) in &self.figures {
            writeln!(out, "{figure} {}", number(*value))?;
        }
        for peer in &self.peers {
            let figures = [
                ("bandwidth_sent_bytes", peer.bandwidth_sent_bytes),
                ("bandwidth_saved_bytes", peer.bandwidth_saved_bytes),
                ("bandwidth_received_bytes", peer.bandwidth_received_bytes),
                ("bandwidth_sent_bytes_per_second", peer.bandwidth_sent_bytes_per_second),
            ];
            for (figure, value) in figures {
                writeln!(out, "{figure}{{site={:?}}} {}", peer.site, number(value))?;
            }
        }
        for producer in &self.producers {
            writeln!(out, "append_rate{{producer={:?}}} {}", producer.producer, number(producer.append_rate))?;
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
/// When the shipper cannot be reached, at a site that has one.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let (control, shipper) = tokio::join!(control(context), in_time(shipper(context)));
    let text = match shipper {
        Ok(text) => text,
        // A witness has no shipper: its control process is all that there is to tell of.
        Err(_) if control.as_ref().is_some_and(is_witness) => String::new(),
        Err(error) => return Err(error),
    };
    let process = control.as_ref().and_then(|answer| answer.process.as_ref());
    let metrics = Metrics::of(&text, process, args.only == Some(Only::Summary));
    output::print(context.format(), &metrics)?;
    Ok(ExitCode::SUCCESS)
}

async fn shipper(context: &Context) -> anyhow::Result<String> {
    let mut inspect = client::inspect(context).await?;
    let reply = inspect.metrics(MetricsRequest {}).await.map_err(client::failed("report its metrics"))?;
    Ok(reply.into_inner().text)
}

/// `None`: it does not answer in time, and its figures are `n/a`.
async fn control(context: &Context) -> Option<StatusAnswer> {
    let asked = ask::query::<StatusAnswer>(context, Kind::Status(StatusQuery { all_sites: false })).await;
    asked.ok().map(|answer| answer.body)
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
        let metrics = Metrics::of(TEXT, None, false);
        assert_eq!(metrics.summary["lag_ms"], Figure(Some(7.0)));
        assert_eq!(metrics.summary["errors"], Figure(Some(0.0)));
        assert_eq!(metrics.summary["compression_ratio"], Figure(None));
        assert_eq!(metrics.samples.as_ref().map(Vec::len), Some(4));
    }

    #[test]
    fn whole_numbers_have_no_point() {
        let text = format!("{TEXT}claudefs_replication_process_cpu_percent 1.5\n");
        let value = serde_json::to_string(&Metrics::of(&text, None, false)).expect("it is text");
        for part in [
            "\"lag_ms\":7,",
            "\"errors\":0,",
            "\"compression_ratio\":null",
            "\"cpu_percent_shipper\":1.5,",
            "\"value\":5}",
        ] {
            assert!(value.contains(part), "{part}: {value}");
        }
    }

    #[test]
    fn the_table_can_be_grepped() {
        let mut out = Vec::new();
        write_document(&mut out, Format::Table, &Metrics::of(TEXT, None, false)).expect("memory does not fail");
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("\ncompression_ratio n/a\n"), "{text}");
        assert!(text.contains("\nclaudefs_replication_lag_ms{site=\"a}b\"} 5\n"), "{text}");
    }
}
