//! `cfs admin replication status`.

use std::io::{self, Write};
use std::process::ExitCode;

use cfs_model::Epoch;
use cfs_rpc::v1::{PeerStatus, ProcessUsage, StatusReply};
use serde::Serialize;

use super::cursor::StreamView;
use super::watch::{self, Watch};
use crate::Context;
use crate::output::{Document, good_or_bad};

/// Arguments of `cfs admin replication status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Again and again
    #[command(flatten)]
    watch: Watch,
}

/// A site's status.
#[derive(Debug, Serialize)]
pub struct Status {
    site: String,
    status: String,
    why: String,
    role: String,
    primary: String,
    epoch: u64,
    floor: u64,
    lag_ms: u64,
    peers: Vec<Peer>,
    unreachable: Vec<String>,
    streams: Vec<StreamView>,
    cluster: String,
    version: String,
    entries_appended: u64,
    entries_applied: u64,
    tombstones: u64,
    journal_bytes: u64,
    store_bytes: u64,
    disk_free_bytes: u64,
    process: Process,
}

#[derive(Debug, Serialize)]
struct Peer {
    site: String,
    state: String,
    why: String,
    /// Null: it was never heard.
    lag_ms: Option<u64>,
    heard_ms: Option<u64>,
    rtt_us: u64,
    sent_bytes: u64,
    received_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Process {
    pid: u32,
    uptime_ms: u64,
    cpu_s: f64,
    rss_bytes: u64,
    rss_peak_bytes: u64,
    mapped_bytes: u64,
}

impl Peer {
    fn of(peer: &PeerStatus) -> Self {
        Self {
            site: peer.site.clone(),
            state: peer.state.clone(),
            why: peer.why.clone(),
            lag_ms: peer.lag_known.then_some(peer.lag_ms),
            heard_ms: peer.lag_known.then_some(peer.heard_ms),
            rtt_us: peer.rtt_us,
            sent_bytes: peer.sent_bytes,
            received_bytes: peer.received_bytes,
        }
    }

    fn line(&self) -> String {
        let lag = self.lag_ms.map_or_else(|| "lag unknown: never heard".to_owned(), |lag| format!("lag {lag}ms"));
        let heard = self.heard_ms.map(|ms| format!(", heard {ms}ms ago")).unwrap_or_default();
        let why = if self.why.is_empty() { String::new() } else { format!(": {}", self.why) };
        format!("{} {lag}{heard}, round trip {}us{why}", self.site, self.rtt_us)
    }
}

impl Process {
    fn of(usage: &ProcessUsage) -> Self {
        Self {
            pid: usage.pid,
            uptime_ms: usage.uptime_ms,
            cpu_s: usage.cpu_s,
            rss_bytes: usage.rss_bytes,
            rss_peak_bytes: usage.rss_peak_bytes,
            mapped_bytes: usage.mapped_bytes,
        }
    }
}

impl Status {
    fn of(reply: &StatusReply) -> Self {
        Self {
            site: reply.site.clone(),
            status: reply.status.clone(),
            why: reply.why.clone(),
            role: reply.role.clone(),
            primary: reply.primary.clone(),
            epoch: reply.epoch,
            floor: reply.floor,
            lag_ms: reply.lag_ms,
            peers: reply.peers.iter().map(Peer::of).collect(),
            unreachable: reply.unreachable.clone(),
            streams: reply.cursors.iter().map(StreamView::of).collect(),
            cluster: reply.cluster.clone(),
            version: reply.version.clone(),
            entries_appended: reply.entries_appended,
            entries_applied: reply.entries_applied,
            tombstones: reply.tombstones,
            journal_bytes: reply.journal_bytes,
            store_bytes: reply.store_bytes,
            disk_free_bytes: reply.disk_free_bytes,
            process: Process::of(&reply.process.clone().unwrap_or_default()),
        }
    }

    fn peers_line(&self) -> String {
        let one = |peer: &Peer| format!("{} [{}]", peer.site, good_or_bad(&peer.state, peer.state == "HEALTHY"));
        let all: Vec<String> = self.peers.iter().map(one).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    }
}

impl Document for Status {
    const SCHEMA: &'static str = "cfs.status/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Site: {} (LOCAL)", self.site)?;
        writeln!(out, "Status: {}", good_or_bad(&self.status, self.status == "READY"))?;
        writeln!(out, "Role: {}", self.role)?;
        writeln!(out, "Lag: {}ms", self.lag_ms)?;
        writeln!(out, "Peers: {}", self.peers_line())?;
        writeln!(out, "Epoch: {}", Epoch(self.epoch))?;
        writeln!(out, "Primary: {}", if self.primary.is_empty() { "none known" } else { &self.primary })?;
        if !self.why.is_empty() {
            writeln!(out, "Why: {}", self.why)?;
        }
        for peer in &self.peers {
            writeln!(out, "Peer: {}", peer.line())?;
        }
        for stream in &self.streams {
            writeln!(out, "Stream: {}", stream.line())?;
        }
        writeln!(out, "Journal: {}", mebibytes(self.journal_bytes))?;
        writeln!(out, "Store: {}", mebibytes(self.store_bytes))?;
        writeln!(out, "Disk free: {}", mebibytes(self.disk_free_bytes))?;
        writeln!(
            out,
            "Process: pid {}, up {}s, CPU {:.1}s, memory {} (peak {})",
            self.process.pid,
            self.process.uptime_ms / 1000,
            self.process.cpu_s,
            mebibytes(self.process.rss_bytes),
            mebibytes(self.process.rss_peak_bytes)
        )?;
        writeln!(out, "Cluster: {}", self.cluster)?;
        writeln!(out, "Version: {}", self.version)
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1u32 << 20))
}

/// Runs the command.
///
/// # Errors
/// When the shipper cannot be reached.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    watch::show_status(context, &args.watch, Status::of).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, write_document};

    fn reply() -> StatusReply {
        let peer = PeerStatus {
            site: "site-b".to_owned(),
            state: "HEALTHY".to_owned(),
            lag_known: true,
            ..PeerStatus::default()
        };
        StatusReply {
            site: "site-a".to_owned(),
            status: "READY".to_owned(),
            role: "PRIMARY".to_owned(),
            epoch: 1,
            peers: vec![peer],
            ..StatusReply::default()
        }
    }

    fn written(format: Format) -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        write_document(&mut out, format, &Status::of(&reply())).expect("memory does not fail");
        String::from_utf8(out.into_inner()).expect("text")
    }

    #[test]
    fn the_table_begins_with_the_runbooks_lines() {
        let expected = "Site: site-a (LOCAL)\nStatus: READY\nRole: PRIMARY\nLag: 0ms\nPeers: site-b [HEALTHY]\n";
        let table = written(Format::Table);
        assert!(table.starts_with(expected), "{table}");
    }

    #[test]
    fn json_has_the_keys_that_scripts_rely_on() {
        let json: serde_json::Value = serde_json::from_str(&written(Format::Json)).expect("JSON");
        for key in ["schema", "site", "status", "role", "epoch", "lag_ms"] {
            assert!(!json[key].is_null(), "{key}");
        }
        assert_eq!((&json["peers"][0]["site"], &json["peers"][0]["state"]), (&"site-b".into(), &"HEALTHY".into()));
    }
}
