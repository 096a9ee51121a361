//! Imports the tree with `cfs journal import` and shows how its entries travel.

use std::io::IsTerminal;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cfs_rpc::v1::inspect_client::InspectClient;
use cfs_rpc::v1::{StatusReply, StatusRequest, StreamCursor};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use tokio::process::Command;
use tonic::transport::Channel;
use walkdir::WalkDir;

use crate::client;

/// How long the replica may take for what is left when the import has ended.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(120);
/// Off a terminal, a line is printed this often.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// What the import did.
#[derive(Debug)]
pub struct Imported {
    /// Paths that were seen.
    pub seen: u64,
    /// Entries that were journalled.
    pub entries: u64,
    /// Paths or attributes that could not be read.
    pub skipped: u64,
    /// Until the last entry was applied on the replica.
    pub seconds: f64,
    /// The largest lag of the replica that was seen.
    pub max_lag_ms: u64,
}

/// What `cfs journal import -o json` prints.
#[derive(Debug, Deserialize)]
struct Summary {
    seen: u64,
    entries_appended: u64,
    skipped: u64,
}

/// Imports `tree` at the site of `config`, and waits until its peers have applied everything.
///
/// # Errors
/// When the import fails or a peer does not catch up.
pub async fn import(config: &Path, tree: &Path, inspect: &mut InspectClient<Channel>) -> anyhow::Result<Imported> {
    let total = WalkDir::new(tree).same_file_system(true).into_iter().count() as u64;
    let began = Instant::now();
    let child = Command::new(std::env::current_exe()?)
        .arg("--config")
        .arg(config)
        .args(["journal", "import", "-o", "json", "--tree"])
        .arg(tree)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut progress = Progress::new(total);
    let request = StatusRequest { cursors_only: true, ..StatusRequest::default() };
    let mut status = inspect.watch_status(request).await.map_err(client::failed("report its cursors"))?.into_inner();
    let ended = child.wait_with_output();
    tokio::pin!(ended);
    let mut ended_at: Option<Instant> = None;
    let mut summary = None;
    loop {
        tokio::select! {
            output = &mut ended, if summary.is_none() => {
                summary = Some(read_summary(&output?)?);
                ended_at = Some(Instant::now());
            }
            reply = status.message() => {
                let reply = reply.map_err(client::failed("report its cursors"))?.context("the shipper stopped reporting")?;
                progress.show(&reply);
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        if let (Some(summary), true) = (&summary, progress.everything_arrived()) {
            progress.bar.finish_and_clear();
            return Ok(Imported {
                seen: summary.seen,
                entries: summary.entries_appended,
                skipped: summary.skipped,
                seconds: began.elapsed().as_secs_f64(),
                max_lag_ms: progress.max_lag_ms,
            });
        }
        let late = ended_at.is_some_and(|at| at.elapsed() > CATCH_UP_LIMIT);
        anyhow::ensure!(!late, "the replica did not catch up within {CATCH_UP_LIMIT:?} after the import");
    }
}

fn read_summary(output: &std::process::Output) -> anyhow::Result<Summary> {
    let said = String::from_utf8_lossy(&output.stderr);
    // An import that had to leave something out ends with a failure too, but says what it did.
    let summary = serde_json::from_slice(&output.stdout);
    summary.map_err(|_| anyhow::anyhow!("the import failed ({}): {}", output.status, said.trim_end()))
}

/// Shows the newest state of the entries' journey.
struct Progress {
    bar: ProgressBar,
    total: u64,
    terminal: bool,
    line_at: Option<Instant>,
    max_lag_ms: u64,
    journalled: u64,
    applied: u64,
}

impl Progress {
    fn new(total: u64) -> Self {
        let template = "  {bar:30} {percent}% of about {human_len} entries, {per_sec}, {eta} left; {msg}";
        let bar = ProgressBar::new(total);
        let bar = match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        let terminal = std::io::stderr().is_terminal();
        Self { bar, total, terminal, line_at: None, max_lag_ms: 0, journalled: 0, applied: 0 }
    }

    fn show(&mut self, reply: &StatusReply) {
        // Whatever the newest stream is: there is only one of this site's that still grows.
        let of = |cursors: &[StreamCursor], site: u32, lsn: fn(&StreamCursor) -> u64| {
            cursors.iter().filter(|c| c.site == site).map(lsn).sum::<u64>()
        };
        self.journalled = of(&reply.cursors, reply.site_id, |c| c.source);
        let applied = reply.peers.iter().map(|peer| of(&peer.cursors, reply.site_id, |c| c.applied));
        self.applied = applied.min().unwrap_or(0);
        let lag_ms = reply.peers.iter().map(|peer| peer.lag_ms).max().unwrap_or(0);
        self.max_lag_ms = self.max_lag_ms.max(lag_ms);
        self.bar.set_position(self.applied);
        self.bar.set_message(format!("lag {lag_ms} ms"));
        let due = self.line_at.is_none_or(|at| at.elapsed() >= LINE_EVERY);
        if !self.terminal && due {
            self.line_at = Some(Instant::now());
            let (journalled, applied, total) = (self.journalled, self.applied, self.total);
            anstream::eprintln!(
                "  journalled {journalled} of about {total}, applied on the replica {applied}, lag {lag_ms} ms"
            );
        }
    }

    fn everything_arrived(&self) -> bool {
        self.journalled > 0 && self.applied >= self.journalled
    }
}
