//! Tells the leader of this site, several times a second; the answers renew the primary's lease.

use std::sync::Arc;
use std::time::Duration;

use cfs_model::Epoch;
use cfs_rpc::v1;
use tokio::sync::Semaphore;

use crate::control::Control;
use crate::member::Node;

/// Reports on their way at the same time: a long link holds some.
const IN_FLIGHT: usize = 16;
/// News is told no more often than this.
const SOONEST: Duration = Duration::from_millis(3);
/// Reports that renew a lease, in the time of one: more often than a leader's signs of life, so that their rounds serve as such.
const PER_LEASE: u64 = 5;
const FENCED: &str = "FENCED";

/// Reports for as long as the process lives.
pub(crate) async fn run(control: Arc<Control>) {
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut group = control.watch_node();
    loop {
        let node = control.node();
        if let (Some(node), Ok(place)) = (&node, places.clone().try_acquire_owned()) {
            let (control, node) = (control.clone(), node.clone());
            tokio::spawn(async move {
                report(&control, &node).await;
                drop(place);
            });
        }
        tokio::time::sleep(SOONEST).await;
        let state = control.state();
        let appends = state.may_append(control.id());
        // What keeps a lease alive is told most often; a replica's cursors may be a little older, and a witness has none.
        let pause = match (appends, control.config.site.witness) {
            (true, _) => state.lease_ms / PER_LEASE,
            (false, false) => state.lease_ms * 3 / 4,
            (false, true) => state.lease_ms,
        };
        let pause = Duration::from_millis(pause);
        tokio::select! {
            () = control.report_soon.notified() => {}
            _ = group.changed() => {}
            () = leader_changed(node.as_deref()) => {}
            () = crate::attend::applied(node.as_deref()) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn leader_changed(node: Option<&Node>) {
    match node {
        None => std::future::pending().await,
        Some(node) => {
            let mut leadership = node.leadership();
            leadership.mark_unchanged();
            if leadership.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn report(control: &Arc<Control>, node: &Arc<Node>) {
    let (sent_ns, sent_ms) = (control.boot_ns(), control.boot_ms());
    let message = message(control, node);
    let Some(mut reply) = deliver(control, node, message).await else { return };
    control.words.take(&control.state(), control.site(), std::mem::take(&mut reply.words), sent_ms);
    if reply.lease_epoch == 0 {
        tracing::debug!(leads = reply.leads, why = reply.why_no_lease, "reported; no lease came in answer");
        return;
    }
    let (epoch, took_ms) = (Epoch(reply.lease_epoch), control.boot_ms().saturating_sub(sent_ms));
    tracing::debug!(%epoch, lease_ms = reply.lease_ms, drain = reply.drain_op, took_ms, "the lease is renewed");
    let state = control.state();
    control.local().granted(&state, Epoch(reply.lease_epoch), reply.lease_ms, reply.drain_op, sent_ns);
    control.direct_soon.notify_one();
}

async fn deliver(control: &Arc<Control>, node: &Arc<Node>, message: v1::SiteReport) -> Option<v1::SiteReportReply> {
    if let Some(lead) = control.lead() {
        let message = v1::SiteReport { envelope: Some(node.envelope(node.id())), ..message };
        return Some(lead.report(message).await);
    }
    let leader = node.leader_site()?;
    if leader == *control.site() {
        return None;
    }
    let to_node = control.state().named(leader.as_str())?.node;
    let message = v1::SiteReport { envelope: Some(node.envelope(to_node)), ..message };
    let mut client = control.peers.client(leader.as_str()).ok()?;
    let limit = Duration::from_millis(control.state().lease_ms.max(1000));
    let reply = tokio::time::timeout(limit, client.report(message)).await;
    Some(reply.ok()?.ok()?.into_inner())
}

fn message(control: &Control, node: &Node) -> v1::SiteReport {
    let view = control.shipper.borrow().clone();
    let now_ms = control.boot_ms();
    v1::SiteReport {
        envelope: None,
        site: u32::from(control.id().0),
        instance: control.instance,
        sequence: control.next_sequence(),
        applied_index: node.applied().borrow().index(),
        shipper: view.live().cloned().map(|report| with_fence(report, control.local().is_fenced())),
        shipper_age_ms: now_ms.saturating_sub(view.at_ms),
        resigned_epoch: control.local().resigned().0,
        boot_ms: now_ms,
        wall_ms: i64::try_from(control.wall_ms()).unwrap_or(i64::MAX),
        controls: control.contacts.heard(now_ms),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        level: control.config.cluster.level.0,
    }
}

/// The fence is this process's word. Its shipper may not have taken it yet: one that was sealed takes a directive of its old
/// epoch only once a later one is open.
fn with_fence(report: v1::ShipperReport, fenced: bool) -> v1::ShipperReport {
    match (fenced, report.status == FENCED) {
        (true, false) => {
            v1::ShipperReport { status: FENCED.into(), why: "an operator fenced this site".into(), ..report }
        }
        (false, true) => {
            let why = "it takes part again, once a later epoch is open".to_owned();
            v1::ShipperReport { status: "WAITING".into(), why, ..report }
        }
        _ => report,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_fenced_by_the_word_of_its_control_process() {
        let said = |status: &str, fenced| {
            let report = v1::ShipperReport { status: status.into(), floor: 7, ..v1::ShipperReport::default() };
            let told = with_fence(report, fenced);
            assert_eq!(told.floor, 7);
            told.status
        };
        assert_eq!((said("READY", false), said("READY", true)), ("READY".into(), FENCED.into()));
        assert_eq!((said(FENCED, false), said(FENCED, true)), ("WAITING".into(), FENCED.into()));
    }
}
