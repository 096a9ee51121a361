//! The site that is to be primary is another one: this one is sealed first, never drops the target, and joins it.

use std::sync::Arc;
use std::time::Duration;

use cfs_control_core::local::Fence;
use cfs_control_core::way_out;
use cfs_model::{Epoch, SiteName};
use cfs_rpc::v1;
use cfs_rpc::v1::admin_reply::Kind as Reply;

use crate::admin::{Out, failure, forward};
use crate::control::Control;
use crate::{contact, membership, sealed};

/// A sealed site applies what its target opened within this.
const FOLLOW_LIMIT: Duration = Duration::from_secs(2);

/// Seals this site, lets the target decide, and joins it.
pub(super) async fn run(
    control: &Arc<Control>,
    request: &v1::AdminRequest,
    failover: &v1::FailoverRequest,
    what: &str,
    out: &Out,
) {
    let target = match SiteName::new(&failover.to) {
        Ok(target) => target,
        Err(error) => return out.failed(failure("UNKNOWN_SITE", what, error.to_string(), "")).await,
    };
    let next = way_out::force(target.as_str());
    let looks = failover.dry_run || !failover.confirmed;
    // It was asked a moment ago.
    let silent = control.contacts.get(&target).is_none_or(|contact| !contact.error.is_empty());
    if looks && silent {
        out.send(Reply::Plan(seal_only(control, &target, &next))).await;
        return out.done(v1::Done { nothing_to_do: true, ..v1::Done::default() }).await;
    }
    if looks {
        return foretell(control, &target, request, out).await;
    }
    if silent && sealed_for(control, &target) {
        // The operator did what can be done here: repeated, the command succeeds.
        let text = format!("{} is sealed already, and {target} does not answer: {next}", control.site());
        return out.done(v1::Done { text, nothing_to_do: true, ..v1::Done::default() }).await;
    }
    out.progress("sealing", format!("{} takes no more appends", control.site()), 0, 0).await;
    let Some(site) = control.state().named(target.as_str()).map(|site| site.id) else { return };
    if let Err(why) = sealed::seal(control, site, &request.operator).await {
        let why = format!("the reason cannot be kept: {why}");
        let mut failed = failure(
            "STATE",
            what,
            why,
            format!("df -h {}, and repeat the command", control.config.control_dir().display()),
        );
        failed.changed = format!("{} is sealed until its control process is restarted", control.site());
        return out.failed(failed).await;
    }
    let mut done = None;
    let decided = match silent {
        true => Err(format!("{target} does not answer")),
        false => {
            let keep = |reply| match reply {
                v1::AdminReply { kind: Some(Reply::Done(said)), .. } => {
                    done = Some(said);
                    None
                }
                other => Some(other),
            };
            passed_on(control, &target, request, out, keep).await
        }
    };
    if let Err(why) = decided {
        let mut failed = failure("UNREACHABLE", what, why, next);
        failed.changed =
            format!("{} is sealed: it takes no appends until {target} has opened an epoch", control.site());
        return out.failed(failed).await;
    }
    let joined = join_winner(control, &target).await;
    // Without it the target has said why it refused.
    if let Some(mut done) = done {
        if let Some(news) = joined {
            done.text = format!("{}; {news}", done.text);
            done.nothing_to_do = false;
        }
        out.done(done).await;
    }
}

/// The target answers the request; of its replies those that `keep` returns are passed on, as it returns them.
async fn passed_on(
    control: &Arc<Control>,
    target: &SiteName,
    request: &v1::AdminRequest,
    out: &Out,
    mut keep: impl FnMut(v1::AdminReply) -> Option<v1::AdminReply>,
) -> Result<(), String> {
    let (replies, mut told) = tokio::sync::mpsc::channel(16);
    let theirs = Out { site: out.site.clone(), replies };
    let asking = async move { forward(control, target, request, &theirs).await };
    let passing = async {
        while let Some(reply) = told.recv().await {
            let reply = match reply {
                Ok(reply) => keep(reply).map(Ok),
                failed => Some(failed),
            };
            if let Some(reply) = reply {
                // The caller may be gone.
                let _ = out.replies.send(reply).await;
            }
        }
    };
    tokio::join!(asking, passing).0
}

/// Whether an operator sealed this site for that one before.
fn sealed_for(control: &Control, target: &SiteName) -> bool {
    let site = control.state().named(target.as_str()).map(|site| site.id);
    matches!(control.local().fenced(), Fence::SealedFor(sealed) if site == Some(sealed.target))
}

/// Whether a site said a moment ago that it is in another group than this one.
fn is_apart(control: &Control, target: &SiteName) -> bool {
    let group = control.state().group;
    control.contacts.get(target).and_then(|contact| contact.reply).is_some_and(|reply| reply.group != group)
}

/// The target's plan, with what is done here before and after it.
async fn foretell(control: &Arc<Control>, target: &SiteName, request: &v1::AdminRequest, out: &Out) {
    let here = control.site();
    let seals = format!("{here} is sealed: it takes no more appends, whatever becomes of the rest");
    let joins = format!("{here} joins the side of {target}, and discards nothing");
    let apart = is_apart(control, target);
    let with_ours = |mut reply: v1::AdminReply| {
        if let Some(Reply::Plan(plan)) = &mut reply.kind
            && (!plan.already || apart)
        {
            plan.already = false;
            plan.steps.insert(0, seals.clone());
            plan.steps.push(joins.clone());
        }
        Some(reply)
    };
    if let Err(why) = passed_on(control, target, request, out, with_ours).await {
        let next = way_out::force(target.as_str());
        out.failed(failure("UNREACHABLE", &format!("failover --force to {target}"), why, next)).await;
    }
}

/// What is done while the target does not answer: this site stops, and the operator goes there.
fn seal_only(control: &Control, target: &SiteName, next: &str) -> v1::FailoverPlan {
    let state = control.state();
    v1::FailoverPlan {
        from: state.primary.map(|id| state.name_of(id)).unwrap_or_default(),
        to: target.to_string(),
        kind: "seal".into(),
        epoch_before: state.epoch.0,
        epoch_after: state.epoch.0,
        steps: vec![
            format!("{} is sealed: it takes no appends and stays fenced", control.site()),
            format!("{target} does not answer: {next}"),
        ],
        gap_not_known: format!(
            "{target} does not answer: it may take appends already, and does once it is made primary there"
        ),
        warnings: vec![format!(
            "{target} does not answer: whether it takes appends is not known here; {} does not until {target} lets it",
            control.site()
        )],
        ..v1::FailoverPlan::default()
    }
}

/// The operator has chosen the other side: this one joins it, and discards nothing. What came of that, unless there was
/// nothing to join.
async fn join_winner(control: &Arc<Control>, target: &SiteName) -> Option<String> {
    let reply = contact::ask(control, target).await.ok()?;
    let state = control.state();
    if reply.group == state.group {
        // It takes part again once it has applied the epoch that the target opened.
        let until = tokio::time::Instant::now() + FOLLOW_LIMIT;
        while control.local().is_fenced() && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        return None;
    }
    if Epoch(reply.epoch) <= state.epoch {
        return None;
    }
    match membership::join(control, target, true).await {
        Ok(text) => {
            tracing::info!(text, "this site joined the side that the operator chose");
            Some(text)
        }
        Err(error) => {
            tracing::warn!(%error, "this site is fenced and could not join the side that the operator chose");
            let next = format!("cfs admin replication rejoin --primary {target}");
            Some(format!("{} is fenced and did not join it: {error}; on {}: {next}", control.site(), control.site()))
        }
    }
}
