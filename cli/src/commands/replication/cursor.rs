//! `cfs admin replication cursor status`.

use std::io::{self, Write};
use std::process::ExitCode;

use cfs_rpc::v1::{StatusReply, StreamCursor};
use serde::Serialize;

use super::gather::in_time;
use super::watch::{self, Watch};
use crate::Context;
use crate::output::{Document, Table};
use crate::stream_names::StreamNames;

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
        watch::show(context, &args.watch, async || Ok(Cursors::of(&in_time(watch::shipper_status(context)).await?)))
            .await
    }
}

/// How far one stream has come.
#[derive(Debug, Serialize)]
pub(super) struct StreamView {
    /// `SITE_NUMBER.INCARNATION`
    pub(super) stream: String,
    /// What people call it.
    #[serde(skip)]
    name: String,
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
    /// All of them, as they are shown together.
    pub(super) fn all(cursors: &[StreamCursor]) -> Vec<Self> {
        let sites = cursors.iter().map(|c| (c.site, c.site_name.clone()));
        let names = StreamNames::new(sites, cursors.iter().map(|c| (c.site, c.incarnation)));
        cursors.iter().map(|cursor| Self::of(cursor, &names)).collect()
    }

    fn of(cursor: &StreamCursor, names: &StreamNames) -> Self {
        Self {
            name: names.name(cursor.site, cursor.incarnation),
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
            "{}: source {}, durable {}, applied {}, age {}ms, {}",
            self.name,
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

/// How far each stream has come at a site.
pub(super) fn document(reply: &StatusReply) -> impl Document + use<> {
    Cursors::of(reply)
}

impl Cursors {
    fn of(reply: &StatusReply) -> Self {
        Self { site: reply.site.clone(), streams: StreamView::all(&reply.cursors) }
    }
}

impl Document for Cursors {
    const SCHEMA: &'static str = "cfs.cursor-status/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = ["STREAM", "ORIGIN", ">SOURCE", ">DURABLE", ">APPLIED", ">AGE", "FROM", "STATE"];
        let mut table = Table::new(&columns);
        for s in &self.streams {
            table.row([
                s.name.clone(),
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
