//! `cfs admin replication cursor status`.

use std::io::{self, Write};
use std::process::ExitCode;

use cfs_rpc::v1::{StatusReply, StreamCursor};
use serde::Serialize;

use super::watch::{self, Watch};
use crate::Context;
use crate::output::{Document, Table};

/// Verbs of `cfs admin replication cursor`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show how far each stream has come at this site
    Status(Args),
}

/// Arguments of `cfs admin replication cursor status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Again and again
    #[command(flatten)]
    watch: Watch,
}

impl Command {
    /// Runs the command.
    ///
    /// # Errors
    /// When the shipper cannot be reached.
    pub async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let Self::Status(args) = self;
        watch::show_status(context, &args.watch, Cursors::of).await
    }
}

/// How far one stream has come.
#[derive(Debug, Serialize)]
pub(super) struct StreamView {
    /// `SITE.INCARNATION`
    pub(super) stream: String,
    origin: String,
    /// The highest position known anywhere.
    pub(super) source: u64,
    durable: u64,
    pub(super) applied: u64,
    age_ms: u64,
    state: String,
    reason: String,
    pulled_from: String,
}

impl StreamView {
    pub(super) fn of(cursor: &StreamCursor) -> Self {
        Self {
            stream: format!("{}.{}", cursor.site, cursor.incarnation),
            origin: cursor.site_name.clone(),
            source: cursor.source,
            durable: cursor.durable,
            applied: cursor.applied,
            age_ms: cursor.age_ms,
            state: cursor.state.clone(),
            reason: cursor.reason.clone(),
            pulled_from: cursor.pulled_from.clone(),
        }
    }

    fn state_text(&self) -> String {
        if self.reason.is_empty() { self.state.clone() } else { format!("{}({})", self.state, self.reason) }
    }

    pub(super) fn line(&self) -> String {
        format!(
            "{} of {}: source {}, durable {}, applied {}, age {}ms, {}",
            self.stream,
            self.origin,
            self.source,
            self.durable,
            self.applied,
            self.age_ms,
            self.state_text()
        )
    }
}

#[derive(Debug, Serialize)]
struct Cursors {
    site: String,
    streams: Vec<StreamView>,
}

impl Cursors {
    fn of(reply: &StatusReply) -> Self {
        Self { site: reply.site.clone(), streams: reply.cursors.iter().map(StreamView::of).collect() }
    }
}

impl Document for Cursors {
    const SCHEMA: &'static str = "cfs.cursor-status/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = ["STREAM", "ORIGIN", ">SOURCE", ">DURABLE", ">APPLIED", ">AGE", "FROM", "STATE"];
        let mut table = Table::new(&columns);
        for s in &self.streams {
            table.row([
                s.stream.clone(),
                s.origin.clone(),
                s.source.to_string(),
                s.durable.to_string(),
                s.applied.to_string(),
                format!("{}ms", s.age_ms),
                if s.pulled_from.is_empty() { "-".to_owned() } else { s.pulled_from.clone() },
                s.state_text(),
            ]);
        }
        table.write(out)
    }
}
