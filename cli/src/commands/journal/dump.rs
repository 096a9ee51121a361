//! `cfs journal dump`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use cfs_config::Config;
use cfs_journal::dump::{self, Entry};
use cfs_model::{Lsn, SiteId, StreamId};
use cfs_shipper_core::codec::Codec;
use serde::Serialize;
use serde_json::Value;

use crate::output::{Row, Rows};
use crate::{Context, op_json, path_text};

/// Arguments of `cfs journal dump`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A site's name, for all of its streams; or one stream as SITE_NUMBER.INCARNATION
    #[arg(long, value_name = "STREAM")]
    stream: String,
    /// Begin at this position
    #[arg(long, value_name = "LSN", default_value_t = 1)]
    from: u64,
    /// The journal's directory [default: the configured one]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// One entry; `op` is what `cfs journal append` reads.
#[derive(Debug, Serialize)]
struct EntryRow {
    stream: String,
    lsn: u64,
    epoch: u64,
    clock: u64,
    producer: Value,
    seq: u64,
    op: Value,
    batch: BatchView,
}

/// The batch that an entry is in, as it lies on disk and went over the wire.
#[derive(Debug, Serialize)]
struct BatchView {
    first_lsn: u64,
    entries: u32,
    /// `none`, `lz4` or `zstd`; a level is not recorded.
    codec: &'static str,
    raw_bytes: u32,
    encoded_bytes: u32,
}

impl EntryRow {
    fn of(stream: StreamId, entry: &Entry) -> Self {
        Self {
            stream: stream.to_string(),
            lsn: entry.lsn.0,
            epoch: entry.stamp.epoch.0,
            clock: entry.stamp.clock,
            producer: op_json::bytes_to_json(&entry.producer),
            seq: entry.seq,
            op: op_json::to_json(&entry.op),
            batch: BatchView {
                first_lsn: entry.batch.header.first_lsn.0,
                entries: entry.batch.header.count,
                codec: match entry.batch.header.codec {
                    Codec::None => "none",
                    Codec::Lz4 => "lz4",
                    Codec::Zstd(_) => "zstd",
                },
                raw_bytes: entry.batch.header.raw_len,
                encoded_bytes: entry.batch.header.encoded_len,
            },
        }
    }
}

impl Row for EntryRow {
    const SCHEMA: &'static str = "cfs.dump/1";

    fn heading() -> String {
        format!("{:<10} {:>12} {:>8} {:<24} OPERATION", "STREAM", "LSN", "SEQ", "PRODUCER")
    }

    fn line(&self) -> String {
        let producer = self.producer.as_str().map_or_else(|| self.producer.to_string(), str::to_owned);
        let producer = path_text::for_terminal(producer.as_bytes());
        format!("{:<10} {:>12} {:>8} {producer:<24} {}", self.stream, self.lsn, self.seq, self.op)
    }
}

/// Runs the command: reads the journal's files, whether a shipper runs or not.
///
/// # Errors
/// When there is no such stream, or where the stream is damaged; what comes before has been printed then.
pub fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => context.config()?.journal_dir().to_owned(),
    };
    let streams = wanted(&args.stream, &dir, context)?;
    let mut rows = Rows::to_stdout(context.format());
    for stream in streams {
        let mut entries = dump::dump(&dir, stream, Lsn(args.from))?;
        for entry in &mut entries {
            match entry {
                Ok(entry) => rows.push(&EntryRow::of(stream, &entry))?,
                Err(error) => {
                    rows.finish()?;
                    return Err(error.into());
                }
            }
        }
        if let Some(torn) = entries.torn() {
            anstream::eprintln!(
                "note: stream {stream} ends at LSN {} with {} bytes that are no batch: {}; they are cut at the next start, \
                 or are being written just now",
                torn.durable,
                torn.cut_bytes,
                torn.what
            );
        }
    }
    rows.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// The streams that `text` names and the journal holds; at least one.
fn wanted(text: &str, dir: &Path, context: &Context) -> anyhow::Result<Vec<StreamId>> {
    let held = dump::streams(dir)?;
    let named = |held: &[StreamId]| held.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let streams: Vec<StreamId> = match text.parse::<StreamId>() {
        Ok(stream) => held.iter().copied().filter(|held| *held == stream).collect(),
        Err(_) => {
            let config =
                context.config().context("a site's name needs the configuration; a stream can also be given as 1.1")?;
            let site = site_number(&config, text)?;
            held.iter().copied().filter(|held| held.site == site).collect()
        }
    };
    anyhow::ensure!(
        !streams.is_empty(),
        "the journal in {} holds no stream of {text}: it has {}",
        dir.display(),
        named(&held)
    );
    Ok(streams)
}

fn site_number(config: &Config, name: &str) -> anyhow::Result<SiteId> {
    let this = std::iter::once((&config.site.name, config.site.id));
    let all: Vec<_> = this.chain(config.peers.iter().map(|peer| (&peer.name, peer.id))).collect();
    let found = all.iter().find(|(site, _)| site.as_str() == name).map(|(_, id)| *id);
    let names = || all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    found.with_context(|| format!("site {name:?} is unknown: {} names {}", config.file.display(), names()))
}
