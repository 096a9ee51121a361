//! `cfs admin replication bootstrap-status`.

use std::io::{self, Write};
use std::process::ExitCode;

use cfs_rpc::v1::{BootstrapReply, BootstrapRequest};
use serde::Serialize;

use super::gather::in_time;
use super::watch::{self, Watch};
use crate::output::{Document, Table};
use crate::{Context, client};

/// Arguments of `cfs admin replication bootstrap-status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Again and again
    #[command(flatten)]
    watch: Watch,
}

/// How far the site is.
#[derive(Debug, Serialize)]
struct Status {
    site: String,
    /// `IDLE`, `ENROLLING`, `SNAPSHOT`, `CATCHUP` or `COMPLETE`.
    phase: String,
    /// Of the present phase; null: unknown.
    percent: Option<f64>,
    eta_s: Option<u64>,
    /// `snapshot`: by a copy of another site's store; `journal`: by the journal alone; null: not decided.
    way: Option<String>,
    /// The site that gives its store.
    source: Option<String>,
    bytes: u64,
    bytes_per_s: u64,
    rows: u64,
    rows_total: u64,
    entries_behind: u64,
    /// What it waits for, or what went wrong last.
    note: Option<String>,
    /// Where the data from before a rebuild are, and until when.
    aside: Option<String>,
    /// The phases passed, with the present one.
    phases: Vec<Phase>,
}

#[derive(Debug, Serialize)]
struct Phase {
    phase: String,
    began_at: String,
    began_at_ms: u64,
    /// Null: it lasts.
    lasted_ms: Option<u64>,
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// How far a site is.
pub(super) fn document(reply: BootstrapReply) -> impl Document + use<> {
    Status::of(reply)
}

impl Status {
    fn of(reply: BootstrapReply) -> Self {
        let next = reply.passed.iter().skip(1).map(|passed| Some(passed.at_ms)).chain([None]);
        let phases = reply.passed.iter().zip(next).map(|(passed, next)| Phase {
            phase: passed.phase.clone(),
            began_at: time(passed.at_ms),
            began_at_ms: passed.at_ms,
            lasted_ms: next.map(|next| next.saturating_sub(passed.at_ms)),
        });
        Self {
            phases: phases.collect(),
            site: reply.site,
            phase: reply.phase,
            percent: reply.percent.map(|percent| (percent * 10.0).round() / 10.0),
            eta_s: reply.eta_s,
            way: some(reply.way),
            source: some(reply.source),
            bytes: reply.bytes,
            bytes_per_s: reply.bytes_per_s,
            rows: reply.rows,
            rows_total: reply.rows_total,
            entries_behind: reply.entries_behind,
            note: some(reply.note),
            aside: some(reply.aside),
        }
    }
}

fn time(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map(|at| format!("{at:.3}")).unwrap_or_default()
}

/// With the largest unit that leaves a number of at least 1.
fn size(bytes: u64) -> String {
    let unit = [(30, "GiB"), (20, "MiB"), (10, "KiB")].into_iter().find(|(shift, _)| bytes >> shift > 0);
    match unit {
        Some((shift, name)) => format!("{:.1} {name}", bytes as f64 / f64::from(1u32 << shift)),
        None => format!("{bytes} B"),
    }
}

impl Document for Status {
    const SCHEMA: &'static str = "cfs.bootstrap/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Site:     {}", self.site)?;
        let percent = self.percent.map(|percent| format!(" ({percent:.1}%)")).unwrap_or_default();
        writeln!(out, "Phase:    {}{percent}", self.phase)?;
        match (self.way.as_deref(), &self.source) {
            (Some("snapshot"), Some(source)) => {
                writeln!(out, "Way:      a copy of the store of {source}, then the journal")?
            }
            (Some("snapshot"), None) => writeln!(out, "Way:      a copy of another site's store, then the journal")?,
            (Some(_), _) => writeln!(out, "Way:      the journal from its first entry; no copy is needed")?,
            (None, _) => {}
        }
        if self.bytes > 0 {
            let rate = if self.bytes_per_s > 0 { format!(", {}/s", size(self.bytes_per_s)) } else { String::new() };
            writeln!(out, "Copied:   {}{rate}, {} of {} rows", size(self.bytes), self.rows, self.rows_total)?;
        }
        if self.entries_behind > 0 {
            writeln!(out, "To apply: {} entries", self.entries_behind)?;
        }
        if let Some(eta_s) = self.eta_s.filter(|_| self.phase != "COMPLETE") {
            writeln!(out, "ETA:      {eta_s} s")?;
        }
        if let Some(note) = &self.note {
            writeln!(out, "Note:     {note}")?;
        }
        if let Some(aside) = &self.aside {
            writeln!(out, "Aside:    {aside}")?;
        }
        writeln!(out)?;
        let mut table = Table::new(&["PHASE", "BEGAN", "LASTED"]);
        for phase in &self.phases {
            let lasted = match phase.lasted_ms {
                Some(ms) => format!("{:.1} s", ms as f64 / 1000.0),
                None => "-".to_owned(),
            };
            table.row([phase.phase.clone(), phase.began_at.clone(), lasted]);
        }
        table.write(out)
    }
}

/// Runs the command: what the shipper of this site says of its own enrolment.
///
/// # Errors
/// When the shipper cannot be reached.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    watch::show(context, &args.watch, async || {
        let asked = async {
            let mut inspect = client::inspect(context).await?;
            let reply = inspect.bootstrap(BootstrapRequest::default()).await;
            Ok(reply.map_err(client::failed("report how far its enrolment is"))?)
        };
        Ok(Status::of(in_time(asked).await?.into_inner()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use cfs_rpc::v1::PassedPhase;

    use super::*;

    #[test]
    fn every_phase_passed_is_listed_with_its_times() {
        let passed = |phase: &str, at_ms| PassedPhase { phase: phase.into(), at_ms };
        let reply = BootstrapReply {
            site: "site-c".into(),
            phase: "CATCHUP".into(),
            passed: vec![passed("IDLE", 1_000), passed("ENROLLING", 3_500), passed("CATCHUP", 4_000)],
            percent: Some(33.333),
            bytes: 3 << 20,
            entries_behind: 7,
            way: "snapshot".into(),
            source: "site-b".into(),
            aside: "/var/x.before-rebuild-7, until COMPLETE".into(),
            ..BootstrapReply::default()
        };
        let status = Status::of(reply);
        let mut out = Vec::new();
        status.write_table(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for wanted in [
            "Aside:    /var/x.before-rebuild-7",
            "CATCHUP (33.3%)",
            "store of site-b",
            "3.0 MiB",
            "7 entries",
            "1970-01-01T00:00:03.500Z",
            "2.5 s",
        ] {
            assert!(text.contains(wanted), "{wanted} is missing:\n{text}");
        }
    }
}
