//! Active-active, switched on or off by an operator: every site that takes appends drains, then the next epoch opens.

use std::sync::Arc;
use std::time::Duration;

use cfs_control_core::plan::Refused;
use cfs_control_core::{Change, Kind, State, mode};
use cfs_rpc::v1;
use cfs_rpc::v1::admin_reply::Kind as Reply;

use super::{Out, failure};
use crate::control::Control;
use crate::lead::Lead;

/// The name that it has among the settings.
pub(super) const NAME: &str = "active_active_mode";
pub(super) const RANGE: &str = "on or off";
/// After so long it is aborted, and everything is as before.
const TIMEOUT_MS: u64 = 10_000;
/// Whoever is there is heard within this.
const HEARD_LIMIT: Duration = Duration::from_secs(3);
/// Once the epoch is open, sites take appends within this.
const ACCEPT_LIMIT: Duration = Duration::from_secs(3);
const TELL: Duration = Duration::from_millis(200);
const FOLLOW: &str = "cfs admin replication history --follow";

pub(super) const fn word(shared: bool) -> &'static str {
    if shared { "on" } else { "off" }
}

/// Whether a request switches it: to what, or nothing if that is how it is.
///
/// # Errors
/// The value cannot be, or something else is to be changed in one go with the switch.
pub(super) fn wanted(state: &State, config: &v1::ConfigRequest) -> Result<Option<bool>, String> {
    if config.reset.iter().any(|name| name == NAME) {
        return Err(format!("{NAME} is one value for the whole cluster, and no site's file has it: set it to another"));
    }
    let shared = match config.set.get(NAME).map(|value| value.trim()) {
        None => return Ok(None),
        Some("on") => true,
        Some("off") => false,
        Some(other) => return Err(format!("{NAME} = {other}: use {RANGE}")),
    };
    if shared == state.is_shared() {
        return Ok(None);
    }
    if config.set.len() > 1 || !config.reset.is_empty() {
        return Err(format!("{NAME} is switched by itself: change the other settings before or after it"));
    }
    Ok(Some(shared))
}

/// Switches, and answers when the next epoch is open; `Err` if another site leads meanwhile, which is to be asked then.
pub(super) async fn switch(
    control: &Arc<Control>,
    lead: &Arc<Lead>,
    by: &str,
    shared: bool,
    out: &Out,
) -> Result<(), String> {
    let what = format!("switch active-active {}", word(shared));
    let state = match checked(control, lead, shared).await {
        Ok(state) => state,
        Err(refused) => {
            out.failed(failure(refused.code, &what, refused.why, refused.next)).await;
            return Ok(());
        }
    };
    let Some(to) = state.primary else { return Ok(()) };
    let op = state.last_op + 1;
    let begin = Kind::Begin {
        op,
        epoch: state.epoch,
        change: Change::Mode { shared, to, timeout_ms: TIMEOUT_MS },
        reason: format!("ordered by {by}"),
        evidence: format!("asked by {by}"),
    };
    if let Err(undone) = lead.commit(by, begin).await {
        if undone.moved {
            return Err(undone.why);
        }
        out.failed(failure("BUSY", &what, undone.why, "cfs admin replication history")).await;
        return Ok(());
    }
    lead.wake();
    follow(control, lead, &what, op, out).await;
    Ok(())
}

/// The state in which nothing stands against it. A leader that was elected a moment ago has heard nobody yet, and a primary
/// may wait for its first lease: what passes by itself is waited for.
async fn checked(control: &Arc<Control>, lead: &Arc<Lead>, shared: bool) -> Result<Arc<State>, Refused> {
    let deadline = tokio::time::Instant::now() + HEARD_LIMIT;
    loop {
        let state = control.state();
        let refused = match mode::check(&state, &lead.coordinator(), shared, control.boot_ms()) {
            Ok(()) => return Ok(state),
            Err(refused) => refused,
        };
        let passes = ["DOWN", "NO_SHIPPER", "NO_PRIMARY", "VERSION"].contains(&refused.code);
        if !passes || tokio::time::Instant::now() >= deadline {
            return Err(refused);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn follow(control: &Arc<Control>, lead: &Arc<Lead>, what: &str, op: u64, out: &Out) {
    let began_ms = control.boot_ms();
    loop {
        let state = control.state();
        let elapsed_ms = control.boot_ms().saturating_sub(began_ms);
        if let Some(finished) = state.changes.iter().find(|change| change.op == op) {
            if finished.outcome != "opened" {
                let said = state.events.iter().rev().find(|event| event.what == "abort");
                let why = said.map_or_else(|| "it was aborted".to_owned(), |event| event.text.clone());
                let next = "cfs admin replication status --detailed, and repeat the command";
                return out.failed(v1::Failed { op, ..failure("ABORTED", what, why, next) }).await;
            }
            accepting(control, lead, &state).await;
            return out.done(done(&state, op)).await;
        }
        if elapsed_ms > TIMEOUT_MS + 2000 {
            let why = format!("operation {op} goes on after {elapsed_ms} ms");
            return out.failed(v1::Failed { op, ..failure("TIMEOUT", what, why, format!("{FOLLOW} {op}")) }).await;
        }
        let now_ms = control.boot_ms();
        let (doing, stage) = {
            let coordinator = lead.coordinator();
            (coordinator.doing(now_ms), coordinator.stage(now_ms).map_or("running", |(_, word, _)| word))
        };
        if !doing.is_empty() {
            out.send(Reply::Progress(v1::Progress { phase: stage.into(), text: doing, op, elapsed_ms })).await;
        }
        let node = control.node();
        tokio::select! {
            () = crate::attend::applied(node.as_deref()) => {}
            () = tokio::time::sleep(TELL) => {}
        }
    }
}

/// Waits until whoever may take appends does, as far as they are heard. What stands against one of them is its own affair.
async fn accepting(control: &Arc<Control>, lead: &Arc<Lead>, state: &State) {
    let deadline = tokio::time::Instant::now() + ACCEPT_LIMIT;
    let accepts = |id| {
        let coordinator = lead.coordinator();
        let shipper = coordinator.shipper_of(id);
        shipper.is_some_and(|shipper| shipper.accepting && shipper.epoch == state.epoch)
            || !coordinator.is_fresh(state, id, control.boot_ms())
    };
    while tokio::time::Instant::now() < deadline && !state.appenders().all(accepts) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn done(state: &State, op: u64) -> v1::Done {
    let sites = state.appenders().map(|id| state.name_of(id)).collect::<Vec<_>>().join(", ");
    let shared = state.is_shared();
    let who = if shared { format!("{sites} take appends") } else { format!("{sites} alone takes appends") };
    let change = v1::SettingChange {
        name: NAME.into(),
        before: word(!shared).into(),
        after: word(shared).into(),
        live: true,
        note: format!("live, no restart needed; {who}, in epoch {}", state.epoch),
    };
    let text = format!("{NAME} = {} (was {}): {}", change.after, change.before, change.note);
    v1::Done { text, op, epoch: state.epoch.0, settings: vec![change], ..v1::Done::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(set: &[(&str, &str)], reset: &[&str]) -> v1::ConfigRequest {
        v1::ConfigRequest {
            set: set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            reset: reset.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn it_is_switched_by_itself_and_only_when_it_is_otherwise() {
        let off = State::default();
        assert_eq!(wanted(&off, &request(&[("lease_ms", "500")], &[])), Ok(None));
        assert_eq!(wanted(&off, &request(&[(NAME, "on")], &[])), Ok(Some(true)));
        assert_eq!(wanted(&off, &request(&[(NAME, "off"), ("lease_ms", "500")], &[])), Ok(None), "it is off");
        let refused = |set: &[(&str, &str)], reset: &[&str]| wanted(&off, &request(set, reset)).expect_err("refused");
        assert_eq!(refused(&[(NAME, "maybe")], &[]), "active_active_mode = maybe: use on or off");
        assert!(refused(&[(NAME, "on"), ("lease_ms", "500")], &[]).contains("by itself"));
        assert!(refused(&[(NAME, "on")], &["compression"]).contains("by itself"));
        assert!(refused(&[], &[NAME]).contains("one value for the whole cluster"));
    }
}
