//! The verdict and what it rests on.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::EXIT_UNKNOWN;
use super::checks::{LAG_CRITICAL_MS, LAG_WARNING_MS, SKEW_MS};
use super::finding::{CHECKS, Finding, LAG, Level, NOTHING_ANSWERS, Rests};
use super::rows::{Row, rows};
use crate::commands::replication::gather::{CONTROL_UNIT, Gathered, NEVER, SHIPPER_UNIT, bring_back};
use crate::commands::replication::picture::{HEALTHY, NOT_ENROLLED, Peer, Picture, READY};
use crate::output::{Document, Table, good_or_bad};

/// How all sites are.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    pub(super) site: String,
    pub(super) verdict: Level,
    all_sites_healthy: bool,
    sites: Vec<SiteHealth>,
    pub(super) findings: Vec<Finding>,
    checks: Vec<Check>,
    metrics: Vec<Row>,
    reach: Vec<Heard>,
    answered_by: Option<String>,
    unreachable: Vec<String>,
    #[serde(skip)]
    detailed: bool,
}

#[derive(Debug, Serialize)]
struct SiteHealth {
    site: String,
    state: String,
    role: String,
    witness: bool,
    lag_ms: Option<u64>,
    heard_ms: Option<u64>,
    why: String,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    code: &'static str,
    expected: &'static str,
    level: Level,
}

#[derive(Debug, Serialize)]
struct Heard {
    from: String,
    to: String,
    processes: &'static str,
    age_ms: Option<u64>,
}

impl SiteHealth {
    fn here(picture: &Picture) -> Self {
        Self {
            site: picture.site.clone(),
            state: if picture.state == READY { HEALTHY.to_owned() } else { picture.state.clone() },
            role: picture.role.clone(),
            witness: picture.witness,
            lag_ms: picture.lag.ms(),
            heard_ms: Some(0),
            why: picture.why.clone(),
        }
    }

    fn of(peer: &Peer) -> Self {
        Self {
            site: peer.site.clone(),
            state: peer.state.clone(),
            role: peer.role.clone(),
            witness: peer.witness,
            lag_ms: peer.lag_ms,
            heard_ms: peer.heard_ms,
            why: peer.why.clone(),
        }
    }

    fn line(&self) -> String {
        let lag = match (self.witness, self.lag_ms) {
            (true, _) => "n/a".to_owned(),
            (_, Some(lag)) => format!("{lag}ms"),
            (_, None) => "unknown".to_owned(),
        };
        let heard = self.heard_ms.map_or_else(|| "never heard".to_owned(), |ms| format!("heard {ms}ms ago"));
        let why = if self.why.is_empty() { String::new() } else { format!(": {}", self.why) };
        let role = if self.role.is_empty() { String::new() } else { format!(" {}", self.role) };
        format!("{}: {}{role}, lag {lag}, {heard}{why}", self.site, good_or_bad(&self.state, self.state == HEALTHY))
    }
}

impl Health {
    pub(super) fn of(gathered: &Gathered, picture: &Picture, findings: Vec<Finding>, detailed: bool) -> Self {
        let sites: Vec<SiteHealth> =
            std::iter::once(SiteHealth::here(picture)).chain(picture.peers.iter().map(SiteHealth::of)).collect();
        let answer = gathered.control.as_ref();
        let heard = |reach: &cfs_rpc::v1::Reach| Heard {
            from: reach.from.clone(),
            to: reach.to.clone(),
            processes: if reach.shippers { "shipper" } else { "control" },
            age_ms: (reach.age_ms != NEVER).then_some(reach.age_ms),
        };
        let told = answer.map(|answer| answer.unreachable.clone()).unwrap_or_default();
        let mut unreachable = [told, picture.silent()].concat();
        unreachable.sort();
        unreachable.dedup();
        Self {
            site: picture.site.clone(),
            verdict: findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok),
            all_sites_healthy: sites.iter().all(|site| site.state == HEALTHY),
            sites,
            checks: checks(&findings, gathered, picture),
            metrics: rows(gathered, picture),
            findings,
            reach: answer.map(|answer| answer.body.reach.iter().map(heard).collect()).unwrap_or_default(),
            answered_by: answer.map(|answer| answer.by.clone()),
            unreachable,
            detailed,
        }
    }

    /// Nothing is known, because nobody answers; but for this site's own certificates, if they are why. Without a `site` there is
    /// no configuration that could be used.
    pub(super) fn unknown(site: Option<&str>, why: &str, certificates: Option<Finding>) -> Self {
        let finding = Finding {
            code: NOTHING_ANSWERS,
            level: Level::Unknown,
            site: site.unwrap_or_default().to_owned(),
            reason: why.to_owned(),
            impact: "nothing can be said about any site".to_owned(),
            next: match site {
                Some(_) => {
                    format!("{}, or ask on another site", bring_back(&format!("{CONTROL_UNIT} {SHIPPER_UNIT}"), why))
                }
                None => "cfs config check".to_owned(),
            },
        };
        let findings: Vec<Finding> = certificates.into_iter().chain([finding]).collect();
        Self {
            site: site.unwrap_or_default().to_owned(),
            verdict: findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Unknown),
            all_sites_healthy: false,
            sites: Vec::new(),
            findings,
            checks: Vec::new(),
            metrics: Vec::new(),
            reach: Vec::new(),
            answered_by: None,
            unreachable: Vec::new(),
            detailed: false,
        }
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        match self.verdict {
            Level::Ok => ExitCode::SUCCESS,
            Level::Warning => ExitCode::from(1),
            Level::Critical => ExitCode::from(2),
            Level::Unknown => ExitCode::from(EXIT_UNKNOWN),
        }
    }

    fn write_details(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Limits: lag {LAG_WARNING_MS}ms warning, {LAG_CRITICAL_MS}ms critical; clock skew {SKEW_MS}ms")?;
        for check in &self.checks {
            let level = good_or_bad(check.level.text(), check.level == Level::Ok);
            writeln!(out, "Check: {} {level}: {}", check.code, check.expected)?;
        }
        let mut table = Table::new(&["METRIC", "OF", ">VALUE", ">HEALTHY", ">WARNING", ">CRITICAL", "LEVEL"]);
        self.metrics.iter().for_each(|row| table.row(row.cells()));
        table.write(out)?;
        for heard in &self.reach {
            let age = heard.age_ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms}ms ago"));
            writeln!(out, "Heard: {} -> {} ({}): {age}", heard.to, heard.from, heard.processes)?;
        }
        Ok(())
    }
}

/// What was found, and for what nobody could look at: that it is not known.
fn checks(findings: &[Finding], gathered: &Gathered, picture: &Picture) -> Vec<Check> {
    let control = gathered.control.is_some() && picture.state != NOT_ENROLLED;
    let shipper = gathered.shipper.is_some() || picture.witness;
    let looked_at = |rests: Rests| match rests {
        Rests::Anybody => true,
        Rests::Control => control,
        Rests::Shipper => shipper,
        Rests::Both => control && shipper,
    };
    let found = |code: &str| findings.iter().filter(|f| f.code == code).map(|f| f.level).max();
    let level = |code: &str, rests| found(code).unwrap_or(if looked_at(rests) { Level::Ok } else { Level::Unknown });
    CHECKS.iter().map(|(code, expected, rests)| Check { code, expected, level: level(code, *rests) }).collect()
}

impl Document for Health {
    const SCHEMA: &'static str = "cfs.health/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Health: {}", good_or_bad(self.verdict.text(), self.verdict == Level::Ok))?;
        if !self.sites.is_empty() {
            let ill = self.sites.iter().filter(|site| site.state != HEALTHY);
            let lags = self.findings.iter().filter(|f| f.code == LAG && f.level == Level::Critical);
            let lags = lags.map(|finding| format!("{} lags", finding.site));
            let ill: Vec<String> = ill.map(|site| format!("{} {}", site.site, site.state)).chain(lags).collect();
            match ill.as_slice() {
                [] => writeln!(out, "All sites: {}", good_or_bad(HEALTHY, true))?,
                ill => writeln!(out, "All sites: {}: {}", good_or_bad("NOT HEALTHY", false), ill.join(", "))?,
            }
        }
        for site in &self.sites {
            writeln!(out, "  {}", site.line())?;
        }
        for finding in &self.findings {
            writeln!(out, "{} {}: {}", good_or_bad(finding.level.text(), false), finding.code, finding.reason)?;
            writeln!(out, "  impact: {}", finding.impact)?;
            writeln!(out, "  next: {}", finding.next)?;
        }
        if self.detailed {
            self.write_details(out)?;
        }
        if !self.unreachable.is_empty() {
            writeln!(out, "Unreachable: {}", self.unreachable.join(", "))?;
        }
        writeln!(out, "Answered by: {}", self.answered_by.as_deref().unwrap_or("no control process"))
    }
}
