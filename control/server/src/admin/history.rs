//! Changes of primary, past and under way.

use std::sync::Arc;
use std::time::Duration;

use cfs_control_core::State;
use cfs_control_core::state::{Event, Finished};
use cfs_rpc::v1;
use cfs_rpc::v1::admin_reply::Kind as Reply;

use super::{Out, failure};
use crate::control::Control;

const DEFAULT_LIMIT: u32 = 50;
/// An operation that is followed is told of at least so often.
const TELL: Duration = Duration::from_millis(500);

pub(super) async fn show(control: &Arc<Control>, query: &v1::HistoryQuery, out: &Out) {
    out.send(Reply::History(answer(control, query))).await;
    out.done(v1::Done::default()).await;
}

/// What this site knows.
pub(super) fn answer(control: &Control, query: &v1::HistoryQuery) -> v1::HistoryAnswer {
    let state = control.state();
    let limit = if query.limit == 0 { DEFAULT_LIMIT } else { query.limit } as usize;
    let mut changes: Vec<v1::Change> = state.changes.iter().rev().take(limit).map(|c| change(&state, c)).collect();
    changes.reverse();
    if let Some(running) = &state.operation {
        changes.push(v1::Change {
            op: running.op,
            kind: running.change.word().into(),
            from: state.primary.map(|id| state.name_of(id)).unwrap_or_default(),
            to: running.change.target().map(|id| state.name_of(id)).unwrap_or_default(),
            epoch_before: state.epoch.0,
            outcome: "in progress".into(),
            reason: running.reason.clone(),
            evidence: running.evidence.clone(),
            began_at_ms: signed(running.began_at_ms),
            took_ms: control.wall_ms().saturating_sub(running.began_at_ms),
            ..v1::Change::default()
        });
    }
    let mut events: Vec<v1::AuditEvent> = Vec::new();
    if query.events {
        events = state.events.iter().rev().take(limit).map(|e| event(&state, e)).collect();
        events.reverse();
    }
    let age_ms = control.node().map_or(u64::MAX, |node| node.led_age_ms());
    v1::HistoryAnswer { changes, events, age_ms }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// A finished change as it is shown.
pub(super) fn change(state: &State, finished: &Finished) -> v1::Change {
    let name = |id: Option<cfs_model::SiteId>| id.map(|id| state.name_of(id)).unwrap_or_default();
    v1::Change {
        op: finished.op,
        kind: finished.kind.clone(),
        from: name(finished.from),
        to: name(finished.to),
        epoch_before: finished.before.0,
        epoch_after: finished.after.0,
        outcome: finished.outcome.clone(),
        reason: finished.reason.clone(),
        evidence: finished.evidence.clone(),
        began_at_ms: signed(finished.began_at_ms),
        took_ms: finished.phases.iter().map(|(_, ms)| ms).sum(),
        phases: finished.phases.iter().map(|(name, ms)| v1::Phase { name: name.clone(), ms: *ms }).collect(),
        counted: finished.counted.iter().map(|id| state.name_of(*id)).collect(),
    }
}

fn event(state: &State, event: &Event) -> v1::AuditEvent {
    v1::AuditEvent {
        index: event.index,
        at_ms: signed(event.at_ms),
        kind: event.what.clone(),
        site: if event.site.0 == 0 { String::new() } else { state.name_of(event.site) },
        epoch: event.epoch.0,
        text: event.text.clone(),
        evidence: event.evidence.clone(),
        operator: event.by.clone(),
    }
}

/// Tells of an operation until it is over.
pub(super) async fn follow(control: &Arc<Control>, op: u64, out: &Out) {
    let began = control.boot_ms();
    loop {
        let state = control.state();
        if let Some(finished) = state.changes.iter().find(|change| change.op == op && op > 0) {
            return out.done(ended(&state, finished)).await;
        }
        let running = state.operation.as_ref().filter(|running| running.op == op);
        if running.is_none() && state.last_op >= op {
            let why = format!("operation {op} is not remembered");
            return out.failed(failure("UNKNOWN_OPERATION", "follow", why, "cfs admin replication history")).await;
        }
        if running.is_none() && state.moving.is_none() {
            let why = format!("there is no operation {op}");
            return out.failed(failure("UNKNOWN_OPERATION", "follow", why, "cfs admin replication history")).await;
        }
        let (phase, text) = match control.lead().map(|lead| lead.coordinator().doing(control.boot_ms())) {
            Some(text) if !text.is_empty() => ("running", text),
            _ => ("running", format!("operation {op} is under way")),
        };
        out.progress(phase, text, op, control.boot_ms().saturating_sub(began)).await;
        if out.replies.is_closed() {
            return;
        }
        let node = control.node();
        tokio::select! {
            () = crate::attend::applied(node.as_deref()) => {}
            () = tokio::time::sleep(TELL) => {}
        }
    }
}

/// How an operation ended.
pub(super) fn ended(state: &State, finished: &Finished) -> v1::Done {
    let name = |id: Option<cfs_model::SiteId>| id.map(|id| state.name_of(id)).unwrap_or_default();
    let (from, to) = (name(finished.from), name(finished.to));
    v1::Done {
        text: if finished.outcome == "opened" {
            match finished.kind.as_str() {
                "coordination" => format!("{to} coordinates epoch {}", finished.after),
                "active-active-on" => {
                    format!("every data site takes appends in epoch {}, {to} coordinates", finished.after)
                }
                _ => format!("{to} is primary in epoch {}", finished.after),
            }
        } else {
            format!("operation {} was aborted: {from} goes on as primary in epoch {}", finished.op, finished.after)
        },
        op: finished.op,
        epoch: finished.after.0,
        write_gap_ms: write_gap_ms(&finished.phases),
        ..v1::Done::default()
    }
}

/// How long writers waited, if the old primary was asked to stop: when one that died or was fenced took its last append is not
/// known.
fn write_gap_ms(phases: &[(String, u64)]) -> Option<u64> {
    let mut counted = phases.iter().skip_while(|(name, _)| name != "draining").map(|(_, ms)| *ms).peekable();
    counted.peek()?;
    Some(counted.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_told_only_of_a_primary_that_was_asked_to_stop() {
        let phases = |all: &[(&str, u64)]| all.iter().map(|(name, ms)| ((*name).to_owned(), *ms)).collect::<Vec<_>>();
        let planned = phases(&[("fencing", 9), ("draining", 5), ("catching up", 20), ("opening", 6)]);
        assert_eq!(write_gap_ms(&planned), Some(31));
        assert_eq!(write_gap_ms(&phases(&[("sealing", 7), ("catching up", 0), ("opening", 1)])), None);
        assert_eq!(write_gap_ms(&[]), None, "a group that was founded");
    }
}
