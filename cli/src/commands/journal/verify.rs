//! `cfs journal verify`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use cfs_journal::compare::{self, Comparison, Outcome, StreamComparison};
use cfs_journal::verify::{self, Report};
use cfs_model::Lsn;
use serde::Serialize;

use crate::Context;
use crate::output::{self, Document, good_or_bad};

/// Arguments of `cfs journal verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A journal's directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Also compare it with this journal: what both hold must be the same bytes
    #[arg(long, value_name = "DIR2")]
    against: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Verification {
    ok: bool,
    journals: Vec<Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<Comparison>,
}

impl Document for Verification {
    const SCHEMA: &'static str = "cfs.verify/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        for report in &self.journals {
            let note = if report.in_use { " (in use: the ends may still move)" } else { "" };
            writeln!(out, "{}{note}", report.dir.display())?;
            write_streams(out, report)?;
        }
        if let Some(comparison) = &self.comparison {
            writeln!(out, "Comparison")?;
            for stream in &comparison.streams {
                writeln!(out, "  {}", comparison_line(stream))?;
            }
            for (only, which) in [(&comparison.only_left, "first"), (&comparison.only_right, "second")] {
                for stream in only {
                    writeln!(out, "  stream {stream}: in the {which} journal alone")?;
                }
            }
        }
        writeln!(out, "RESULT: {}", if self.ok { good_or_bad("OK", true) } else { good_or_bad("NOT OK", false) })
    }
}

fn write_streams(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    if report.streams.is_empty() {
        writeln!(out, "  no streams")?;
    }
    for s in &report.streams {
        writeln!(
            out,
            "  stream {}: LSN {} to {}, {} entries in {} batches, {} segments, {} bytes, chain {}",
            s.stream, s.first, s.last, s.entries, s.batches, s.segments, s.bytes, s.chain
        )?;
        if s.begins_after != Lsn::ZERO {
            writeln!(out, "    begins after LSN {}: retention removed what was before", s.begins_after)?;
        }
        if let Some(torn) = &s.torn {
            writeln!(out, "    torn tail after LSN {}: {} bytes: {}", torn.durable, torn.cut_bytes, torn.what)?;
        }
        for damage in &s.damage {
            writeln!(out, "    {}: {damage}", good_or_bad("DAMAGED", false))?;
        }
    }
    Ok(())
}

fn comparison_line(s: &StreamComparison) -> String {
    let outcome = match &s.outcome {
        Outcome::Same => format!("the same from LSN {} to {} in {} batches", s.from, s.to, s.batches),
        Outcome::NothingInCommon => "nothing in common".to_owned(),
        Outcome::Differ { lsn, what, .. } => format!("{} at LSN {lsn}: {what}", good_or_bad("DIFFER", false)),
        Outcome::Damaged(damage) => format!("{}: {damage}", good_or_bad("DAMAGED", false)),
    };
    format!("stream {}: {outcome}; the journals end at LSN {} and {}", s.stream, s.left_last, s.right_last)
}

/// Runs the command. Exits with 1 if anything is damaged or differs, or if there was nothing to look at or to compare.
///
/// # Errors
/// When a directory cannot be read, or holds no entry of any stream.
pub fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let mut journals = vec![verify::verify(&args.dir)?];
    let mut comparison = None;
    if let Some(other) = &args.against {
        journals.push(verify::verify(other)?);
        comparison = Some(compare::compare(&args.dir, other)?);
    }
    for (journal, dir) in journals.iter().zip([Some(&args.dir), args.against.as_ref()].into_iter().flatten()) {
        if journal.streams.iter().all(|stream| stream.entries == 0 && stream.damage.is_empty()) {
            anyhow::bail!(
                "{} holds no entry of any stream: nothing was verified; a site's journal is in STATE/journal \
                 (paths.journal in cfs config show)",
                dir.display()
            );
        }
    }
    let ok = journals.iter().all(Report::is_sound) && comparison.as_ref().is_none_or(Comparison::is_same);
    output::print(context.format(), &Verification { ok, journals, comparison })?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
