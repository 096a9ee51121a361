//! `cfs admin replication lag`.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::gather::{Gathered, gather};
use super::picture::Picture;
use super::watch::{self, Watch};
use crate::Context;
use crate::output::{Document, Table};
use crate::stream_names::StreamNames;

mod evidence;

use evidence::{Evidence, Positions, Standing};

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
    /// Sites of which nothing recent is known.
    unreachable: Vec<String>,
    /// The site whose control process answered; null: none did.
    answered_by: Option<String>,
}

/// How far one site is behind, and how that is known.
#[derive(Debug, Serialize)]
struct SiteLag {
    site: String,
    /// Null: unknown.
    lag_ms: Option<u64>,
    /// `in sync`, `behind`, `fenced`, `no shipper`, `not heard` or `unknown`.
    verdict: &'static str,
    /// What keeps the verdict from being better.
    why: String,
    source: Vec<Position>,
    /// Where the site is, as last known; null: that was never known.
    applied: Option<Vec<Position>>,
    /// Age of `applied`; null: nothing was ever heard.
    age_ms: Option<u64>,
    reported_by: String,
}

#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
struct Position {
    stream: String,
    lsn: u64,
    /// What people call the stream.
    #[serde(skip)]
    name: String,
}

impl Position {
    fn all(positions: &Positions, names: &StreamNames) -> Vec<Self> {
        let one = |(&(site, incarnation), &lsn): (&(u32, u64), &u64)| Self {
            stream: format!("{site}.{incarnation}"),
            lsn,
            name: names.name(site, incarnation),
        };
        positions.iter().map(one).collect()
    }
}

/// How far each site is behind.
pub(super) fn document(gathered: &Gathered) -> impl Document + use<> {
    Lag::of(gathered)
}

impl Lag {
    fn of(gathered: &Gathered) -> Self {
        let picture = Picture::of(gathered);
        let (ends, mut known) = evidence::collect(gathered);
        for peer in picture.peers.iter().filter(|peer| !peer.witness) {
            if !known.iter().any(|site| site.site == peer.site) {
                known.push(Evidence { standing: Standing::Never(peer.why.clone()), ..Evidence::none(&peer.site) });
            }
        }
        let names = StreamNames::new(evidence::site_names(gathered), ends.keys().copied());
        Self {
            site: picture.site.clone(),
            sites: known.into_iter().map(|site| SiteLag::of(site, &ends, &names)).collect(),
            unreachable: picture.silent(),
            answered_by: gathered.control.as_ref().map(|answer| answer.by.clone()),
        }
    }
}

impl SiteLag {
    fn of(known: Evidence, ends: &Positions, names: &StreamNames) -> Self {
        let (verdict, why) = known.verdict(ends);
        // A site that has said where it is and did not speak of a stream holds nothing of it.
        let at = |applied: &Positions| ends.keys().map(|s| (*s, applied.get(s).copied().unwrap_or(0))).collect();
        Self {
            verdict,
            why,
            source: Position::all(ends, names),
            applied: known.applied.as_ref().map(|applied| Position::all(&at(applied), names)),
            age_ms: known.age_ms.filter(|_| known.applied.is_some() || known.lag_ms.is_some()),
            lag_ms: known.lag_ms,
            site: known.site,
            reported_by: known.reported_by,
        }
    }
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
                s.applied.as_ref().map_or_else(|| "-".to_owned(), |applied| positions_text(applied)),
                milliseconds(s.age_ms),
                s.reported_by.clone(),
                s.why.clone(),
            ]);
        }
        table.write(out)?;
        if self.unreachable.is_empty() { Ok(()) } else { writeln!(out, "Unreachable: {}", self.unreachable.join(", ")) }
    }
}

fn positions_text(positions: &[Position]) -> String {
    let all: Vec<String> = positions.iter().map(|p| format!("{}@{}", p.name, p.lsn)).collect();
    if all.is_empty() { "nothing yet".to_owned() } else { all.join(" ") }
}

/// Runs the command.
///
/// # Errors
/// When neither the control process nor the shipper of this site answers.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    watch::show(context, &args.watch, async || Ok(Lag::of(&gather(context, false).await?))).await
}

#[cfg(test)]
#[path = "lag_tests.rs"]
mod tests;
