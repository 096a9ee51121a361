//! `cfs admin replication split-brain status`.

use std::io::{self, Write};
use std::process::ExitCode;

use cfs_model::Epoch;
use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{Side, SplitBrainAnswer, SplitBrainQuery};
use serde::Serialize;

use super::ask::{self, Answer};
use super::gather::NEVER;
use super::history::moment;
use crate::Context;
use crate::output::{self, Document, good_or_bad};

/// Verbs of `cfs admin replication split-brain`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show whether two sides act for this cluster, and what each holds; exits with 1 when they do
    Status,
}

impl Command {
    /// Runs the command.
    ///
    /// # Errors
    /// When the control process refuses or cannot be reached.
    pub async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let Self::Status = self;
        let answer = ask::query::<SplitBrainAnswer>(context, Kind::SplitBrain(SplitBrainQuery {})).await?;
        let report = SplitBrain::of(answer);
        output::print(context.format(), &report)?;
        Ok(if report.detected { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Whether two sides act.
#[derive(Debug, Serialize)]
pub(super) struct SplitBrain {
    /// As the metric `claudefs_replication_split_brain`: 1 or 0.
    split_brain: u8,
    pub(super) detected: bool,
    /// `none`, `detected` or `resolved`.
    state: String,
    /// Whether this site is fenced.
    fenced: bool,
    since_ms: Option<i64>,
    sides: Vec<SideView>,
    evidence: String,
    next: String,
    answered_by: String,
    unreachable: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SideView {
    site: String,
    group: u64,
    epoch: u64,
    primary: String,
    fenced: bool,
    /// Milliseconds since 1970; null: never, or not known.
    last_acknowledged_ms: Option<i64>,
    /// It may have acknowledged more after that: its shipper was started anew, and has forgotten.
    acknowledged_later: bool,
    /// When its last entry was written, by its stamp; null: never, or not known.
    written_ms: Option<i64>,
    /// Entries that the other side lacks; null: not known.
    unshared_entries: Option<u64>,
    /// Why that is not known.
    unshared_why: Option<String>,
    /// Whether it stores no data.
    witness: bool,
    /// Of what is told; null: never heard.
    age_ms: Option<u64>,
    members: Vec<String>,
    /// Why it does not answer; all above is what was last known of it. Null: it answers.
    unheard: Option<String>,
}

impl SideView {
    fn of(side: Side) -> Self {
        Self {
            site: side.site,
            group: side.group,
            epoch: side.epoch,
            primary: side.primary,
            fenced: side.fenced,
            last_acknowledged_ms: (side.last_acknowledged_ms != 0).then_some(side.last_acknowledged_ms),
            acknowledged_later: side.acknowledged_later,
            written_ms: (side.written_ms != 0).then_some(side.written_ms),
            unshared_entries: side.unshared_known.then_some(side.unshared_entries),
            unshared_why: Some(side.unshared_why).filter(|why| !why.is_empty() && !side.witness),
            witness: side.witness,
            age_ms: (side.age_ms != NEVER).then_some(side.age_ms),
            members: side.members,
            unheard: Some(side.unheard).filter(|why| !why.is_empty()),
        }
    }

    /// A site that does not answer: only what was last known of it.
    fn write_unheard(&self, why: &str, now_ms: i64, out: &mut dyn Write) -> io::Result<()> {
        let Some(age_ms) = self.age_ms else {
            writeln!(out, "Side of {}: never heard since this control process started", self.site)?;
            return writeln!(out, "  why: {why}");
        };
        let since = moment(now_ms.saturating_sub(i64::try_from(age_ms).unwrap_or(i64::MAX)));
        writeln!(out, "Side of {}: not heard since {since}", self.site)?;
        writeln!(out, "  why: {why}")?;
        if self.group == 0 {
            return writeln!(out, "  last known: it was not enrolled");
        }
        let primary = if self.primary.is_empty() { "nobody" } else { &self.primary };
        writeln!(out, "  last known: epoch {}, primary {primary}; it may have gone on since", Epoch(self.epoch))?;
        self.write_data(out)
    }

    /// When it acknowledged, and what it has alone. A shipper that was started again does not know when it acknowledged last,
    /// but its journal does know when it wrote.
    fn write_data(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.witness {
            return writeln!(out, "  stores no data");
        }
        let written = self.written_ms.map_or_else(|| "never, or not known".to_owned(), moment);
        match self.last_acknowledged_ms {
            Some(at) if self.acknowledged_later => {
                let at = moment(at);
                writeln!(out, "  last acknowledged: {at} or later: its shipper was started anew since it said so")?;
            }
            Some(at) => writeln!(out, "  last acknowledged: {}", moment(at))?,
            None if self.written_ms.is_some() => {
                writeln!(out, "  last acknowledged: not known, nothing since its shipper was started")?;
            }
            None => writeln!(out, "  last acknowledged: never, or not known")?,
        }
        writeln!(out, "  last entry written: {written}")?;
        match (&self.unshared_entries, &self.unshared_why) {
            (Some(count), _) => writeln!(out, "  unshared entries: {count}"),
            (None, Some(why)) => writeln!(out, "  unshared entries: not known: {why}"),
            (None, None) => writeln!(out, "  unshared entries: not known"),
        }
    }
}

impl SplitBrain {
    pub(super) fn of(answer: Answer<SplitBrainAnswer>) -> Self {
        let body = answer.body;
        Self {
            split_brain: u8::from(body.detected),
            detected: body.detected,
            state: body.state,
            fenced: body.fenced,
            since_ms: (body.since_ms != 0).then_some(body.since_ms),
            sides: body.sides.into_iter().map(SideView::of).collect(),
            evidence: body.evidence,
            next: body.next,
            answered_by: answer.by,
            unreachable: answer.unreachable,
        }
    }
}

impl Document for SplitBrain {
    const SCHEMA: &'static str = "cfs.split-brain/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Split-brain: {}", good_or_bad(&self.state, !self.detected))?;
        writeln!(out, "fenced={}", self.fenced)?;
        if let Some(since) = self.since_ms {
            writeln!(out, "Since: {}", moment(since))?;
        }
        let now_ms = jiff::Timestamp::now().as_millisecond();
        for side in &self.sides {
            if let Some(why) = &side.unheard {
                side.write_unheard(why, now_ms, out)?;
                continue;
            }
            let primary = if side.primary.is_empty() { "nobody" } else { &side.primary };
            writeln!(
                out,
                "Side of {}: epoch {}, primary {primary}, fenced={}",
                side.site,
                Epoch(side.epoch),
                side.fenced
            )?;
            side.write_data(out)?;
            writeln!(out, "  members: {}", side.members.join(", "))?;
            let age = side.age_ms.map_or_else(|| "never heard".to_owned(), |ms| format!("heard {ms}ms ago"));
            writeln!(out, "  as of: {age}")?;
        }
        if !self.evidence.is_empty() {
            writeln!(out, "Evidence: {}", self.evidence)?;
        }
        if !self.unreachable.is_empty() {
            writeln!(out, "Unreachable: {}", self.unreachable.join(", "))?;
        }
        writeln!(out, "Answered by: {}", self.answered_by)?;
        writeln!(out, "Next: {}", if self.next.is_empty() { "nothing to do" } else { &self.next })
    }
}
