//! `cfs admin meta consistency-check`.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use cfs_model::op::StreamPosition;
use cfs_rpc::v1::inspect_client::InspectClient;
use cfs_rpc::v1::{ConsistencyReply, ConsistencyRequest};
use serde::Serialize;
use tonic::transport::Channel;

use super::repair::{self, Step};
use crate::output::{self, Document, good_or_bad};
use crate::stream_names::StreamNames;
use crate::{Context, client};

const MATCH: &str = "MATCH";
const DIFFER: &str = "DIFFER";
const NOT_COMPARED: &str = "NOT COMPARED";
/// How often `--repair` looks again for what damage had hidden.
const MAX_ROUNDS: usize = 3;
/// What repairs a store as a whole.
pub(super) const REBUILD: &str = "cfs admin replication enroll --primary SITE --force-rebuild";
/// Exit code of NOT COMPARED: nothing is known.
const EXIT_NOT_COMPARED: u8 = 3;
/// How long nothing may show.
const QUIET: Duration = Duration::from_secs(3);

/// Arguments of `cfs admin meta consistency-check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Look at this site alone: its registers against the digest it keeps, and the structure
    #[arg(long)]
    local: bool,
    /// Repair what is found: damaged registers of this site from a site that verifies, and a structure that is not
    /// sound with entries that the primary writes
    #[arg(long, conflicts_with = "local")]
    repair: bool,
    /// How long to wait until the sites are at the same position
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// The outcome.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Who compared.
    pub site: String,
    /// `MATCH`, `DIFFER` or `NOT COMPARED`, over all sites.
    pub result: String,
    /// Why it is not `MATCH`.
    pub why: String,
    sites: Vec<SiteReport>,
    /// What is damaged in the store of the site that compared; empty: nothing was found.
    damage_here: String,
    /// Sites in whose store rows do not stand where their keys belong.
    disordered: Vec<String>,
    differing: Differing,
    structure: Structure,
    /// What `--repair` did before.
    #[serde(skip_serializing_if = "Option::is_none")]
    repairs: Option<Vec<Step>>,
    /// Of the streams compared.
    #[serde(skip)]
    names: StreamNames,
}

/// Inodes whose registers are not what they should be.
#[derive(Debug, Serialize)]
struct Differing {
    count: u64,
    /// Inodes that were being written whenever they were looked at.
    undecided: u64,
    /// Whether every difference led to an inode.
    complete: bool,
    /// At most 1000 of them.
    inodes: Vec<Inode>,
}

#[derive(Debug, Serialize)]
struct Inode {
    inode: u64,
    sites: Vec<String>,
    damaged: Vec<String>,
    why: String,
}

#[derive(Debug, Serialize)]
struct SiteReport {
    site: String,
    verdict: String,
    why: String,
    cursors: Vec<Cursor>,
    digest_here: String,
    digest_there: String,
}

#[derive(Debug, Serialize)]
struct Cursor {
    stream: String,
    lsn: u64,
}

#[derive(Debug, Serialize)]
struct Structure {
    sound: bool,
    inodes: u64,
    entries: u64,
    orphans: u64,
    dangling: u64,
    cycles: u64,
    problems: Vec<String>,
}

impl Cursor {
    fn of(position: &StreamPosition) -> Self {
        Self { stream: format!("{}.{}", position.site, position.incarnation), lsn: position.lsn }
    }
}

impl Report {
    fn of(reply: ConsistencyReply) -> Self {
        let (result, why) = verdict(&reply);
        let names = StreamNames::new([], compared(&reply));
        let sites = reply.sites.into_iter().map(|site| SiteReport {
            cursors: site.cursors.iter().map(Cursor::of).collect(),
            site: site.site,
            verdict: site.verdict,
            why: site.why,
            digest_here: site.digest_here,
            digest_there: site.digest_there,
        });
        let inodes = reply.differing.into_iter().map(|found| Inode {
            inode: found.inode,
            sites: found.sites,
            damaged: found.damaged,
            why: found.why,
        });
        Self {
            result: result.to_owned(),
            why,
            names,
            sites: sites.collect(),
            damage_here: reply.damage_here,
            disordered: reply.disordered,
            differing: Differing {
                count: reply.differing_count,
                undecided: reply.undecided_count,
                complete: reply.names_complete,
                inodes: inodes.collect(),
            },
            structure: Structure {
                sound: reply.structure_sound,
                inodes: reply.inodes,
                entries: reply.entries,
                orphans: reply.orphans,
                dangling: reply.dangling,
                cycles: reply.cycles,
                problems: reply.problems,
            },
            repairs: None,
            site: reply.site,
        }
    }

    /// Whether everything was compared and is the same.
    pub fn matches(&self) -> bool {
        self.result == MATCH
    }

    /// The line that scripts look for.
    pub fn result_line(&self) -> String {
        match self.result.as_str() {
            NOT_COMPARED => format!("RESULT: {NOT_COMPARED}({})", self.why),
            other => format!("RESULT: {other}"),
        }
    }

    fn write_damage(&self, out: &mut dyn Write) -> io::Result<()> {
        if !self.damage_here.is_empty() {
            writeln!(out, "{}: {}: {}", self.site, good_or_bad("DAMAGED", false), self.damage_here)?;
        }
        let d = &self.differing;
        for found in &d.inodes {
            let differs = preceded("; differs from ", &found.sites.join(", "));
            let damaged = preceded("; damaged at ", &found.damaged.join(", "));
            writeln!(out, "  inode {}: {}{differs}{damaged}", found.inode, found.why)?;
        }
        if d.count > d.inodes.len() as u64 {
            writeln!(out, "  ... and {} more inodes", d.count - d.inodes.len() as u64)?;
        }
        if d.undecided > 0 {
            writeln!(out, "  {} inodes were being written whenever they were looked at: check again", d.undecided)?;
        }
        Ok(())
    }

    /// What repairs the damage found, for the person who reads; nothing when nothing is to be repaired.
    fn next(&self) -> Option<String> {
        if !self.disordered.is_empty() {
            let sites = self.disordered.join(" and ");
            return Some(format!(
                "cfs admin meta consistency-check --repair on {sites}; where that does not help, {REBUILD}"
            ));
        }
        let Some(inode) = self.differing.inodes.first() else {
            // Only what another site holds tells which inode it is.
            let next =
                format!("cfs admin meta consistency-check, which names the inodes; where it does not, {REBUILD}");
            return (!self.damage_here.is_empty()).then_some(next);
        };
        let place = match &inode.damaged[..] {
            [] => "the site whose copy is wrong, with --from SITE --force if no other one verifies (compare `cfs admin meta \
                   lookup INODE --detailed` on both)"
                .to_owned(),
            damaged => damaged.join(" and "),
        };
        Some(format!("cfs admin replication resync --inode {} on {place}", inode.inode))
    }

    fn exit_code(&self) -> ExitCode {
        match self.result.as_str() {
            MATCH => ExitCode::SUCCESS,
            DIFFER => ExitCode::FAILURE,
            _ => ExitCode::from(EXIT_NOT_COMPARED),
        }
    }
}

fn compared(reply: &ConsistencyReply) -> BTreeSet<(u32, u64)> {
    reply.sites.iter().flat_map(|site| &site.cursors).map(|c| (c.site, c.incarnation)).collect()
}

/// The verdict over all sites and the reason for it. A difference outweighs everything; a site that was not compared
/// outweighs those that match; and comparing with nobody proves nothing.
fn verdict(reply: &ConsistencyReply) -> (&'static str, String) {
    let first = |wanted: &str| reply.sites.iter().find(|site| site.verdict == wanted);
    if !reply.damage_here.is_empty() {
        return (DIFFER, format!("{}, {}", reply.site, reply.damage_here));
    }
    if let Some(site) = first(DIFFER) {
        return (DIFFER, format!("{}, {}", site.site, site.why));
    }
    match reply.sites.iter().find(|site| site.verdict != MATCH) {
        Some(site) => (NOT_COMPARED, format!("{}, {}", site.site, site.why)),
        None if reply.sites.is_empty() => (NOT_COMPARED, format!("{}, it knows of no other site", reply.site)),
        None => (MATCH, String::new()),
    }
}

impl Document for Report {
    const SCHEMA: &'static str = "cfs.consistency-check/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        for site in &self.sites {
            let verdict = good_or_bad(&site.verdict, site.verdict == MATCH);
            let cursors: Vec<String> =
                site.cursors.iter().map(|c| format!("{}@{}", self.names.of_text(&c.stream), c.lsn)).collect();
            writeln!(out, "{}: {verdict}{}", site.site, preceded(": ", &site.why))?;
            writeln!(
                out,
                "  cursors compared: {}",
                if cursors.is_empty() { "none".to_owned() } else { cursors.join(" ") }
            )?;
            writeln!(out, "  digest here {}, there {}", or_none(&site.digest_here), or_none(&site.digest_there))?;
        }
        self.write_damage(out)?;
        let s = &self.structure;
        if !self.disordered.is_empty() && s.inodes == 0 {
            writeln!(out, "Structure: {}: rows do not stand in order", good_or_bad("NOT CHECKED", false))?;
            return writeln!(out, "{}", self.result_line());
        }
        writeln!(
            out,
            "Structure: {}: {} inodes, {} entries, {} orphans, {} dangling, {} cycles",
            good_or_bad(if s.sound { "sound" } else { "NOT SOUND" }, s.sound),
            s.inodes,
            s.entries,
            s.orphans,
            s.dangling,
            s.cycles
        )?;
        for problem in &s.problems {
            writeln!(out, "  {problem}")?;
        }
        writeln!(out, "{}", self.result_line())
    }
}

fn preceded(by: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{by}{text}") }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

/// Asks a site to compare itself.
///
/// # Errors
/// When the shipper cannot compare.
pub async fn ask(inspect: &mut InspectClient<Channel>, local: bool, timeout: Duration) -> anyhow::Result<Report> {
    found(inspect, local, timeout).await.map(Report::of)
}

/// The answer; says after a while why it takes so long.
async fn found(
    inspect: &mut InspectClient<Channel>,
    local: bool,
    timeout: Duration,
) -> anyhow::Result<ConsistencyReply> {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let asking = inspect.check_consistency(ConsistencyRequest { local, timeout_ms });
    tokio::pin!(asking);
    let reply = tokio::select! {
        reply = &mut asking => reply,
        () = tokio::time::sleep(QUIET) => {
            anstream::eprintln!("the sites are reading all their registers; that takes about a second for a million inodes ...");
            asking.await
        }
    };
    Ok(reply.map_err(client::failed("compare the sites"))?.into_inner())
}

/// Runs the command. Exits with 0 for MATCH, 1 for DIFFER, 3 for NOT COMPARED.
///
/// # Errors
/// When the shipper cannot be reached or cannot compare.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut inspect = client::inspect(context).await?;
    let timeout = Duration::from_secs(args.timeout);
    let mut reply = found(&mut inspect, args.local, timeout).await?;
    let mut repairs = None;
    if args.repair {
        let mut steps = Vec::new();
        // What was not found for damage near it shows when that is gone.
        for _ in 0..MAX_ROUNDS {
            let more = repair::repair(context, &mut inspect, &reply).await?;
            if more.is_empty() {
                break;
            }
            let goes_on = more.iter().any(|step| step.done) && !reply.disordered.is_empty();
            steps.extend(more);
            reply = found(&mut inspect, args.local, timeout).await?;
            if !goes_on {
                break;
            }
        }
        repairs = Some(steps);
    }
    let names = StreamNames::of_config(&context.config()?, compared(&reply));
    let report = Report { repairs, names, ..Report::of(reply) };
    output::print(context.format(), &report)?;
    if let Some(next) = report.next() {
        anstream::eprintln!("next: {next}");
    }
    if !report.structure.sound && report.disordered.is_empty() {
        anstream::eprintln!(
            "warning: the structure is not sound: entries or inodes hang in the air; `cfs admin meta lookup INODE --detailed` shows \
             which journal entries wrote them, `cfs admin meta consistency-check --repair` mends it"
        );
    }
    Ok(report.exit_code())
}

#[cfg(test)]
#[path = "consistency_check_tests.rs"]
mod tests;
