//! What `status` shows, for people. The first five lines are the runbook's.

use std::io::{self, Write};

use cfs_model::Epoch;

use super::view::{Process, Status};
use crate::commands::replication::gather::{CONTROL_UNIT, FRESH_MS, NOW_MS, SHIPPER_UNIT, bring_back};
use crate::commands::replication::picture::{HEALTHY, Peer, READY, REMOVED};
use crate::output::{Document, Table, good_or_bad};

impl Document for Status {
    const SCHEMA: &'static str = "cfs.status/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Site: {} (LOCAL)", self.site)?;
        writeln!(out, "Status: {}", good_or_bad(&self.status, self.status == READY))?;
        writeln!(out, "Role: {}", self.role)?;
        writeln!(out, "Lag: {}", self.lag.text())?;
        writeln!(out, "Peers: {}", self.peers_line())?;
        if !self.why.is_empty() {
            writeln!(out, "Why: {}", self.why)?;
        }
        writeln!(out, "As of: {}", self.as_of())?;
        writeln!(out, "Epoch: {}", Epoch(self.epoch))?;
        let primary = if self.primary.is_empty() { "none known" } else { &self.primary };
        let before = if self.fenced_off { ", before this site was fenced" } else { "" };
        writeln!(out, "Primary: {primary}{before}")?;
        self.write_control(out)?;
        self.write_trouble(out)?;
        for peer in &self.peers {
            writeln!(out, "Peer: {}", peer.line())?;
        }
        self.write_shipper(out)?;
        if self.detailed {
            self.write_sites(out)?;
        }
        if !self.unreachable.is_empty() {
            writeln!(out, "Unreachable: {}", self.unreachable.join(", "))?;
        }
        writeln!(out, "Cluster: {}", self.cluster)?;
        writeln!(out, "Version: {}", self.version)?;
        writeln!(out, "Answered by: {}", self.answered_by_text())?;
        writeln!(out, "Next: {}", if self.next.is_empty() { "nothing to do" } else { &self.next })
    }
}

impl Status {
    fn peers_line(&self) -> String {
        let one = |peer: &Peer| format!("{} [{}]", peer.site, good_or_bad(&peer.state, peer.state == HEALTHY));
        let all: Vec<String> = self.peers.iter().map(one).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    }

    /// How old the cluster's part of this is.
    fn as_of(&self) -> String {
        let leader = self.leader.as_deref().filter(|site| !site.is_empty());
        match (self.control.answers, self.leader_age_ms) {
            (false, _) => format!("now, on the word of this site's shipper alone: {CONTROL_UNIT} does not answer"),
            (_, Some(age)) if age <= NOW_MS => "now".to_owned(),
            (_, Some(age)) if leader == Some(self.site.as_str()) => {
                format!("a majority followed this site's control process {} ago", duration_text(age))
            }
            (_, Some(age)) => {
                format!("heard from the leader ({}) {} ago", leader.unwrap_or("none known now"), duration_text(age))
            }
            (_, None) => "no leader was heard since this site's control process started".to_owned(),
        }
    }

    fn answered_by_text(&self) -> String {
        let control = self.answered_by.as_ref().map(|site| format!("{CONTROL_UNIT} of {site}"));
        let shipper = self.shipper.answers.then(|| format!("{SHIPPER_UNIT} of {}", self.site));
        let all: Vec<String> = control.into_iter().chain(shipper).collect();
        all.join(", ")
    }

    /// What only the control process knows.
    fn write_control(&self, out: &mut dyn Write) -> io::Result<()> {
        if !self.control.answers {
            writeln!(out, "Control: {} does not answer: {}", CONTROL_UNIT, self.control.error)?;
            return writeln!(
                out,
                "Lease, leader, quorum: not known without it; next: {}",
                bring_back(CONTROL_UNIT, &self.control.error)
            );
        }
        writeln!(out, "Lease: {}", self.lease_text())?;
        if self.active_active == Some(true) {
            let policy = self.partition_policy.as_deref().unwrap_or_default();
            writeln!(out, "Active-active: on, every data site takes appends (partition_policy: {policy})")?;
        }
        let why = self.why_not_automatic.as_deref().filter(|why| !why.is_empty()).unwrap_or("no reason was given");
        match self.automatic {
            _ if self.fenced_off => writeln!(out, "Failover: n/a (this site is fenced)")?,
            _ if self.status == REMOVED => writeln!(out, "Failover: n/a (this site takes no part)")?,
            Some(true) => writeln!(out, "Failover: automatic")?,
            _ => writeln!(out, "Failover: by hand: {why}")?,
        }
        let durability = self.durability.as_deref().filter(|text| !text.is_empty()).unwrap_or("not known");
        writeln!(out, "Durability: {durability}")?;
        let leader = self.leader.as_deref().filter(|site| !site.is_empty()).unwrap_or("none known");
        let quorum = self.quorum.as_deref().unwrap_or_default();
        let followed = leader != self.site || quorum == "ok";
        writeln!(out, "Leader: {leader}{}", if followed { "" } else { ", which no majority follows" })?;
        match quorum {
            _ if self.fenced_off => writeln!(out, "Quorum: n/a (this site is fenced)")?,
            _ if self.status == REMOVED => writeln!(out, "Quorum: n/a (this site takes no part)")?,
            "ok" => writeln!(out, "Quorum: ok")?,
            "" => writeln!(out, "Quorum: none known")?,
            awaited => writeln!(out, "Quorum: none; awaited: {awaited}")?,
        }
        match &self.operation {
            Some(operation) => writeln!(out, "Operation: {} in progress: {}", operation.op, operation.text),
            None => writeln!(out, "Operation: none in progress"),
        }
    }

    fn lease_text(&self) -> String {
        let Some(lease) = &self.lease else { return "not known".to_owned() };
        let holder = if self.primary.is_empty() { "the primary" } else { &self.primary };
        match (lease.held, self.primary == self.site) {
            (false, false) if self.leader_age_ms.is_none_or(|ms| ms > FRESH_MS) => {
                format!("not known: this site hears no leader, and {holder} may hold one")
            }
            (false, _) => format!("not held (it is {}ms when granted)", lease.lease_ms),
            (true, true) => format!("held by {holder}, {}ms of {}ms left", lease.left_ms, lease.lease_ms),
            (true, false) => {
                format!("held by {holder}, {}ms of {}ms left as last reported", lease.left_ms, lease.lease_ms)
            }
        }
    }

    fn write_trouble(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.split_brain {
            Some(true) => writeln!(
                out,
                "Split-brain: {}; see `cfs admin replication split-brain status`",
                good_or_bad("DETECTED", false)
            )?,
            Some(false) => writeln!(out, "Split-brain: none")?,
            None => writeln!(out, "Split-brain: not known without the control process")?,
        }
        for warning in &self.warnings {
            writeln!(out, "Warning: {warning}")?;
        }
        Ok(())
    }

    /// What only the shipper knows.
    fn write_shipper(&self, out: &mut dyn Write) -> io::Result<()> {
        if !self.shipper.answers {
            if self.witness {
                return Ok(());
            }
            return writeln!(
                out,
                "Shipper: {} does not answer: {}; next: {}",
                SHIPPER_UNIT,
                self.shipper.error,
                bring_back(SHIPPER_UNIT, &self.shipper.error)
            );
        }
        for stream in &self.streams {
            writeln!(out, "Stream: {}", stream.line())?;
        }
        for (name, bytes) in
            [("Journal", self.journal_bytes), ("Store", self.store_bytes), ("Disk free", self.disk_free_bytes)]
        {
            writeln!(out, "{name}: {}", mebibytes(bytes.unwrap_or_default()))?;
        }
        write_process(out, "Process", self.process.as_ref())?;
        if self.detailed {
            write_process(out, "Control process", self.control_process.as_ref())?;
        }
        Ok(())
    }

    fn write_sites(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out)?;
        let columns = [
            "SITE",
            "STATE",
            "ROLE",
            ">EPOCH",
            ">FLOOR",
            ">LAG",
            "VOTE",
            "COUNTS",
            ">AGE",
            ">SKEW",
            ">RTT",
            "VERSION",
            ">LEVEL",
            "STREAM@DURABLE/APPLIED",
            "WHY",
        ];
        let mut table = Table::new(&columns);
        let or_unknown = |ms: Option<u64>| ms.map_or_else(|| "unknown".to_owned(), |ms| format!("{ms}ms"));
        for s in &self.sites {
            let vote = match (s.leader, s.voter, s.enrolled) {
                (true, _, _) => "leader",
                (_, true, _) => "voter",
                (_, _, true) => "learner",
                _ => "none",
            };
            let lag = if s.witness { "n/a".to_owned() } else { or_unknown(s.lag_ms) };
            table.row([
                s.site.clone(),
                s.state.clone(),
                s.role.clone(),
                Epoch(s.epoch).to_string(),
                Epoch(s.floor).to_string(),
                lag,
                vote.to_owned(),
                if s.counts { "yes" } else { "no" }.to_owned(),
                or_unknown(s.age_ms),
                s.clock_skew_ms.map_or_else(|| "n/a".to_owned(), |ms| format!("{ms}ms")),
                format!("{}us", s.rtt_us),
                s.version.clone(),
                s.level.map_or_else(|| "-".to_owned(), |level| level.to_string()),
                s.positions_text(),
                s.why.clone(),
            ]);
        }
        table.write(out)?;
        if let Some(level) = self.level {
            writeln!(out, "Level: {level}, which every site knows")?;
        }
        for heard in &self.reach {
            let age = heard.age_ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms}ms ago"));
            let good = heard.age_ms.is_some_and(|ms| ms <= FRESH_MS);
            writeln!(out, "Heard: {} -> {} ({}): {}", heard.to, heard.from, heard.processes, good_or_bad(&age, good))?;
        }
        Ok(())
    }
}

fn write_process(out: &mut dyn Write, name: &str, process: Option<&Process>) -> io::Result<()> {
    let Some(process) = process else { return Ok(()) };
    writeln!(
        out,
        "{name}: pid {}, up {}s, CPU {:.1}s, memory {} (peak {})",
        process.pid,
        process.uptime_ms / 1000,
        process.cpu_s,
        mebibytes(process.rss_bytes),
        mebibytes(process.rss_peak_bytes)
    )
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1u32 << 20))
}

/// `340 ms`, `12 s`, `5 min`.
pub(in crate::commands::replication) fn duration_text(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}
