//! The end of this process in good order: the primary's role is handed over first, then the leadership.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cfs_control_core::{Site, State};
use cfs_rpc::v1;
use cfs_rpc::v1::admin_reply::Kind as Reply;
use cfs_rpc::v1::admin_request::Kind as Ask;
use cfs_service::manager;
use tokio_stream::StreamExt as _;

use crate::admin::{self, Right};
use crate::control::Control;

/// While nobody can take over, sites are looked at so often.
const RETRY: Duration = Duration::from_millis(250);
/// A site that has held no lease for this long serves nobody: there is nothing to hand over.
const NO_LEASE_LIMIT_MS: u64 = 5_000;
/// How long a leadership may take to move.
const MOVE_LIMIT: Duration = Duration::from_secs(3);

/// Who could take over.
struct Candidate {
    site: Site,
    entries_to_apply: u64,
}

/// Hands over what other sites can go on with. Ends within `control.handover_ms` and some seconds.
pub(crate) async fn leave(control: &Arc<Control>) {
    if control.local().is_fenced() {
        tracing::info!("nothing is handed over: this site is fenced");
    } else {
        hand_over(control).await;
    }
    move_leadership(control).await;
}

async fn hand_over(control: &Arc<Control>) {
    let limit_ms = control.own().control.handover_ms;
    let began = control.boot_ms();
    let mut leased_at = began;
    let mut said = String::new();
    loop {
        let state = control.state();
        let elapsed_ms = control.boot_ms().saturating_sub(began);
        match state.primary {
            Some(primary) if primary == control.id() => {}
            Some(primary) if elapsed_ms > 0 && !said.is_empty() => {
                let site = state.name_of(primary);
                tracing::info!(%site, epoch = %state.epoch, elapsed_ms, "the primary's role was handed over");
                return;
            }
            _ => return,
        }
        let others: Vec<Site> = state.data_sites().filter(|site| site.id != control.id()).cloned().collect();
        if others.is_empty() {
            tracing::info!("nothing is handed over: no other site stores data");
            return;
        }
        if limit_ms == 0 {
            tracing::info!("nothing is handed over: control.handover_ms is 0");
            return;
        }
        if control.holds_lease() {
            leased_at = control.boot_ms();
        }
        let why = if control.boot_ms().saturating_sub(leased_at) > NO_LEASE_LIMIT_MS {
            tracing::warn!("nothing is handed over: this site holds no lease, and so serves no writers");
            return;
        } else {
            match attempt(control, &state, others, limit_ms.saturating_sub(elapsed_ms)).await {
                Ok(()) => continue,
                Err(why) => why,
            }
        };
        if control.boot_ms().saturating_sub(began) >= limit_ms {
            tracing::warn!(why, limit_ms, "nobody took over the primary's role; writers wait until this site is back");
            return;
        }
        if said != why {
            tracing::info!(why, limit_ms, "waiting for a site that can take over the primary's role");
            manager::status(&format!("waits for a site that can take over: {why}"));
            said = why;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Hands over to the most complete site that is ready.
async fn attempt(control: &Arc<Control>, state: &State, others: Vec<Site>, left_ms: u64) -> Result<(), String> {
    let mut ready = Vec::new();
    let mut against = Vec::new();
    for site in others {
        match ask(control, &site, false, left_ms).await {
            Ok(entries_to_apply) => ready.push(Candidate { site, entries_to_apply }),
            Err(why) => against.push(why),
        }
    }
    let best = ready.into_iter().min_by_key(|one| (one.entries_to_apply, u8::MAX - one.site.priority, one.site.id));
    let Some(best) = best else { return Err(against.join("; ")) };
    let name = &best.site.name;
    tracing::info!(site = %name, epoch = %state.epoch, entries_to_apply = best.entries_to_apply, "handing the primary's role over");
    manager::status(&format!("hands the primary's role over to {name}"));
    ask(control, &best.site, true, left_ms.max(1000)).await?;
    // What the leader has committed is applied here a moment later.
    let node = control.node();
    while control.state().primary == Some(control.id()) {
        let applied = crate::attend::applied(node.as_deref());
        if tokio::time::timeout(MOVE_LIMIT, applied).await.is_err() {
            return Err(format!("{name} took over, and this site has not heard of it"));
        }
    }
    let state = control.state();
    let site = state.primary.map(|id| state.name_of(id)).unwrap_or_default();
    tracing::info!(%site, epoch = %state.epoch, "the primary's role was handed over");
    Ok(())
}

/// Asks the leader, as an operator would, for a planned move to `site`: what it would take, or to do it.
async fn ask(control: &Arc<Control>, site: &Site, confirmed: bool, timeout_ms: u64) -> Result<u64, String> {
    let failover = v1::FailoverRequest {
        to: site.name.to_string(),
        dry_run: !confirmed,
        confirmed,
        timeout_ms,
        ..v1::FailoverRequest::default()
    };
    let request = v1::AdminRequest {
        kind: Some(Ask::Failover(failover)),
        operator: format!("{}, which stops", control.site()),
        hops: 0,
    };
    let mut replies = admin::serve(control.clone(), request, Right::Change);
    let mut entries = None;
    while let Some(reply) = replies.next().await {
        match reply.map_err(|status| status.message().to_owned())?.kind {
            Some(Reply::Plan(plan)) if plan.kind == "failover" && !plan.already => {
                return Err(format!("the leader does not hear {}", control.site()));
            }
            Some(Reply::Plan(plan)) => {
                if let Some(blocker) = plan.blockers.first() {
                    return Err(format!("{}: {} ({})", site.name, blocker.why, blocker.code));
                }
                entries = Some(plan.entries_to_apply);
            }
            Some(Reply::Failed(failed)) => return Err(format!("{}: {} ({})", site.name, failed.why, failed.code)),
            Some(Reply::Done(_)) => return Ok(entries.unwrap_or_default()),
            _ => {}
        }
    }
    Err(format!("{}: the leader went away while it answered", site.name))
}

/// Lets another voter lead, so that nobody waits for an election. Prefers those away from the primary.
async fn move_leadership(control: &Arc<Control>) {
    let (Some(node), Some(lead)) = (control.node(), control.lead()) else { return };
    let state = control.state();
    let voters: BTreeSet<_> = node.voters().unwrap_or_default();
    let now_ms = control.boot_ms();
    if voters.len() < 3 || !voters.contains(&control.id()) {
        return;
    }
    let mut targets: Vec<&Site> =
        voters.iter().filter(|id| **id != control.id()).filter_map(|id| state.site(*id)).collect();
    targets.retain(|site| lead.coordinator().is_fresh(&state, site.id, now_ms));
    targets.sort_by_key(|site| (!site.witness, state.primary == Some(site.id), site.id));
    for target in targets {
        match tokio::time::timeout(MOVE_LIMIT, node.move_leadership(&target.name)).await {
            Ok(Ok(())) => {
                tracing::info!(site = %target.name, "the leadership was handed over");
                return;
            }
            Ok(Err(error)) => tracing::info!(site = %target.name, %error, "the leadership cannot be handed over"),
            Err(_) => tracing::info!(site = %target.name, "the leadership does not move in time"),
        }
    }
}
