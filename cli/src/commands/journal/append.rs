//! `cfs journal append`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use cfs_client::{Ack, Append, Error, Fatal, Options, Producer, Target};
use cfs_model::Epoch;
use prost::Message;
use serde::Serialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use crate::output::{Format, Row, Rows};
use crate::{Context, duration, follow, op_json, path_text};

/// Lines whose outcome may be outstanding.
const OUTSTANDING: usize = 8192;
/// Longest line: the longest entry as JSON in Base64, and room to spare.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Arguments of `cfs journal append`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Append under this name: under it the journal remembers how far the producer came
    #[arg(long, value_name = "NAME", default_value = "cfs-journal-append")]
    producer: String,
    /// Append in this epoch or not at all
    #[arg(long, value_name = "EPOCH")]
    epoch: Option<Epoch>,
    /// Wait for more than the site's own durability: local or remote(K)
    #[arg(long, value_name = "DURABILITY", default_value = "")]
    durability: String,
    /// Number the lines from here; those that the journal holds under these numbers are not appended again
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    seq_from: Option<u64>,
    /// Append at whichever site is primary, wherever that moves; this site's own processes need not run
    #[arg(long)]
    follow_primary: bool,
    /// Give up when nothing was acknowledged for so long: 500ms, 30s, 1m
    /// [default: 30s; with --follow-primary: never]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    timeout: Option<Duration>,
}

/// What became of a line.
#[derive(Debug, Serialize, PartialEq)]
pub struct Outcome {
    line: u64,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    /// The stream that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    /// Where it is at the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    lsn: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl Outcome {
    fn acked(line: u64, seq: u64, ack: &Ack) -> Self {
        let (stream, lsn) = (Some(ack.stream.to_string()), Some(ack.lsn.0));
        Self { line, status: "acked", seq: Some(seq), stream, lsn, reason: None, why: None }
    }

    fn failed(line: u64, status: &'static str, reason: &'static str, why: String) -> Self {
        Self { line, status, seq: None, stream: None, lsn: None, reason: Some(reason), why: Some(why) }
    }

    fn of(line: u64, error: &Error) -> Self {
        match error {
            Error::Invalid { why, .. } => Self::failed(line, "refused", "invalid", why.clone()),
            Error::Unknown(why) => Self::failed(line, "unknown", "not_acknowledged", why.to_string()),
            Error::NotAppended(why) => {
                let reason = match **why {
                    Fatal::Fenced { .. } => "fenced",
                    Fatal::NotPrimary { .. } => "not_primary",
                    Fatal::GaveUp { .. } => "timeout",
                    _ => "not_appended",
                };
                Self::failed(line, "refused", reason, why.to_string())
            }
            other => Self::failed(line, "refused", "invalid", other.to_string()),
        }
    }
}

impl Row for Outcome {
    const SCHEMA: &'static str = "cfs.append/1";

    fn heading() -> String {
        format!("{:>8}  {:8} {:>12}  POSITION", "LINE", "STATUS", "SEQ")
    }

    fn line(&self) -> String {
        let seq = self.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
        let rest = match (&self.stream, self.lsn, &self.why) {
            (Some(stream), Some(lsn), _) => format!("{stream}:{lsn}"),
            (.., Some(why)) => path_text::for_terminal(why.as_bytes()),
            _ => String::new(),
        };
        format!("{:>8}  {:8} {seq:>12}  {rest}", self.line, self.status)
    }
}

/// A line that was read, in the order of lines.
enum Line {
    Appended(u64, Append),
    Failed(Outcome),
}

/// Runs the command: reads operations from standard input, one on each line, and prints what became of each, in the
/// order of lines and as soon as it is known. Exits with 1 if any line was not appended.
///
/// # Errors
/// What happened, to what, and what to do next.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let config = context.config()?;
    let target = if args.follow_primary { follow::target(&config)? } else { Target::Unix(config.shipper_socket()) };
    let options = Options {
        durability: args.durability,
        epoch: args.epoch,
        first_seq: args.seq_from,
        give_up_after: args.timeout.or((!args.follow_primary).then_some(follow::PATIENCE)),
        on_wait: Some(Arc::new(follow::say_why)),
        ..Options::default()
    };
    let producer = Producer::connect(target, &args.producer, options).await;
    let producer = producer.map_err(|fatal| anyhow::anyhow!("{fatal}"))?;
    let first_seq = producer.first_seq();
    let (lines, outcomes) = mpsc::channel(OUTSTANDING);
    let reading = read(BufReader::with_capacity(1 << 16, tokio::io::stdin()), &producer, lines);
    // Acks are lines too when nothing else was asked for.
    let format = if context.format() == Format::Table { Format::Jsonl } else { context.format() };
    let (read, complete) = tokio::join!(reading, print(outcomes, first_seq, Rows::to_stdout(format)));
    read?;
    Ok(if complete? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Appends each line that is an operation.
async fn read(
    mut input: impl AsyncBufRead + Unpin,
    producer: &Producer,
    lines: mpsc::Sender<Line>,
) -> anyhow::Result<()> {
    let mut number = 0;
    while let Some(line) = next_line(&mut input).await.context("cannot read standard input")? {
        number += 1;
        let parsed = line.and_then(|line| {
            let text = std::str::from_utf8(&line).map_err(|_| "it is not UTF-8".to_owned())?;
            let op = (!text.trim().is_empty()).then(|| op_json::parse(text));
            op.transpose().map_err(|error| error.to_string())
        });
        let line = match parsed {
            Ok(None) => continue,
            Ok(Some(op)) => match producer.append_encoded(Bytes::from(op.encode_to_vec())).await {
                Ok(append) => Line::Appended(number, append),
                Err(error) => Line::Failed(Outcome::of(number, &error)),
            },
            Err(why) => Line::Failed(Outcome::failed(number, "refused", "bad_line", why)),
        };
        // Nobody prints any more: standard output is closed.
        if lines.send(line).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The next line; `Err` inside if it is too long, of which the rest is skipped.
async fn next_line(input: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Result<Vec<u8>, String>>> {
    let mut line = Vec::new();
    let (mut any, mut long) = (false, false);
    loop {
        let buffer = input.fill_buf().await?;
        if buffer.is_empty() {
            break;
        }
        any = true;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        long |= line.len() + part.len() > MAX_LINE_BYTES;
        if !long {
            line.extend_from_slice(part);
        }
        let used = end.map_or(buffer.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            break;
        }
    }
    let line = if long { Err(format!("the line is over its limit of {MAX_LINE_BYTES} bytes")) } else { Ok(line) };
    Ok(any.then_some(line))
}

/// Prints outcomes; whether every line was appended.
async fn print(mut lines: mpsc::Receiver<Line>, first_seq: u64, mut rows: Rows) -> anyhow::Result<bool> {
    let (mut seq, mut complete) = (first_seq, true);
    while let Some(line) = next(&mut lines, &mut rows).await? {
        let outcome = match line {
            Line::Failed(outcome) => outcome,
            Line::Appended(number, mut append) => {
                // What is known is shown before waiting for more.
                let result = match futures::poll!(&mut append) {
                    std::task::Poll::Ready(result) => result,
                    std::task::Poll::Pending => {
                        rows.flush()?;
                        append.await
                    }
                };
                match result {
                    Ok(ack) => {
                        let outcome = Outcome::acked(number, seq, &ack);
                        seq += 1;
                        outcome
                    }
                    Err(error) => Outcome::of(number, &error),
                }
            }
        };
        complete &= outcome.status == "acked";
        rows.push(&outcome)?;
    }
    rows.finish()?;
    Ok(complete)
}

async fn next(lines: &mut mpsc::Receiver<Line>, rows: &mut Rows) -> std::io::Result<Option<Line>> {
    match lines.try_recv() {
        Ok(line) => Ok(Some(line)),
        Err(_) => {
            rows.flush()?;
            Ok(lines.recv().await)
        }
    }
}

#[cfg(test)]
#[path = "append_tests.rs"]
mod tests;
