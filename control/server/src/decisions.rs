//! Applied decisions go to this site's shipper, which keeps the audit trail: at least once, and again after each new
//! session. It recognises those that it has.

use std::sync::Arc;
use std::time::Duration;

use cfs_control_core::State;
use cfs_control_core::state::Event;
use cfs_rpc::v1::governor_client::GovernorClient;
use cfs_rpc::v1::{Decision, Decisions};
use tonic::Code;
use tonic::transport::Channel;

use crate::attend::applied;
use crate::control::Control;

/// Decisions in one message.
const CHUNK: usize = 64;
/// Pause before the next try, when the shipper has no room or fails.
const PAUSE: Duration = Duration::from_secs(1);

fn decision(state: &State, event: &Event) -> Decision {
    Decision {
        index: event.index,
        at_ms: event.at_ms,
        what: event.what.clone(),
        site: if event.site.0 == 0 { String::new() } else { state.name_of(event.site) },
        epoch: event.epoch.0,
        text: event.text.clone(),
        evidence: event.evidence.clone(),
        by: event.by.clone(),
    }
}

/// Runs for as long as the session with the shipper lasts.
pub(crate) async fn hand_over(control: Arc<Control>, channel: Channel) {
    let mut client = GovernorClient::new(channel);
    // Up to where the present group's decisions were handed over.
    let (mut group, mut told) = (0, 0);
    let mut member = control.watch_node();
    loop {
        let state = control.state();
        if state.group != group {
            (group, told) = (state.group, 0);
        }
        let fresh: Vec<&Event> = state.events.iter().filter(|event| event.index > told).take(CHUNK).collect();
        if let Some(last) = fresh.last() {
            let index = last.index;
            let decisions = fresh.into_iter().map(|event| decision(&state, event)).collect();
            match client.record_decisions(Decisions { decisions }).await {
                Ok(_) => told = index,
                // A shipper of an older version keeps no trail.
                Err(status) if status.code() == Code::Unimplemented => return,
                Err(status) => {
                    tracing::debug!(why = status.message(), "decisions were not recorded in the audit trail yet");
                    tokio::time::sleep(PAUSE).await;
                }
            }
            continue;
        }
        let node = control.node();
        tokio::select! {
            _ = member.changed() => {}
            () = applied(node.as_deref()) => {}
            // A change between the look at the state and the wait is not missed for long.
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}
