//! The leader's orders, as this site carries them out. Each may come again, and then has the same effect.

use std::sync::Arc;
use std::time::Duration;

use cfs_model::{Epoch, Vector};
use cfs_rpc::v1::order_request::Kind;
use cfs_rpc::v1::{OrderReply, OrderRequest, ShipperReport};

use crate::control::Control;
use crate::{hooks, wire};

/// Longest that an order may take, whatever it says.
const MOST_MS: u64 = 60_000;
/// The primary's shipper gives a sign of life within this, and this site's tells of it.
const HEARS_LIMIT: Duration = Duration::from_millis(2_000);

/// Carries out an order and answers when it is done, or why it was not.
pub(crate) async fn carry_out(control: &Arc<Control>, order: OrderRequest) -> OrderReply {
    let limit = Duration::from_millis(order.timeout_ms.clamp(1, MOST_MS));
    let work = async {
        match order.kind() {
            Kind::Seal => seal(control, Epoch(order.floor)).await,
            Kind::Drain => drain(control, order.op).await,
            Kind::CatchUp => catch_up(control, &order).await,
            Kind::PrePromote => match hears(control, order.hears).await {
                true => promote(control, &order).await,
                false => OrderReply { deaf: true, ..refused("the primary's shipper is not heard") },
            },
            Kind::Unspecified => refused("this version does not know the order"),
        }
    };
    tracing::debug!(kind = ?order.kind(), op = order.op, epoch = order.epoch, floor = order.floor, "an order of the leader");
    let reply = match tokio::time::timeout(limit, work).await {
        Ok(reply) => reply,
        Err(_) => refused(&format!("not done within {} ms: {}", limit.as_millis(), shipper_state(control))),
    };
    tracing::debug!(kind = ?order.kind(), op = order.op, done = reply.done, why = reply.why, "answers the leader");
    reply
}

fn refused(why: &str) -> OrderReply {
    OrderReply { why: why.to_owned(), ..OrderReply::default() }
}

fn shipper_state(control: &Control) -> String {
    let view = control.shipper.borrow();
    match view.live() {
        None => format!("the shipper is not reached ({})", view.error),
        Some(report) if report.why.is_empty() => format!("the shipper says {}", report.status),
        Some(report) => format!("the shipper says {}: {}", report.status, report.why),
    }
}

/// Waits until the shipper has said what `enough` wants to hear, in a session that lasts.
async fn until(control: &Control, enough: impl Fn(&ShipperReport) -> bool) -> OrderReply {
    let mut view = control.shipper.subscribe();
    loop {
        let done = view.borrow_and_update().live().filter(|report| enough(report)).map(|report| OrderReply {
            done: true,
            floor: report.floor,
            streams: report.streams.clone(),
            ..OrderReply::default()
        });
        if let Some(reply) = done {
            return reply;
        }
        if view.changed().await.is_err() {
            return refused("the control process is stopping");
        }
    }
}

/// A report that carries the floor was made after the floor was on disk and in force, and its cursors were read after that.
async fn seal(control: &Control, floor: Epoch) -> OrderReply {
    if control.config.site.witness {
        return refused("a witness has nothing to seal");
    }
    control.local().seal(floor);
    control.direct_soon.notify_one();
    if !control.shipper.borrow().connected {
        return refused(&shipper_state(control));
    }
    until(control, |report| Epoch(report.floor) >= floor).await
}

async fn drain(control: &Control, op: u64) -> OrderReply {
    let state = control.state();
    if state.last_op >= op && state.operation.as_ref().is_none_or(|running| running.op != op) {
        return refused(&format!("operation {op} is over"));
    }
    control.local().drain(&state, op);
    control.direct_soon.notify_one();
    until(control, |report| report.drained_op >= op).await
}

async fn catch_up(control: &Arc<Control>, order: &OrderRequest) -> OrderReply {
    let Some(cut) = Vector::from_wire(&order.cut) else { return refused("the cut does not read") };
    let floor = Epoch(order.floor);
    {
        let mut local = control.local();
        local.seal(floor);
        local.fetch(cut.clone());
    }
    control.direct_soon.notify_one();
    if !control.shipper.borrow().connected {
        return refused(&shipper_state(control));
    }
    let applied = |report: &ShipperReport| {
        let (durable, applied) = wire::vectors(&report.streams);
        Epoch(report.floor) >= floor && durable.covers(&cut) && applied.covers(&cut)
    };
    let reply = until(control, applied).await;
    if reply.done && order.hook {
        let vetoed = promote(control, order).await;
        if !vetoed.done {
            return vetoed;
        }
    }
    reply
}

/// Whether this site's shipper hears that of `primary` as a source from now on; 0: nobody asks. What was heard before says
/// nothing of a link that was cut a moment ago.
async fn hears(control: &Control, primary: u32) -> bool {
    if primary == 0 {
        return true;
    }
    let asked_ms = control.boot_ms();
    let mut view = control.shipper.subscribe();
    let heard = async {
        loop {
            let (report, at_ms) = {
                let view = view.borrow_and_update();
                (view.live().cloned(), view.at_ms)
            };
            if report.is_some_and(|report| heard_since(&report, primary, at_ms.saturating_sub(asked_ms))) {
                return true;
            }
            if view.changed().await.is_err() {
                return false;
            }
        }
    };
    tokio::time::timeout(HEARS_LIMIT, heard).await.unwrap_or(false)
}

/// Whether a report that came `after_ms` later than a question shows that `primary` was heard as a source since.
fn heard_since(report: &ShipperReport, primary: u32, after_ms: u64) -> bool {
    report.peers.iter().any(|peer| peer.site == primary && peer.source_age_ms < after_ms)
}

async fn promote(control: &Arc<Control>, order: &OrderRequest) -> OrderReply {
    match hooks::pre_promote(control, Epoch(order.epoch), &order.reason).await {
        Ok(()) => OrderReply { done: true, ..OrderReply::default() },
        Err(why) => OrderReply { vetoed: true, ..refused(&why) },
    }
}

#[cfg(test)]
mod tests {
    use cfs_rpc::v1::PeerHeard;

    use super::*;

    /// A link that was cut a moment ago was heard a moment ago: only what comes after the question answers it.
    #[test]
    fn a_primary_is_heard_only_by_what_comes_after_the_question() {
        let report = |source_age_ms| ShipperReport {
            peers: vec![PeerHeard { site: 1, source_age_ms, ..PeerHeard::default() }],
            ..ShipperReport::default()
        };
        assert!(!heard_since(&report(0), 1, 0), "the report is older than the question");
        assert!(!heard_since(&report(250), 1, 200) && !heard_since(&report(u64::MAX), 1, 5_000));
        assert!(heard_since(&report(100), 1, 200));
        assert!(!heard_since(&report(100), 2, 200), "another site");
    }
}
