//! A failover that an operator asks for.

use std::sync::Arc;
use std::time::Duration;

use cfs_control_core::plan::{self, Plan};
use cfs_control_core::{Change, Kind, Outcome, Site, State};
use cfs_rpc::v1;
use cfs_rpc::v1::admin_reply::Kind as Reply;
use cfs_rpc::v1::order_request::Kind as OrderKind;

use super::{Leaders, Out, failure, force, history};
use crate::control::Control;
use crate::lead::{Lead, Undone};
use crate::{contact, status};

mod outcome;

const DEFAULT_TIMEOUT_MS: u64 = 30_000;
const MOST_TIMEOUT_MS: u64 = 3_600_000;
/// Progress is told so often.
const TELL: Duration = Duration::from_millis(200);
/// Once the epoch is open, the new primary takes appends within this.
const ACCEPT_LIMIT: Duration = Duration::from_secs(3);
/// A look at a plan, and an order, wait so long for the target to hear the primary's shipper.
const LINK_LOOK_LIMIT: Duration = Duration::from_millis(1800);
const LINK_LIMIT: Duration = Duration::from_secs(4);
const FOLLOW: &str = "cfs admin replication history --follow";

/// Plans, and if the operator has confirmed, carries out.
pub(super) async fn run(control: &Arc<Control>, request: &v1::AdminRequest, failover: v1::FailoverRequest, out: &Out) {
    if !failover.prefer.is_empty() && (!failover.force || failover.prefer != failover.to) {
        let why = format!(
            "--prefer {}: only the values of the site that is forced to be primary can be written again",
            failover.prefer
        );
        let next = format!("cfs admin replication failover --force --to {0} --prefer {0}", failover.to);
        let what = format!("failover to {}", failover.to);
        return out.failed(v1::Failed { usage: true, ..failure("PREFER", &what, why, next) }).await;
    }
    if force::concerns(control, &failover).await {
        return force::run(control, request, &failover, out).await;
    }
    let what = format!("failover to {}", failover.to);
    if control.local().is_fenced() {
        // What this site knows of the primary is of an older generation.
        return out.failed(super::members::fenced(control, &what)).await;
    }
    let mut leaders = Leaders::of(request).or_forced(&failover.to);
    while let Some(lead) = leaders.next(control, request, &what, out).await {
        match led(control, lead, request, &failover, &what, out).await {
            Ok(()) => return,
            Err(moved) => leaders.moved(moved),
        }
    }
}

/// The leader's part; `Err` if another site leads before anything was done, which is to be asked then.
async fn led(
    control: &Arc<Control>,
    lead: Arc<Lead>,
    request: &v1::AdminRequest,
    failover: &v1::FailoverRequest,
    what: &str,
    out: &Out,
) -> Result<(), String> {
    // A leader that was elected a moment ago has heard nobody yet, and would take everybody for down.
    let state = control.state();
    let target = state.named(&failover.to).map(|site| site.id);
    lead.reports_of(&target.into_iter().chain(state.primary).collect::<Vec<_>>()).await;
    if !lead.node().leads() {
        return Err("the leadership moves".into());
    }
    let looks = failover.dry_run || !failover.confirmed;
    let alone = failover.alone && !looks && failover.to == control.site().as_str();
    if alone {
        control.restart().alone = true;
    }
    let state = control.state();
    let word = word_of(control, &state, &failover.to).await;
    let (state, plan) = planned(control, &lead, failover, &word, looks, out).await;
    let mut plan = match plan {
        Ok(plan) => plan,
        Err(refused) => {
            out.failed(failure(refused.code, what, refused.why, refused.next)).await;
            return Ok(());
        }
    };
    if let Some(awaited) = status::awaited(control, &state).filter(|_| plan.already && plan.to == control.id()) {
        if failover.alone { plan.goes_on_by_word(&state) } else { plan.waits_for_word(&state, awaited) }
    }
    // One that goes on without the others when they are missing has acknowledged what nobody else holds.
    let acknowledged_is_safe = plan.acknowledged_is_safe && control.waits_for_copies(&state);
    let shown = to_wire(&state, &Plan { acknowledged_is_safe, ..plan.clone() });
    out.send(Reply::Plan(shown)).await;
    if plan.already {
        let text = match alone {
            true => format!("{} goes on as primary of epoch {}: no other site acts", failover.to, state.epoch),
            false => format!("{} is primary already, in epoch {}", failover.to, state.epoch),
        };
        let done = v1::Done { text, epoch: state.epoch.0, nothing_to_do: !alone, ..v1::Done::default() };
        out.done(done).await;
        return Ok(());
    }
    if looks {
        out.done(v1::Done { epoch: state.epoch.0, nothing_to_do: true, ..v1::Done::default() }).await;
        return Ok(());
    }
    if failover.plan_epoch != 0 && failover.plan_epoch != state.epoch.0 {
        let why = format!("epoch {} was opened since the plan was shown", state.epoch);
        out.failed(failure("CHANGED", what, why, "look at it again, and repeat the command")).await;
        return Ok(());
    }
    if let Some(blocker) = plan.blockers.iter().find(|blocker| !blocker.forceable || !failover.force) {
        out.failed(failure(blocker.code, what, blocker.why.clone(), blocker.next.clone())).await;
        return Ok(());
    }
    let Some(target) = state.site(plan.to).cloned() else { return Ok(()) };
    let timeout_ms = match failover.timeout_ms {
        0 => DEFAULT_TIMEOUT_MS,
        ms => ms.min(MOST_TIMEOUT_MS),
    };
    let overruled = if failover.force { lead.coordinator().overrule(target.id) } else { None };
    let operation =
        Operation { control, lead, state, plan, target, timeout_ms, by: &request.operator, force: failover.force };
    let Some(op) = overruled else { return operation.run(what, out).await };
    // The primary is lost already: what is under way goes on with the target.
    operation.lead.wake();
    operation.follow(what, op, out).await;
    Ok(())
}

/// The plan as it is now. A target that has just started, or whose link was just mended, gets a moment to be heard by the leader,
/// if it answers, and to hear the primary's shipper again: those are the blockers that go away by themselves.
async fn planned(
    control: &Arc<Control>,
    lead: &Lead,
    failover: &v1::FailoverRequest,
    word: &Word,
    looks: bool,
    out: &Out,
) -> (Arc<State>, Result<Plan, plan::Refused>) {
    let deadline = tokio::time::Instant::now() + if looks { LINK_LOOK_LIMIT } else { LINK_LIMIT };
    let mut told = looks;
    loop {
        let state = control.state();
        let now_ms = control.boot_ms();
        let fenced = word.fenced.as_deref();
        let plan = plan::plan(&state, &lead.coordinator(), &failover.to, &lead.round_trips_ms(), fenced, now_ms);
        let passes = |first: &&plan::Blocker| first.code == plan::LINK_DOWN || first.code == plan::DOWN && word.answers;
        let first = plan.as_ref().ok().and_then(|plan| plan.blockers.first()).filter(passes);
        let Some(first) = first.filter(|_| tokio::time::Instant::now() < deadline) else { return (state, plan) };
        if !std::mem::replace(&mut told, true) {
            out.progress("preparing", format!("waiting a moment: {}", first.why), 0, 0).await;
        }
        tokio::time::sleep(TELL / 2).await;
    }
}

/// What the site that an operator names says itself.
#[derive(Default)]
pub(super) struct Word {
    answers: bool,
    /// Why it takes part in nothing: one that acts for another group reports to no leader here.
    pub(super) fenced: Option<String>,
}

pub(super) async fn word_of(control: &Arc<Control>, state: &State, to: &str) -> Word {
    let Some(site) = state.named(to).filter(|site| site.id != control.id()) else { return Word::default() };
    let Ok(reply) = contact::ask(control, &site.name).await else { return Word::default() };
    let other = (reply.group != 0 && reply.group != state.group)
        .then(|| format!("it acts for another group, {:016x}", reply.group));
    let fenced = reply.status.filter(|status| status.state == "FENCED").map(|status| status.why).or(other);
    Word { answers: true, fenced }
}

struct Operation<'a> {
    control: &'a Arc<Control>,
    lead: Arc<Lead>,
    state: Arc<State>,
    plan: Plan,
    target: Site,
    timeout_ms: u64,
    by: &'a str,
    force: bool,
}

impl Operation<'_> {
    /// `Err` if another site leads before it began.
    async fn run(self, what: &str, out: &Out) -> Result<(), String> {
        let op = self.state.last_op + 1;
        if self.plan.kind == "switchover" {
            out.progress("preparing", format!("asking {}", self.target.name), op, 0).await;
            if let Err(failed) = self.ask_target(what, op).await {
                out.failed(failed).await;
                return Ok(());
            }
        }
        let begun = match self.plan.kind {
            "switchover" if self.state.wanted_voters().len() == 1 => {
                self.lead.commit(self.by, Kind::MoveVote { to: self.target.id, timeout_ms: self.timeout_ms }).await
            }
            "switchover" => {
                let change = Change::Switchover { to: self.target.id, timeout_ms: self.timeout_ms };
                self.begin(op, change, &format!("planned by {}", self.by)).await
            }
            "coordination" => {
                let (reason, evidence) = (format!("planned by {}", self.by), String::new());
                let (epoch, site) = (self.state.epoch, self.target.id);
                self.lead.commit(self.by, Kind::Coordinate { epoch, site, reason, evidence }).await
            }
            _ => {
                self.wait_for_lease_to_end(op, out).await;
                self.begin(op, Change::Failover { to: Some(self.target.id) }, &format!("ordered by {}", self.by)).await
            }
        };
        match begun {
            Ok(_) => {
                self.lead.wake();
                self.follow(what, op, out).await;
            }
            Err(undone) if undone.moved => return Err(undone.why),
            Err(undone) => out.failed(failure("BUSY", what, undone.why, "cfs admin replication history")).await,
        }
        Ok(())
    }

    async fn begin(&self, op: u64, change: Change, reason: &str) -> Result<Outcome, Undone> {
        let (reason, evidence) = (reason.to_owned(), format!("asked by {}", self.by));
        self.lead.commit(self.by, Kind::Begin { op, epoch: self.state.epoch, change, reason, evidence }).await
    }

    /// Whether the target still hears the primary's shipper, and its hook, before anything is stopped for it.
    async fn ask_target(&self, what: &str, op: u64) -> Result<(), v1::Failed> {
        let order = v1::OrderRequest {
            op,
            kind: OrderKind::PrePromote.into(),
            hears: self.plan.from.filter(|_| self.plan.direct).map_or(0, |from| u32::from(from.0)),
            timeout_ms: 60_000,
            epoch: self.state.next_epoch().0,
            reason: "planned by an operator".into(),
            ..v1::OrderRequest::default()
        };
        let hook = format!("the pre_promote hook of {}", self.target.name);
        match self.lead.deliver(self.target.id, order).await {
            Ok(reply) if reply.deaf => {
                let from = self.plan.from.unwrap_or_default();
                let blocker = plan::not_fed(&self.state, from, &self.target);
                Err(failure(blocker.code, what, blocker.why, blocker.next))
            }
            Ok(reply) if reply.done || self.force => Ok(()),
            Ok(reply) => Err(failure(
                "HOOK_VETO",
                what,
                format!("{hook} refuses: {}", reply.why),
                "look at the hook, or --force",
            )),
            Err(why) => {
                let from = self.state.primary.map(|id| self.state.name_of(id)).unwrap_or_default();
                let why = format!("{why}; nothing was begun, {from} goes on as primary in epoch {}", self.state.epoch);
                Err(failure("DOWN", what, why, format!("on {}: systemctl status claudefs-control", self.target.name)))
            }
        }
    }

    async fn wait_for_lease_to_end(&self, op: u64, out: &Out) {
        let over_at = self.lead.coordinator().lease_over_at_ms(&self.state);
        let left = over_at.saturating_sub(self.control.boot_ms());
        if left > 0 {
            out.progress("fencing", format!("the old lease ends in {left} ms"), op, 0).await;
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
    }

    /// Tells of the operation until it is over or the operator's time is.
    async fn follow(&self, what: &str, op: u64, out: &Out) {
        let began = self.control.boot_ms();
        let mut told = String::new();
        loop {
            let state = self.control.state();
            let elapsed_ms = self.control.boot_ms().saturating_sub(began);
            if let Some(finished) = state.changes.iter().find(|change| change.op == op) {
                let done = history::ended(&state, finished);
                if finished.outcome != "opened" {
                    let (why, next) = match self.too_short(finished.ended_at_ms.saturating_sub(finished.began_at_ms)) {
                        Some((short, next)) => (format!("{}: {short}", done.text), next),
                        None => (done.text, format!("{FOLLOW} {op}")),
                    };
                    return out.failed(failure("ABORTED", what, why, next)).await;
                }
                if !self.accepting(finished.after, op, began, out).await
                    && let Some(why) = self.not_accepting(finished.after)
                {
                    let mut failed = failure("NOT_ACCEPTING", what, why, "cfs admin replication status");
                    failed.changed = format!("epoch {} was opened for {}", finished.after, self.target.name);
                    return out.failed(failed).await;
                }
                return out.done(done).await;
            }
            if state.operation.is_none() && state.moving.is_none() && state.last_op < op {
                let from = self.plan.from.map(|id| state.name_of(id)).unwrap_or_default();
                let to = &self.target.name;
                let (why, next) = self.too_short(elapsed_ms).unwrap_or_else(|| {
                    let why = format!("{to} did not take it over in time, although both sites must be up for that");
                    (why, "cfs admin replication status --detailed".into())
                });
                let why = format!(
                    "moving the vote from {from} to {to} was taken back, and {from} goes on as primary in epoch {}: {why}",
                    state.epoch
                );
                return out.failed(failure("ABORTED", what, why, next)).await;
            }
            // A switchover is aborted by the leader when its time is over; a little later this says so.
            if elapsed_ms > self.timeout_ms + 2000 {
                let (why, next) = self.unsettled(&state, op, elapsed_ms);
                return out.failed(v1::Failed { op, ..failure("TIMEOUT", what, why, next) }).await;
            }
            let doing = self.lead.coordinator().doing(self.control.boot_ms());
            if !doing.is_empty() {
                let stage =
                    self.lead.coordinator().stage(self.control.boot_ms()).map_or("running", |(_, word, _)| word);
                out.progress(stage, doing, op, elapsed_ms).await;
            } else if let Some(awaited) = status::lacks_majority(self.control).filter(|awaited| *awaited != told) {
                out.progress("waiting", awaited.clone(), op, elapsed_ms).await;
                told = awaited;
            }
            let node = self.control.node();
            tokio::select! {
                () = crate::attend::applied(node.as_deref()) => {}
                () = tokio::time::sleep(TELL) => {}
            }
        }
    }

    /// Waits until the new primary takes appends; `false`: it did not in time.
    async fn accepting(&self, epoch: cfs_model::Epoch, op: u64, began: u64, out: &Out) -> bool {
        let deadline = tokio::time::Instant::now() + ACCEPT_LIMIT;
        while tokio::time::Instant::now() < deadline {
            let accepts = match self.control.lead() {
                Some(lead) => lead
                    .coordinator()
                    .shipper_of(self.target.id)
                    .is_some_and(|shipper| shipper.accepting && shipper.epoch == epoch),
                None => contact::ask(self.control, &self.target.name).await.is_ok_and(|reply| {
                    reply.shipper.is_some_and(|shipper| shipper.accepting && shipper.epoch == epoch.0)
                }),
            };
            if accepts {
                let text = format!("{} takes appends", self.target.name);
                out.progress("ready", text, op, self.control.boot_ms().saturating_sub(began)).await;
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

/// A plan as it is shown.
fn to_wire(state: &State, plan: &Plan) -> v1::FailoverPlan {
    let blocker = |blocker: &plan::Blocker| v1::Blocker {
        code: blocker.code.into(),
        why: blocker.why.clone(),
        next: blocker.next.clone(),
        forceable: blocker.forceable,
    };
    let no_answer = || format!("the shipper of {} does not answer", state.name_of(plan.to));
    v1::FailoverPlan {
        from: plan.from.map(|id| state.name_of(id)).unwrap_or_default(),
        to: state.name_of(plan.to),
        kind: plan.kind.into(),
        epoch_before: plan.epochs.0.0,
        epoch_after: plan.epochs.1.0,
        steps: plan.steps.clone(),
        entries_at_risk: plan.entries_at_risk.unwrap_or_default(),
        bytes_at_risk: plan.bytes_at_risk.unwrap_or_default(),
        bytes_known: plan.bytes_at_risk.is_some(),
        risk_known: plan.entries_at_risk.is_some(),
        risk_at_least: plan.at_risk_since_ms.is_some(),
        risk_age_ms: plan.at_risk_since_ms.unwrap_or_default(),
        acknowledged_is_safe: plan.acknowledged_is_safe,
        predicted_gap_ms: plan.gap_ms.unwrap_or_default(),
        gap_not_known: if plan.gap_ms.is_some() { String::new() } else { no_answer() },
        blockers: plan.blockers.iter().map(blocker).collect(),
        warnings: plan.warnings.clone(),
        entries_to_apply: plan.entries_to_apply.unwrap_or_default(),
        apply_not_known: if plan.entries_to_apply.is_some() { String::new() } else { no_answer() },
        already: plan.already,
        ..v1::FailoverPlan::default()
    }
}
