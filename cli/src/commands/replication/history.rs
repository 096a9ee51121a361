//! `cfs admin replication history`.

use std::io::{self, Write};
use std::process::ExitCode;

use cfs_model::Epoch;
use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{AuditEvent, Change, FollowRequest, HistoryAnswer, HistoryQuery};
use serde::Serialize;

use super::ask::{self, Answer};
use super::change;
use super::gather::NEVER;
use super::status::duration_text;
use crate::Context;
use crate::output::{self, Document, Table};

/// Arguments of `cfs admin replication history`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many of the newest
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Every decision too, not only changes of primary
    #[arg(long)]
    events: bool,
    /// Show how an operation goes on until it is over
    #[arg(long, value_name = "OPERATION", conflicts_with_all = ["events", "limit"], value_parser = clap::value_parser!(u64).range(1..))]
    follow: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// When the control process refuses or cannot be reached.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    if let Some(op) = args.follow {
        return change::make(context, "follow", "follow the operation", Kind::Follow(FollowRequest { op })).await;
    }
    let request = HistoryQuery { limit: args.limit, events: args.events };
    let answer = ask::query::<HistoryAnswer>(context, Kind::History(request)).await?;
    output::print(context.format(), &History::of(answer, args.events))?;
    Ok(ExitCode::SUCCESS)
}

/// What happened, in the order of the answer.
#[derive(Debug, Serialize)]
pub(super) struct History {
    changes: Vec<ChangeView>,
    events: Vec<EventView>,
    /// Since this site heard the leader; null: never.
    age_ms: Option<u64>,
    answered_by: String,
    unreachable: Vec<String>,
    #[serde(skip)]
    with_events: bool,
}

#[derive(Debug, Serialize)]
struct ChangeView {
    /// Null: a founding has none.
    op: Option<u64>,
    kind: String,
    from: String,
    to: String,
    epoch_before: u64,
    epoch_after: u64,
    outcome: String,
    reason: String,
    evidence: String,
    /// Milliseconds since 1970.
    began_at_ms: i64,
    took_ms: u64,
    phases: Vec<PhaseView>,
    counted: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PhaseView {
    name: String,
    ms: u64,
}

#[derive(Debug, Serialize)]
struct EventView {
    index: u64,
    at_ms: i64,
    kind: String,
    site: String,
    epoch: u64,
    text: String,
    evidence: String,
    by: String,
}

impl ChangeView {
    fn of(change: Change) -> Self {
        Self {
            op: (change.op != 0).then_some(change.op),
            kind: change.kind,
            from: change.from,
            to: change.to,
            epoch_before: change.epoch_before,
            epoch_after: change.epoch_after,
            outcome: change.outcome,
            reason: change.reason,
            evidence: change.evidence,
            began_at_ms: change.began_at_ms,
            took_ms: change.took_ms,
            phases: change.phases.into_iter().map(|phase| PhaseView { name: phase.name, ms: phase.ms }).collect(),
            counted: change.counted,
        }
    }
}

impl EventView {
    fn of(event: AuditEvent) -> Self {
        Self {
            index: event.index,
            at_ms: event.at_ms,
            kind: event.kind,
            site: event.site,
            epoch: event.epoch,
            text: event.text,
            evidence: event.evidence,
            by: event.operator,
        }
    }
}

impl History {
    pub(super) fn of(answer: Answer<HistoryAnswer>, with_events: bool) -> Self {
        Self {
            changes: answer.body.changes.into_iter().map(ChangeView::of).collect(),
            events: answer.body.events.into_iter().map(EventView::of).collect(),
            age_ms: (answer.body.age_ms != NEVER).then_some(answer.body.age_ms),
            answered_by: answer.by,
            unreachable: answer.unreachable,
            with_events,
        }
    }

    fn write_changes(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.changes.is_empty() {
            return writeln!(out, "no change of primary yet");
        }
        let columns =
            [">OP", "BEGAN", "KIND", "FROM", "TO", "EPOCH", ">TOOK", "OUTCOME", "PHASES", "COUNTED", "REASON"];
        let mut table = Table::new(&columns);
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        for c in &self.changes {
            let phases: Vec<String> = c.phases.iter().map(|phase| format!("{} {}ms", phase.name, phase.ms)).collect();
            // One under way has opened none yet.
            let after = if c.epoch_after == 0 { "-".to_owned() } else { Epoch(c.epoch_after).to_string() };
            table.row([
                c.op.map_or_else(|| "-".to_owned(), |op| op.to_string()),
                moment(c.began_at_ms),
                c.kind.clone(),
                or_dash(&c.from),
                or_dash(&c.to),
                format!("{} -> {after}", Epoch(c.epoch_before)),
                format!("{}ms", c.took_ms),
                c.outcome.clone(),
                or_dash(&phases.join(", ")),
                or_dash(&c.counted.join(" ")),
                c.reason.clone(),
            ]);
        }
        table.write(out)
    }

    fn write_events(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out)?;
        let mut table = Table::new(&[">INDEX", "AT", "KIND", "SITE", "EPOCH", "BY", "WHAT", "EVIDENCE"]);
        for e in &self.events {
            table.row([
                e.index.to_string(),
                moment(e.at_ms),
                e.kind.clone(),
                e.site.clone(),
                Epoch(e.epoch).to_string(),
                e.by.clone(),
                e.text.clone(),
                e.evidence.clone(),
            ]);
        }
        table.write(out)
    }
}

impl Document for History {
    const SCHEMA: &'static str = "cfs.history/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        self.write_changes(out)?;
        if self.with_events {
            self.write_events(out)?;
        }
        let age = self.age_ms.map_or_else(
            || "a leader was never heard".to_owned(),
            |ms| format!("the leader was heard {} ago", duration_text(ms)),
        );
        if !self.unreachable.is_empty() {
            writeln!(out, "Unreachable: {}", self.unreachable.join(", "))?;
        }
        writeln!(out, "Answered by: {}; {age}", self.answered_by)
    }
}

/// A point in time, to the millisecond, in UTC.
pub(super) fn moment(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(moment) => moment.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        Err(_) => format!("@{ms}ms"),
    }
}

/// A point in time, to the microsecond, in UTC.
pub(super) fn moment_us(ns: i64) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(ns)) {
        Ok(moment) => moment.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        Err(_) => format!("@{ns}ns"),
    }
}
