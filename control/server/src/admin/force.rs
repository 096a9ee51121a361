//! Forced recovery: a survivor goes on without a majority, or an operator settles a split in favour of one side.

mod contested;
mod elsewhere;
mod known;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use cfs_control_core::command::{Founding, Parent};
use cfs_control_core::force::{self, Decision};
use cfs_control_core::state::Settings;
use cfs_control_core::{Command, Kind};
use cfs_model::op::StreamPosition;
use cfs_model::{Epoch, Level, Lsn, SiteName, StreamId};
use cfs_rpc::v1;
use cfs_rpc::v1::admin_reply::Kind as Reply;

use self::known::Known;
use super::{Out, failure, members};
use crate::control::Control;
use crate::member::Node;
use crate::status::{self, Quorum};
use crate::{contact, inspect, sealed};

/// A majority that answers does so within this.
const ROUND_LIMIT: Duration = Duration::from_millis(1200);
/// The new epoch is open, and this site takes appends, within this.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// A site that heard its leader within this follows it.
const LEADER_MS: u64 = 2000;

/// Whether a forced failover concerns more than this site's own group: it has no majority, or the target is in another.
pub(super) async fn concerns(control: &Arc<Control>, failover: &v1::FailoverRequest) -> bool {
    if !failover.force {
        return false;
    }
    let state = control.state();
    if state.group == 0 {
        return false;
    }
    if failover.to != control.site().as_str() {
        let Ok(name) = SiteName::new(&failover.to) else { return false };
        // Nobody is asked who is no member: it would be remembered as a site that does not answer.
        if state.named(&failover.to).is_none() {
            return true;
        }
        // Not only what was heard a second ago: a side may just have been forced.
        let reply = contact::ask(control, &name).await;
        // With a single voter nothing moves by itself: if that is the target there is no majority, however lately it was
        // heard; if it is this site, the target may have been forced meanwhile, and an operator chose it.
        let only = reply.is_err() && state.wanted_voters().len() == 1;
        let elsewhere = reply.is_ok_and(|reply| reply.group != 0 && reply.group != state.group);
        // One that did not come back since this side was forced is in no group of ours, whether it answers or not.
        let apart = state.named(&failover.to).is_some_and(|site| site.node == 0);
        // A sealed site is let go again by the command that sealed it, once the target acts.
        let sealed = control.local().is_fenced();
        return elsewhere || apart || sealed || only || !has_majority(control).await;
    }
    contact::ask_quickly(control).await;
    // An operator sealed another site for this one.
    let wanted = control.contacts.answers().into_iter().filter_map(|reply| reply.status);
    let wanted = wanted.into_iter().any(|status| status.sealed_for == control.site().as_str());
    let split = control.contacts.answers().iter().any(|reply| reply.group != 0 && reply.group != state.group);
    // A site that was sealed for this one takes part only in a later epoch than it has seen.
    let seen = control.contacts.answers().iter().any(|reply| Epoch(reply.highest_epoch) > state.epoch);
    let sealed = seen && state.operation.is_none();
    let settles = split || sealed || wanted || control.local().is_fenced();
    // Nothing has to be forced while a majority is about to elect a leader.
    settles || status::quorum_of(control) != Quorum::Electing && !has_majority(control).await
}

async fn has_majority(control: &Arc<Control>) -> bool {
    let Some(node) = control.node() else { return false };
    if node.leader_site().is_none() {
        return false;
    }
    if control.lead().is_none() {
        // One that was lost a moment ago is found out by asking.
        return node.leader_age_ms() < LEADER_MS && !matches!(status::quorum_of(control), Quorum::Silent(_));
    }
    tokio::time::timeout(ROUND_LIMIT, node.read_index()).await.is_ok_and(|round| round.is_ok())
}

pub(super) async fn run(control: &Arc<Control>, request: &v1::AdminRequest, failover: &v1::FailoverRequest, out: &Out) {
    let what = format!("failover --force to {}", failover.to);
    let state = control.state();
    if state.named(&failover.to).is_none_or(|site| site.witness) {
        let why = format!("{} is no data site of this cluster", failover.to);
        return out.failed(failure("UNKNOWN_SITE", &what, why, "cfs admin replication status --detailed")).await;
    }
    if failover.to == control.site().as_str() {
        return here(control, request, failover, &what, out).await;
    }
    elsewhere::run(control, request, failover, &what, out).await;
}

async fn here(
    control: &Arc<Control>,
    request: &v1::AdminRequest,
    failover: &v1::FailoverRequest,
    what: &str,
    out: &Out,
) {
    let began = tokio::time::Instant::now();
    contact::ask_all(control).await;
    let state = control.state();
    let view = control.shipper.borrow().clone();
    let Some(report) = view.live().cloned() else {
        let next = "systemctl status claudefs-shipper".to_owned();
        return out.failed(failure("NO_SHIPPER", what, "the shipper of this site is not reached", next)).await;
    };
    let majority = has_majority(control).await;
    let sources = inspect::sources(control).await;
    let mut known = Known::of(control, &state, &report, &sources, majority);
    if !known.unshared.is_empty() {
        let contested = contested::ask(control, &known, began).await;
        known.told(control, contested);
    }
    // A side with a majority of its own only has a split to settle; without one a group is founded, if that may be.
    let parent = if known.already || majority {
        None
    } else {
        match force::decide(&known.survivor, control.id()) {
            Decision::Found { parent, .. } => Some(parent),
            Decision::Refuse { code, why, next } => return out.failed(failure(code, what, why, next)).await,
            // Neither comes at the target itself without a majority.
            Decision::SealHere { next, .. } => return out.failed(failure("FORCE", what, "it is not here", next)).await,
            Decision::Already(text) => {
                let done = v1::Done { text, epoch: state.epoch.0, nothing_to_do: true, ..v1::Done::default() };
                return out.done(done).await;
            }
        }
    };
    out.send(Reply::Plan(known.plan(control, parent.is_some()))).await;
    if known.already {
        let text = format!("{} is primary already, in epoch {}", control.site(), state.epoch);
        return out.done(v1::Done { text, epoch: state.epoch.0, nothing_to_do: true, ..v1::Done::default() }).await;
    }
    if failover.dry_run || !failover.confirmed {
        return out.done(v1::Done { epoch: state.epoch.0, nothing_to_do: true, ..v1::Done::default() }).await;
    }
    let outcome = match parent {
        None => {
            out.progress("resolving", "raising the generation above all that either side saw", 0, 0).await;
            settle::resolve(control, &known, &request.operator).await
        }
        Some(parent) => {
            out.progress("founding", "a new group is founded from what this site knows", 0, 0).await;
            found(control, *parent, &known, &request.operator).await
        }
    };
    if let Err(why) = outcome {
        return out.failed(failure("FORCE", what, why, "journalctl -u claudefs-control")).await;
    }
    match until_accepting(control, known.highest).await {
        Ok(()) => {
            if failover.prefer == control.site().as_str()
                && let Err(why) = restate(control, &known.unshared, out).await
            {
                let next =
                    format!("cfs admin replication failover --force --to {} --prefer {}", failover.to, failover.to);
                let mut failed = failure("PREFER", what, why, next);
                failed.changed = format!("{} is primary in the new generation", control.site());
                return out.failed(failed).await;
            }
            let epoch = control.state().epoch;
            let text = format!(
                "{} is primary in epoch {epoch}; whoever returns is fenced and rejoins by `cfs admin replication rejoin --primary {}`",
                control.site(),
                control.site()
            );
            out.done(v1::Done { text, epoch: epoch.0, ..v1::Done::default() }).await;
        }
        Err(why) => {
            let mut failed = failure("NOT_ACCEPTING", what, why, "cfs admin replication status");
            failed.changed = "the new generation stands".into();
            out.failed(failed).await;
        }
    }
}

/// The values that only this side had are journalled again, so that they win the merge.
async fn restate(control: &Control, unshared: &[(StreamId, Lsn, Lsn)], out: &Out) -> Result<(), String> {
    let channel = cfs_rpc::unix::connect(&control.config.shipper_socket()).await.map_err(|error| error.to_string())?;
    let mut governor = v1::governor_client::GovernorClient::new(channel);
    for (stream, after, through) in unshared {
        let request = v1::RestateRequest { after: Some(StreamPosition::of(*stream, *after)), through: through.0 };
        let reply = governor.restate(request).await.map_err(|status| status.message().to_owned())?;
        let text = format!("{} entries of stream {stream} were journalled again", reply.into_inner().entries);
        out.progress("preferring", text, 0, 0).await;
    }
    Ok(())
}

/// There is no majority: a new group is founded from this site's state. The old directory is kept.
async fn found(control: &Arc<Control>, mut parent: Parent, known: &Known, by: &str) -> Result<(), String> {
    let _changing = control.changing.lock().await;
    let state = &parent.state;
    let node = state.sites.values().map(|site| site.node).max().unwrap_or(0).max(state.next_node) + 1;
    let mut site = control.as_member();
    site.node = node;
    for (epoch, owner) in known.others.iter().flat_map(|side| &side.opened) {
        parent.state.opened.entry(*epoch).or_insert(*owner);
    }
    let founding = Founding {
        cluster: control.config.cluster.id,
        group: rand::random::<u64>().max(1),
        site,
        settings: Settings::default(),
        level: Level::FIRST,
        parent: Some(parent),
    };
    control.set_lead(None);
    if let Some(old) = control.node() {
        control.set_node(None);
        old.shutdown().await;
    }
    let command =
        Command { at_ms: control.wall_ms(), by: by.to_owned(), kind: Kind::Found(Box::new(founding.clone())) };
    let node = Node::found(control, &founding, command).await.map_err(|error| error.to_string())?;
    sealed::lift(control).await;
    control.restart().current = true;
    control.set_node(Some(node));
    Ok(())
}

async fn until_accepting(control: &Arc<Control>, above: Epoch) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + OPEN_LIMIT;
    loop {
        let state = control.state();
        let accepting =
            control.shipper.borrow().live().is_some_and(|report| report.accepting && report.epoch == state.epoch.0);
        if state.epoch > above && state.primary == Some(control.id()) && accepting {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            let view = control.shipper.borrow().clone();
            let why = view.live().map_or(view.error.clone(), |report| format!("{} {}", report.status, report.why));
            return Err(format!("{} does not take appends yet: {why}", control.site()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
