//! `cfs admin replication journal-status`.

use std::io::{self, Write};
use std::process::ExitCode;

use cfs_rpc::v1::{JournalHold, JournalReply, JournalRequest, JournalSite, JournalStream};
use serde::Serialize;

use super::gather::in_time;
use super::status::duration_text;
use super::watch::{self, Watch};
use crate::output::{Document, Table};
use crate::stream_names::StreamNames;
use crate::{Context, client};

/// Arguments of `cfs admin replication journal-status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Again and again
    #[command(flatten)]
    watch: Watch,
}

/// What is in a site's journal, what may go and what holds the rest.
#[derive(Debug, Serialize)]
pub(super) struct Journal {
    site: String,
    bytes: u64,
    /// Of these, files written ahead.
    prepared_bytes: u64,
    segments: u64,
    /// Age of the oldest segment's newest entry; null: the journal is empty.
    oldest_age_s: Option<u64>,
    retention_bytes: u64,
    /// As set; more than what is in force where half of the disk is less.
    retention_set_bytes: u64,
    retention_s: u64,
    bytes_per_s: u64,
    /// Until the first site falls behind what is kept; null: not in sight.
    time_to_exhaustion_s: Option<u64>,
    /// The site that does; null: none is on its way there.
    exhausted_by: Option<String>,
    /// Whether segments past retention are still on disk.
    compaction_pending: bool,
    pending_segments: u64,
    pending_bytes: u64,
    /// What `gc --aggressive` would free.
    removable_bytes: u64,
    removed_segments: u64,
    removed_bytes: u64,
    disk_free_bytes: u64,
    streams: Vec<Stream>,
    sites: Vec<Site>,
    holds: Vec<Hold>,
    #[serde(skip)]
    names: StreamNames,
}

#[derive(Debug, Serialize)]
struct Stream {
    stream: String,
    origin: String,
    first: u64,
    last: u64,
    applied: u64,
    segments: u64,
    bytes: u64,
    oldest_age_s: Option<u64>,
    closed: bool,
}

#[derive(Debug, Serialize)]
struct Site {
    site: String,
    /// `up`, `down` or `unknown`: not heard since the shipper started.
    state: &'static str,
    silent_ms: u64,
    lacking_bytes: u64,
    time_to_exhaustion_s: Option<u64>,
    /// Why it needs a snapshot; empty: it needs none.
    needs_snapshot: String,
    cursors: Vec<Cursor>,
}

#[derive(Debug, Serialize)]
struct Cursor {
    stream: String,
    durable: u64,
}

/// Segments that stay, and why.
#[derive(Debug, Serialize)]
struct Hold {
    stream: String,
    /// Whose need it is; empty: nobody's.
    site: String,
    why: String,
    segments: u64,
    bytes: u64,
}

impl Journal {
    pub(super) fn of(reply: JournalReply) -> Self {
        let sites = reply.streams.iter().map(|stream| (stream.site, stream.site_name.clone()));
        let cursors = reply.sites.iter().flat_map(|site| &site.cursors).map(|c| (c.site, c.incarnation));
        let shown = reply.streams.iter().map(|stream| (stream.site, stream.incarnation)).chain(cursors);
        Self {
            names: StreamNames::new(sites, shown),
            site: reply.site,
            bytes: reply.bytes,
            prepared_bytes: reply.prepared_bytes,
            segments: reply.segments,
            oldest_age_s: reply.oldest_age_s,
            retention_bytes: reply.retention_bytes,
            retention_set_bytes: reply.retention_set_bytes,
            retention_s: reply.retention_s,
            bytes_per_s: reply.bytes_per_s,
            time_to_exhaustion_s: reply.exhausted_in_s,
            exhausted_by: Some(reply.exhausted_by).filter(|site| !site.is_empty()),
            compaction_pending: reply.compaction_pending,
            pending_segments: reply.pending_segments,
            pending_bytes: reply.pending_bytes,
            removable_bytes: reply.removable_bytes,
            removed_segments: reply.removed_segments,
            removed_bytes: reply.removed_bytes,
            disk_free_bytes: reply.disk_free_bytes,
            streams: reply.streams.into_iter().map(Stream::of).collect(),
            sites: reply.sites.into_iter().map(Site::of).collect(),
            holds: reply.holds.into_iter().map(Hold::of).collect(),
        }
    }

    /// What stays, and why.
    pub(super) fn write_holds(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["STREAM", "HELD BY", ">SEGMENTS", ">BYTES", "WHY"]);
        for hold in &self.holds {
            let site = if hold.site.is_empty() { "-".to_owned() } else { hold.site.clone() };
            let (segments, bytes) = (hold.segments.to_string(), hold.bytes.to_string());
            table.row([self.names.of_text(&hold.stream), site, segments, bytes, hold.why.clone()]);
        }
        table.write(out)
    }
}

impl Stream {
    fn of(stream: JournalStream) -> Self {
        Self {
            stream: format!("{}.{}", stream.site, stream.incarnation),
            origin: stream.site_name,
            first: stream.first,
            last: stream.last,
            applied: stream.applied,
            segments: stream.segments,
            bytes: stream.bytes,
            oldest_age_s: stream.oldest_age_s,
            closed: stream.closed,
        }
    }
}

impl Site {
    fn of(site: JournalSite) -> Self {
        let cursor = |c: &cfs_model::op::StreamPosition| Cursor {
            stream: format!("{}.{}", c.site, c.incarnation),
            durable: c.lsn,
        };
        Self {
            state: match (site.known, site.heard) {
                (false, _) => "unknown",
                (true, false) => "down",
                (true, true) => "up",
            },
            site: site.site,
            silent_ms: site.silent_ms,
            lacking_bytes: site.lacking_bytes,
            time_to_exhaustion_s: site.exhausted_in_s,
            needs_snapshot: site.behind,
            cursors: site.cursors.iter().map(cursor).collect(),
        }
    }

    fn cursors_text(&self, names: &StreamNames) -> String {
        let all: Vec<String> =
            self.cursors.iter().map(|c| format!("{}:{}", names.of_text(&c.stream), c.durable)).collect();
        if all.is_empty() { "-".to_owned() } else { all.join(" ") }
    }
}

impl Hold {
    fn of(hold: JournalHold) -> Self {
        let JournalHold { stream, site, why, segments, bytes } = hold;
        Self { stream, site, why, segments, bytes }
    }
}

fn seconds_text(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "n/a".to_owned(), |s| duration_text(s.saturating_mul(1000)))
}

/// Bytes, for people, with one digit behind the point.
pub(super) fn size_text(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

impl Document for Journal {
    const SCHEMA: &'static str = "cfs.journal-status/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "site = {}", self.site)?;
        writeln!(out, "journal_bytes = {} ({})", self.bytes, size_text(self.bytes))?;
        writeln!(out, "segments = {}", self.segments)?;
        writeln!(out, "oldest = {}", seconds_text(self.oldest_age_s))?;
        writeln!(out, "retention_budget_bytes = {} ({})", self.retention_bytes, size_text(self.retention_bytes))?;
        writeln!(out, "retention_age = {}", seconds_text(Some(self.retention_s)))?;
        writeln!(out, "growth = {}/s", size_text(self.bytes_per_s))?;
        let by = self.exhausted_by.as_ref().map(|site| format!(", then {site} needs a snapshot")).unwrap_or_default();
        writeln!(out, "time_to_exhaustion = {}{by}", seconds_text(self.time_to_exhaustion_s))?;
        let pending = match self.pending_segments {
            0 => String::new(),
            segments => format!(" ({segments} segments, {})", size_text(self.pending_bytes)),
        };
        writeln!(out, "compaction_pending = {}{pending}", self.compaction_pending)?;
        writeln!(out, "removable_bytes = {} ({})", self.removable_bytes, size_text(self.removable_bytes))?;
        writeln!(out)?;
        let columns = ["STREAM", "ORIGIN", ">FIRST", ">LAST", ">APPLIED", ">SEGMENTS", ">BYTES", "OLDEST"];
        let mut table = Table::new(&columns);
        for s in &self.streams {
            table.row([
                self.names.of_text(&s.stream),
                format!("{}{}", s.origin, if s.closed { " (closed)" } else { "" }),
                s.first.to_string(),
                s.last.to_string(),
                s.applied.to_string(),
                s.segments.to_string(),
                s.bytes.to_string(),
                seconds_text(s.oldest_age_s),
            ]);
        }
        table.write(out)?;
        writeln!(out)?;
        let mut table = Table::new(&["SITE", "STATE", ">LACKS BYTES", "EXHAUSTED IN", "CURSORS", "SNAPSHOT"]);
        for s in &self.sites {
            table.row([
                s.site.clone(),
                s.state.to_owned(),
                s.lacking_bytes.to_string(),
                seconds_text(s.time_to_exhaustion_s),
                s.cursors_text(&self.names),
                if s.needs_snapshot.is_empty() { "-".to_owned() } else { format!("needed: {}", s.needs_snapshot) },
            ]);
        }
        table.write(out)?;
        writeln!(out)?;
        self.write_holds(out)
    }
}

/// Runs the command.
///
/// # Errors
/// When the shipper cannot be reached, or the site is a witness.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    watch::show(context, &args.watch, async || {
        data_site(context)?;
        let asked = async {
            let mut inspect = client::inspect(context).await?;
            Ok(inspect.journal(JournalRequest {}).await.map_err(client::failed("report on its journal"))?)
        };
        Ok(Journal::of(in_time(asked).await?.into_inner()))
    })
    .await
}

/// Refuses on a site that has no journal.
pub(super) fn data_site(context: &Context) -> anyhow::Result<()> {
    let config = context.config()?;
    if config.site.witness {
        let sites: Vec<String> = config.data_peers().map(|peer| peer.name.to_string()).collect();
        anyhow::bail!(
            "{} is a witness: it votes and stores no journal\n  next: ask on {}",
            config.site.name,
            sites.join(" or ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, write_document};

    #[test]
    fn what_the_runbook_greps_is_on_a_line_of_its_own() {
        let reply = JournalReply {
            site: "site-a".into(),
            bytes: 6 << 20,
            segments: 2,
            exhausted_in_s: Some(3600),
            exhausted_by: "site-b".into(),
            ..JournalReply::default()
        };
        let mut out = Vec::new();
        write_document(&mut out, Format::Table, &Journal::of(reply.clone())).expect("memory does not fail");
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("\ncompaction_pending = false\n"), "{text}");
        assert!(text.contains("\njournal_bytes = 6291456 (6.0 MiB)\n"), "{text}");
        assert!(text.contains("\ntime_to_exhaustion = 60 min, then site-b needs a snapshot\n"), "{text}");
        let pending = JournalReply { compaction_pending: true, pending_segments: 3, pending_bytes: 2000, ..reply };
        let mut out = Vec::new();
        write_document(&mut out, Format::Table, &Journal::of(pending)).expect("memory does not fail");
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("\ncompaction_pending = true (3 segments, 1.9 KiB)\n"), "{text}");
    }

    #[test]
    fn sizes_are_told_for_people() {
        assert_eq!([0, 1023, 1536, 5 << 30].map(size_text), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
    }
}
