//! `cfs admin replication lag`.

use std::io::{self, Write};
use std::process::ExitCode;

use cfs_rpc::v1::{PeerStatus, StatusReply, StreamCursor};
use serde::Serialize;

use super::watch::{self, Watch};
use crate::Context;
use crate::output::{Document, Table};

/// Data older than this is no evidence of the present: heartbeats come every second.
const FRESH_MS: u64 = 5_000;

const PRIMARY: &str = "PRIMARY";

/// Arguments of `cfs admin replication lag`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Again and again
    #[command(flatten)]
    watch: Watch,
}

#[derive(Debug, Serialize)]
struct Lag {
    site: String,
    sites: Vec<SiteLag>,
}

/// How far one site is behind, and how that is known.
#[derive(Debug, Serialize)]
struct SiteLag {
    site: String,
    /// Null: unknown.
    lag_ms: Option<u64>,
    /// `in sync`, `behind` or `unknown`.
    verdict: &'static str,
    /// What keeps the verdict from being better.
    why: String,
    source: Vec<Position>,
    applied: Vec<Position>,
    /// Age of what the verdict rests on; null: nothing was ever heard.
    age_ms: Option<u64>,
    reported_by: String,
}

#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
struct Position {
    stream: String,
    lsn: u64,
}

impl Position {
    fn all(cursors: &[StreamCursor], lsn: impl Fn(&StreamCursor) -> u64) -> Vec<Self> {
        let one = |c: &StreamCursor| Self { stream: format!("{}.{}", c.site, c.incarnation), lsn: lsn(c) };
        cursors.iter().map(one).collect()
    }
}

impl Lag {
    fn of(reply: &StatusReply) -> Self {
        let peers = reply.peers.iter().map(|peer| SiteLag::of_peer(peer, reply));
        Self { site: reply.site.clone(), sites: std::iter::once(SiteLag::of_self(reply)).chain(peers).collect() }
    }
}

impl SiteLag {
    /// This site knows its own position, but only fresh word from the others tells what it lacks.
    fn of_self(reply: &StatusReply) -> Self {
        // The primary is where entries come from: nobody can hold more.
        let silent = reply.peers.iter().find(|peer| reply.role != PRIMARY && !is_fresh(peer));
        let behind = reply.lag_ms > 0 || reply.cursors.iter().any(|c| c.applied < c.source);
        let (verdict, why) = match silent {
            _ if behind => ("behind", String::new()),
            Some(peer) => ("unknown", format!("{} is not heard and may hold more", peer.site)),
            None => ("in sync", String::new()),
        };
        Self {
            site: reply.site.clone(),
            lag_ms: Some(reply.lag_ms),
            verdict,
            why,
            source: Position::all(&reply.cursors, |c| c.source),
            applied: Position::all(&reply.cursors, |c| c.applied),
            age_ms: Some(reply.peers.iter().map(|peer| peer.heard_ms).max().unwrap_or(0)),
            reported_by: reply.site.clone(),
        }
    }

    fn of_peer(peer: &PeerStatus, reply: &StatusReply) -> Self {
        let applied_of = |of: &StreamCursor| {
            peer.cursors.iter().find(|c| (c.site, c.incarnation) == (of.site, of.incarnation)).map_or(0, |c| c.applied)
        };
        let behind = peer.lag_ms > 0 || reply.cursors.iter().any(|c| applied_of(c) < c.source);
        let (verdict, why) = if is_fresh(peer) {
            (if behind { "behind" } else { "in sync" }, String::new())
        } else if peer.lag_known {
            ("unknown", format!("last heard {}ms ago{}", peer.heard_ms, after_colon(&peer.why)))
        } else {
            ("unknown", format!("never heard{}", after_colon(&peer.why)))
        };
        Self {
            site: peer.site.clone(),
            lag_ms: peer.lag_known.then_some(peer.lag_ms),
            verdict,
            why,
            source: Position::all(&reply.cursors, |c| c.source),
            applied: Position::all(&reply.cursors, applied_of),
            age_ms: peer.lag_known.then_some(peer.heard_ms),
            reported_by: peer.site.clone(),
        }
    }
}

fn is_fresh(peer: &PeerStatus) -> bool {
    peer.lag_known && peer.state == "HEALTHY" && peer.heard_ms <= FRESH_MS
}

fn after_colon(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

impl Document for Lag {
    const SCHEMA: &'static str = "cfs.lag/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = ["SITE", ">LAG", "VERDICT", "SOURCE", "APPLIED", ">AGE OF DATA", "REPORTED BY", "WHY"];
        let mut table = Table::new(&columns);
        let milliseconds = |ms: Option<u64>| ms.map_or_else(|| "unknown".to_owned(), |ms| format!("{ms}ms"));
        for s in &self.sites {
            table.row([
                s.site.clone(),
                milliseconds(s.lag_ms),
                s.verdict.to_owned(),
                positions_text(&s.source),
                positions_text(&s.applied),
                milliseconds(s.age_ms),
                s.reported_by.clone(),
                s.why.clone(),
            ]);
        }
        table.write(out)
    }
}

fn positions_text(positions: &[Position]) -> String {
    let all: Vec<String> = positions.iter().map(|p| format!("{}@{}", p.stream, p.lsn)).collect();
    if all.is_empty() { "nothing yet".to_owned() } else { all.join(" ") }
}

/// Runs the command.
///
/// # Errors
/// When the shipper cannot be reached.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    watch::show_status(context, &args.watch, Lag::of).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(source: u64, applied: u64) -> StreamCursor {
        StreamCursor { site: 1, incarnation: 1, source, applied, ..StreamCursor::default() }
    }

    fn peer(state: &str, heard_ms: u64, applied: u64) -> PeerStatus {
        PeerStatus {
            site: "site-b".to_owned(),
            state: state.to_owned(),
            lag_known: heard_ms != u64::MAX,
            heard_ms,
            cursors: vec![cursor(applied, applied)],
            ..PeerStatus::default()
        }
    }

    fn verdicts(peer: PeerStatus) -> Vec<&'static str> {
        let reply = StatusReply { peers: vec![peer], cursors: vec![cursor(9, 9)], ..StatusReply::default() };
        Lag::of(&reply).sites.iter().map(|site| site.verdict).collect()
    }

    #[test]
    fn in_sync_is_never_said_without_evidence() {
        assert_eq!(verdicts(peer("HEALTHY", 10, 9)), ["in sync", "in sync"]);
        assert_eq!(verdicts(peer("HEALTHY", 10, 8)), ["in sync", "behind"]);
        assert_eq!(verdicts(peer("HEALTHY", FRESH_MS + 1, 9)), ["unknown", "unknown"]);
        assert_eq!(verdicts(peer("DOWN", 10, 9)), ["unknown", "unknown"]);
        assert_eq!(verdicts(peer("DOWN", u64::MAX, 0)), ["unknown", "unknown"]);
        let role = PRIMARY.to_owned();
        let reply = StatusReply {
            role,
            peers: vec![peer("DOWN", 9, 9)],
            cursors: vec![cursor(9, 9)],
            ..StatusReply::default()
        };
        assert_eq!(Lag::of(&reply).sites[0].verdict, "in sync");
    }
}
