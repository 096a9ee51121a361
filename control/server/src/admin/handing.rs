//! Who leads, and how a request gets there. While the leadership moves, whoever gets it is looked for; what may have been done
//! once is never asked for again.

use std::sync::Arc;
use std::time::Duration;

use cfs_control_core::way_out;
use cfs_model::SiteName;
use cfs_rpc::v1;
use cfs_rpc::v1::admin_reply::Kind as Reply;
use tokio::time::Instant;

use super::{Out, failure};
use crate::control::Control;
use crate::lead::Lead;
use crate::status;

/// Requests are forwarded so often at most.
const MAX_HOPS: u32 = 2;
/// A site that does not take a forwarded request within this does not answer.
pub(super) const FORWARD_LIMIT: Duration = Duration::from_millis(2000);
/// An election and the first round of its leader take less, ...
const ELECTION_LIMIT: Duration = Duration::from_secs(1);
/// ... unless the links are slow; while a majority answers it is waited for.
const SLOW_ELECTION_LIMIT: Duration = Duration::from_secs(2);
/// While the leadership moves, whoever gets it is looked for this long.
const MOVE_LIMIT: Duration = Duration::from_secs(2);
const MOVE_PAUSE: Duration = Duration::from_millis(100);
/// The code of a refusal because nobody leads: nothing was changed.
const NO_LEADER: &str = "NO_LEADER";

/// Waits for an election that is under way to end, and for the leader to be ready, for a bounded time.
pub(super) async fn leader_known(control: &Control) {
    let began = Instant::now();
    while control.lead().is_none() {
        let Some(node) = control.node() else { return };
        if node.leader_site().is_some_and(|leader| leader != *control.site()) {
            return;
        }
        let electing = status::quorum_of(control).settles();
        let limit = if electing { SLOW_ELECTION_LIMIT } else { ELECTION_LIMIT };
        if began.elapsed() > limit {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Why another site did not answer a request.
struct NotHanded {
    why: String,
    /// It is certain that nothing was done.
    undone: bool,
}

/// The leaders that are tried for one change, one after the other.
pub(super) struct Leaders {
    until: Instant,
    moved: Option<String>,
    /// The site that could be forced if there is no leader to be had.
    forced: Option<String>,
}

impl Leaders {
    /// For a request that came here: one that was forwarded is tried again by whoever forwarded it.
    pub(super) fn of(request: &v1::AdminRequest) -> Self {
        let patience = if request.hops == 0 { MOVE_LIMIT } else { Duration::ZERO };
        Self { until: Instant::now() + patience, moved: None, forced: None }
    }

    /// The same for what could also be had without a leader, by making this site primary by force.
    pub(super) fn or_forced(self, site: &str) -> Self {
        Self { forced: Some(site.to_owned()), ..self }
    }

    /// The leader's work, if this site leads. Otherwise the request is handed to the leader, or refused if nobody is known
    /// to lead, and there is no more to do.
    pub(super) async fn next(
        &mut self,
        control: &Arc<Control>,
        request: &v1::AdminRequest,
        what: &str,
        out: &Out,
    ) -> Option<Arc<Lead>> {
        loop {
            if let Some(why) = self.moved.take() {
                if Instant::now() > self.until {
                    self.refuse(control, what, why, out).await;
                    return None;
                }
                tokio::time::sleep(MOVE_PAUSE).await;
            }
            leader_known(control).await;
            if let Some(lead) = control.lead() {
                return Some(lead);
            }
            match hand_to_leader(control, request, out).await {
                Ok(()) => return None,
                Err(not) if not.undone => self.moved(not.why),
                Err(not) => {
                    self.refuse(control, what, not.why, out).await;
                    return None;
                }
            }
        }
    }

    async fn refuse(&self, control: &Control, what: &str, why: String, out: &Out) {
        let next = match &self.forced {
            None => "cfs admin replication status".to_owned(),
            // It may have taken longer than usual; nothing has to be forced.
            Some(_) if status::quorum_of(control).settles() => {
                "wait some seconds until a leader is elected, and repeat the command".to_owned()
            }
            Some(site) => format!("bring a majority up; if that cannot be, {}", way_out::force(site)),
        };
        out.failed(failure(NO_LEADER, what, why, next)).await;
    }

    /// The leadership moved before the change was made; it was not made.
    pub(super) fn moved(&mut self, why: String) {
        self.moved = Some(why);
    }
}

async fn hand_to_leader(control: &Arc<Control>, request: &v1::AdminRequest, out: &Out) -> Result<(), NotHanded> {
    match leader(control) {
        Ok(leader) => hand(control, &leader, request, out, true).await,
        Err(why) => {
            let soon = status::quorum_of(control).settles();
            Err(NotHanded { why, undone: soon })
        }
    }
}

fn leader(control: &Control) -> Result<SiteName, String> {
    let leader = control.node().and_then(|node| node.leader_site()).filter(|leader| leader != control.site());
    leader.ok_or_else(|| format!("no leader is known ({})", status::quorum(control)))
}

/// Hands a request to the leader, which answers in its own name. `Err` says why that cannot be.
pub(super) async fn forward_to_leader(
    control: &Arc<Control>,
    request: &v1::AdminRequest,
    out: &Out,
) -> Result<(), String> {
    forward(control, &leader(control)?, request, out).await
}

/// Hands a request to another site and passes its answers on.
pub(super) async fn forward(
    control: &Arc<Control>,
    site: &SiteName,
    request: &v1::AdminRequest,
    out: &Out,
) -> Result<(), String> {
    hand(control, site, request, out, false).await.map_err(|not| not.why)
}

/// The same; `again` if the request is tried elsewhere where the site says that it does not lead.
async fn hand(
    control: &Arc<Control>,
    site: &SiteName,
    request: &v1::AdminRequest,
    out: &Out,
    again: bool,
) -> Result<(), NotHanded> {
    let undone = |why: String| NotHanded { why, undone: true };
    let unknown = |why: String| NotHanded { why, undone: false };
    if request.hops >= MAX_HOPS {
        return Err(undone("the leadership moves: try again".into()));
    }
    let mut client = control.peers.client(site.as_str()).map_err(|error| undone(error.to_string()))?;
    let asked = client.admin(v1::AdminRequest { hops: request.hops + 1, ..request.clone() });
    let replies = tokio::time::timeout(FORWARD_LIMIT, asked).await;
    let replies = replies.map_err(|_| unknown(format!("{site} does not answer")))?;
    let mut replies = replies.map_err(|status| unknown(status.message().to_owned()))?.into_inner();
    loop {
        match replies.message().await {
            Ok(Some(reply)) => {
                if let Some(Reply::Failed(failed)) = &reply.kind
                    && again
                    && does_not_lead(failed)
                {
                    return Err(undone(failed.why.clone()));
                }
                // The caller may be gone.
                let _ = out.replies.send(Ok(reply)).await;
            }
            Ok(None) => return Ok(()),
            Err(status) => {
                return Err(unknown(format!("{site} went away while it answered: {}", status.message())));
            }
        }
    }
}

/// Whether a site that was taken for the leader refused because it does not lead.
fn does_not_lead(failed: &v1::Failed) -> bool {
    failed.code == NO_LEADER && failed.changed.is_empty() && failed.op == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_nothing_is_asked_for_again() {
        let refused = failure(NO_LEADER, "remove site-b", "the leadership moves", "");
        assert!(does_not_lead(&refused));
        assert!(!does_not_lead(&v1::Failed { op: 3, ..refused.clone() }));
        assert!(!does_not_lead(&v1::Failed { changed: "site-a is sealed".into(), ..refused }));
        assert!(!does_not_lead(&failure("REFUSED", "remove site-b", "it is primary", "")));
    }

    #[test]
    fn a_forwarded_request_is_tried_again_by_whoever_forwarded_it() {
        let of = |hops| Leaders::of(&v1::AdminRequest { hops, ..v1::AdminRequest::default() });
        assert!(of(0).until > Instant::now() + MOVE_LIMIT / 2);
        assert!(of(1).until <= Instant::now());
    }
}
