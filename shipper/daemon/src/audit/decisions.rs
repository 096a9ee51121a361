//! Decisions of the control plane, as the control process hands them over: at least once, recorded once.

use std::sync::PoisonError;

use cfs_audit::known::Known;
use cfs_audit::{Error, Event, Hash, Kind, Severity};
use cfs_rpc::v1::Decision;

use super::now;
use crate::node::Node;

/// The name of a decision: its number in its group, and what it says, since two groups may count alike.
fn name(decision: &Decision) -> String {
    let Decision { index, at_ms, what, site, epoch, text, evidence, by } = decision;
    let said = format!("{at_ms}\n{what}\n{site}\n{epoch}\n{text}\n{evidence}\n{by}");
    format!("decision-{index}-{}", &Hash::of(&[said.as_bytes()]).to_string()[..8])
}

fn event(decision: Decision) -> Event {
    let name = name(&decision);
    let Decision { index, at_ms, what, site, epoch, text, evidence, by } = decision;
    let kind = match what.as_str() {
        "begin" => Kind::Begin,
        "open" => Kind::Open,
        "abort" => Kind::Abort,
        "force" | "forced" => Kind::Force,
        "found" => Kind::Found,
        "enrol" => Kind::Enroll,
        "remove" => Kind::Remove,
        "settings" => Kind::Config,
        "hold" => Kind::Fenced,
        "split_brain" => Kind::SplitBrain,
        "resolve" => Kind::Resolve,
        _ => Kind::Control,
    };
    let severity = match kind {
        Kind::SplitBrain => Severity::Error,
        Kind::Force | Kind::Abort | Kind::Fenced => Severity::Warning,
        _ => Severity::Info,
    };
    let text = if severity == Severity::Error { format!("ERROR: {text}") } else { text };
    let mut event = Event::new(kind, severity, text).site(site);
    event.event = name;
    event.epoch = Some(epoch);
    event
        .with("decision", what)
        .with("index", index)
        .with("decided_at_ms", at_ms)
        .with("by", by)
        .with("evidence", evidence)
}

/// Records those decisions that the trail does not have; durable on return. Returns how many. Reads the trail at the first
/// call of a process. Blocks.
pub(crate) fn record(node: &Node, decisions: Vec<Decision>) -> Result<u64, Error> {
    let audit = &node.audit;
    let mut known = audit.decisions.lock().unwrap_or_else(PoisonError::into_inner);
    let known = match &mut *known {
        Some(known) => known,
        none => none.insert(Known::load_those(&audit.dir, "decision-")?),
    };
    let is_new = |decision: &Decision| !known.contains(&name(decision));
    let events: Vec<Event> = decisions.into_iter().filter(is_new).map(event).collect();
    if events.is_empty() {
        return Ok(0);
    }
    {
        let mut trail = audit.trail();
        let Some(trail) = trail.as_mut() else { return Err(Error::Full) };
        trail.append(&events, now(node))?;
        trail.sync()?;
    }
    audit.grew.bump();
    for event in &events {
        known.insert(&event.event);
    }
    Ok(events.len() as u64)
}
