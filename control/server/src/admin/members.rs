//! Members that come, come back and go, and who leads them.

mod named;

use std::sync::Arc;
use std::time::Duration;

use cfs_control_core::local::Fence;
use cfs_control_core::{Kind, removal};
use cfs_model::SiteName;
use cfs_rpc::v1;

use self::named::{Named, unusable};
use super::{FORWARD_LIMIT, Leaders, Out, failure, forward, forward_to_leader, leader_known, rebuild};
use crate::control::Control;
use crate::lead::{Lead, Undone};
use crate::{contact, membership, status};

/// Longest that the leadership is held for a test.
const MOST_HOLD_MS: u64 = 3_600_000;
/// How long a move of the leadership may take.
const MOVE_LIMIT: Duration = Duration::from_secs(10);
/// While the leadership moves, whoever gets it is looked for this long.
const PROPOSE_LIMIT: Duration = Duration::from_secs(2);
const PROPOSE_PAUSE: Duration = Duration::from_millis(100);

/// `cfs admin replication enroll --primary SITE [--witness]`, on the site that is to be enrolled.
pub(super) async fn enroll(control: &Arc<Control>, request: &v1::EnrollRequest, out: &Out) {
    if request.force_rebuild {
        return rebuild::run(control, request, out).await;
    }
    let what = format!("enroll {}", control.site());
    let witness = control.config.site.witness;
    if request.witness != witness {
        let (is, flag) = if witness { ("is a witness", "with --witness") } else { ("holds data", "without --witness") };
        let why = format!("the configuration says that {} {is} (site.kind)", control.site());
        return out.failed(failure("KIND", &what, why, format!("enroll it {flag}, or change site.kind"))).await;
    }
    if control.node().is_some() {
        if let Some(refused) = unusable(control, &request.primary, Named::Member) {
            return out.failed(failure(refused.code, &what, refused.why, refused.next)).await;
        }
        if control.local().is_fenced() {
            return out.failed(fenced(control, &what)).await;
        }
        let removed = status::was_removed(control, &control.state());
        if !removed {
            let text = format!("{} is enrolled already", control.site());
            return out.done(v1::Done { text, nothing_to_do: true, ..v1::Done::default() }).await;
        }
    }
    if request.primary == control.site().as_str() {
        let next = "name an enrolled site: cfs admin replication enroll --primary SITE";
        return out.failed(failure("ITSELF", &what, "a site cannot be enrolled through itself", next)).await;
    }
    out.progress("enrolling", format!("asking {}", request.primary), 0, 0).await;
    join(control, &what, &request.primary, false, out).await;
}

async fn join(control: &Arc<Control>, what: &str, through: &str, rejoin: bool, out: &Out) {
    let joined = match SiteName::new(through) {
        Ok(site) => membership::join(control, &site, rejoin).await,
        Err(error) => Err(membership::Error::UnknownSite(error.to_string())),
    };
    match joined {
        Ok(_) if let Some(why) = rebuild::must(control).await => {
            rebuild::after_joining(control, what, through, &why, out).await;
        }
        Ok(text) => out.done(v1::Done { text, epoch: control.state().epoch.0, ..v1::Done::default() }).await,
        Err(error) => out.failed(not_joined(control, what, through, &error)).await,
    }
}

/// Why a site did not become a member, for people.
pub(super) fn not_joined(control: &Control, what: &str, through: &str, error: &membership::Error) -> v1::Failed {
    let (code, next) = match error {
        membership::Error::UnknownSite(_) => {
            ("UNKNOWN_SITE", "add it to [[peers]] in the configuration: cfs config check".to_owned())
        }
        membership::Error::Unreachable { site, .. } => {
            ("UNREACHABLE", format!("on {site}: systemctl status claudefs-control"))
        }
        membership::Error::Refused(_) => ("REFUSED", format!("on {through}: cfs admin replication status")),
        membership::Error::NoRoom(_) => {
            let dir = control.config.control_dir().display();
            ("DISK_FULL", format!("df -h {dir}; free space, and repeat the command"))
        }
        membership::Error::State(_) => ("STATE", "journalctl -u claudefs-control".to_owned()),
        membership::Error::NotReached(_) => ("NOT_REACHED", "cfs admin replication status".to_owned()),
    };
    failure(code, what, error.to_string(), next)
}

/// `cfs admin replication rejoin --primary SITE`, on the site that comes back.
pub(super) async fn rejoin(control: &Arc<Control>, request: &v1::AdminRequest, rejoin: &v1::RejoinRequest, out: &Out) {
    let what = format!("rejoin {}", control.site());
    // The other side may have been made primary a moment ago, and this site may have started just now: in its log it may be
    // the primary still, and lead.
    if !control.local().is_fenced() {
        leader_known(control).await;
    }
    contact::ask_all(control).await;
    catch_up(control).await;
    let state = control.state();
    let member = state.site(control.id()).is_some() && !status::was_removed(control, &state);
    let fenced = control.local().is_fenced();
    if member && !fenced && state.primary == Some(control.id()) {
        let why = format!("{} is primary itself", control.site());
        return out.failed(failure("PRIMARY", &what, why, "cfs admin replication status")).await;
    }
    if let Some(refused) = unusable(control, &rejoin.primary, Named::Primary) {
        return out.failed(failure(refused.code, &what, refused.why, refused.next)).await;
    }
    if fenced {
        match group_of(control, &rejoin.primary) {
            // It is a member beside that one already, and its vote may be needed: what fences it has to be over first.
            Ok(group) if group == state.group => return out.failed(self::fenced(control, &what)).await,
            Ok(_) => {}
            // What it said before may be over: it may have been made primary by force.
            Err(why) => {
                let next = format!("on {}: systemctl status claudefs-control", rejoin.primary);
                return out.failed(failure("UNREACHABLE", &what, why, next)).await;
            }
        }
    }
    if member && !fenced && !state.held.contains(&control.id()) {
        if status::quorum(control) == "ok" {
            let text = has_rejoined(control.site(), control.config.site.witness, state.is_shared());
            return out.done(v1::Done { text, nothing_to_do: true, epoch: state.epoch.0, ..v1::Done::default() }).await;
        }
        let why = status::quorum(control);
        return out.failed(failure("NO_QUORUM", &what, why, "cfs admin replication status")).await;
    }
    if member && !fenced {
        let hold = Kind::Hold { site: control.id(), held: false, why: "an operator said so".into() };
        return release(control, request, hold, &what, out).await;
    }
    out.progress("rejoining", format!("asking {}", rejoin.primary), 0, 0).await;
    join(control, &what, &rejoin.primary, true, out).await;
}

/// Waits until what the others of this site's group have applied is applied here too, for [`PROPOSE_LIMIT`] at most.
async fn catch_up(control: &Control) {
    let group = control.state().group;
    let of_group = control.contacts.answers().into_iter().filter(|reply| reply.group == group && group != 0);
    let (Some(node), Some(index)) = (control.node(), of_group.map(|reply| reply.applied_index).max()) else { return };
    let until = tokio::time::Instant::now() + PROPOSE_LIMIT;
    while node.applied().borrow().index() < index && tokio::time::Instant::now() < until {
        node.catch_up(index).await;
    }
}

/// Why a fenced site does not do what is asked, and what leads out of that.
pub(super) fn fenced(control: &Control, what: &str) -> v1::Failed {
    let here = status::here(control);
    failure("FENCED", what, format!("this site is fenced: {}", here.why), here.next)
}

/// Whether an operator sealed this site for another one.
pub(super) fn is_sealed(control: &Control) -> bool {
    matches!(control.local().fenced(), Fence::SealedFor(_))
}

/// The group that a site said it is in when it was asked a moment ago.
fn group_of(control: &Control, name: &str) -> Result<u64, String> {
    let contact = SiteName::new(name).ok().and_then(|site| control.contacts.get(&site)).unwrap_or_default();
    match contact.reply {
        Some(reply) if contact.error.is_empty() => Ok(reply.group),
        _ => Err(format!("{name} does not answer: {}", contact.error)),
    }
}

/// What is said to who asks a site to rejoin that has, whether by itself or by an earlier command.
fn has_rejoined(site: &SiteName, witness: bool, shared: bool) -> String {
    let is = match (witness, shared) {
        (true, _) => "is a witness",
        (false, true) => "takes appends, as every data site does",
        (false, false) => "is a replica",
    };
    format!("{site} has rejoined and {is}")
}

/// A site that was held apart takes part again.
async fn release(control: &Arc<Control>, request: &v1::AdminRequest, hold: Kind, what: &str, out: &Out) {
    match propose_through_leader(control, hold, &request.operator).await {
        Ok(()) => {
            let text = format!("{} takes part again", control.site());
            out.done(v1::Done { text, epoch: control.state().epoch.0, ..v1::Done::default() }).await;
        }
        Err(why) => out.failed(failure("REFUSED", what, why, "cfs admin replication status")).await,
    }
}

/// Hands a command to the leader, wherever it is; while the leadership moves, to whoever gets it. Once this returns well the
/// command is applied here too, unless this site is far behind.
pub(super) async fn propose_through_leader(control: &Arc<Control>, kind: Kind, operator: &str) -> Result<(), String> {
    let until = tokio::time::Instant::now() + PROPOSE_LIMIT;
    loop {
        match propose_once(control, kind.clone(), operator).await {
            Err(undone) if undone.moved && tokio::time::Instant::now() < until => {
                tokio::time::sleep(PROPOSE_PAUSE).await;
            }
            outcome => return outcome.map_err(|undone| undone.why),
        }
    }
}

async fn propose_once(control: &Arc<Control>, kind: Kind, operator: &str) -> Result<(), Undone> {
    let undone = |why: String| Undone { why, moved: false };
    let node = control.node().ok_or_else(|| undone("this site is not enrolled".into()))?;
    leader_known(control).await;
    if let Some(lead) = control.lead() {
        lead.commit(operator, kind).await?;
        lead.wake();
        return Ok(());
    }
    let leader = node.leader_site().filter(|leader| leader != control.site());
    let leader = leader.ok_or_else(|| undone(format!("no leader is known ({})", status::quorum(control))))?;
    let to_node = control.state().named(leader.as_str()).map(|site| site.node);
    let to_node = to_node.ok_or_else(|| undone(format!("{leader} leads and is no member here yet: try again")))?;
    let command = cfs_control_core::Command { at_ms: control.wall_ms(), by: operator.to_owned(), kind };
    let command = serde_json::to_vec(&command).map_err(|error| undone(error.to_string()))?;
    let request = v1::ProposeRequest { envelope: Some(node.envelope(to_node)), command: command.into() };
    let mut client = control.peers.client(leader.as_str()).map_err(|error| undone(error.to_string()))?;
    let reply = tokio::time::timeout(FORWARD_LIMIT, client.propose(request)).await;
    let reply = reply.map_err(|_| undone(format!("{leader} does not answer: the change may still come to pass")))?;
    // It says so itself, and only if it did nothing.
    let moved = |status: &tonic::Status| status.code() == tonic::Code::Aborted;
    let reply = reply.map_err(|s| Undone { moved: moved(&s), why: format!("{leader}: {}", s.message()) })?;
    let reply = reply.into_inner();
    if !reply.done {
        return Err(undone(reply.why));
    }
    node.catch_up(reply.applied_index).await;
    Ok(())
}

/// `cfs admin replication remove SITE`, on any site. What is only `looked` at is not done: so that an operator is asked only about
/// what can be.
pub(super) async fn remove(
    control: &Arc<Control>,
    request: &v1::AdminRequest,
    remove: &v1::RemoveRequest,
    looked: bool,
    out: &Out,
) {
    let what = format!("remove {}", remove.site);
    let mut leaders = Leaders::of(request);
    while let Some(lead) = leaders.next(control, request, &what, out).await {
        match removed(control, &lead, request, remove, looked, &what).await {
            Ok(Ok(done)) => return out.done(done).await,
            Ok(Err(failed)) => return out.failed(failed).await,
            Err(moved) => leaders.moved(moved),
        }
    }
}

/// Removes a site, or refuses; `Err` if another site leads meanwhile, which is to be asked then.
async fn removed(
    control: &Arc<Control>,
    lead: &Lead,
    request: &v1::AdminRequest,
    remove: &v1::RemoveRequest,
    looked: bool,
    what: &str,
) -> Result<Result<v1::Done, v1::Failed>, String> {
    let state = control.state();
    if state.named(&remove.site).is_none() && state.removed.values().any(|name| name.as_str() == remove.site) {
        let text = format!("{} is removed already", remove.site);
        return Ok(Ok(v1::Done { text, nothing_to_do: true, ..v1::Done::default() }));
    }
    // A leader that was elected a moment ago has heard nobody yet.
    lead.reports_of(&state.sites.keys().copied().collect::<Vec<_>>()).await;
    let word = super::failover::word_of(control, &state, &remove.site).await;
    let plan = removal::plan(&state, &lead.coordinator(), &remove.site, word.fenced.as_deref(), control.boot_ms());
    let plan = match plan {
        Ok(plan) => plan,
        Err(refused) => return Ok(Err(failure(refused.code, what, refused.why, refused.next))),
    };
    if let Some(blocker) = plan.blockers.iter().find(|blocker| !blocker.forceable || !remove.force) {
        return Ok(Err(failure(blocker.code, what, blocker.why.clone(), blocker.next.clone())));
    }
    let mut text = match looked {
        true => format!("{} can be removed", remove.site),
        false => format!("{} is removed; its streams end where the remaining sites hold them", remove.site),
    };
    for warning in &plan.warnings {
        text.push_str("; ");
        text.push_str(warning);
    }
    let done = v1::Done { text, epoch: state.epoch.0, ..v1::Done::default() };
    if looked {
        return Ok(Ok(done));
    }
    match lead.commit(&request.operator, Kind::Remove { site: plan.site, forced: remove.force }).await {
        Ok(_) => Ok(Ok(done)),
        Err(undone) if undone.moved => Err(undone.why),
        Err(undone) => Ok(Err(failure("REFUSED", what, undone.why, "cfs admin replication status"))),
    }
}

/// `cfs dev leader`: moves the leadership and holds it there for a while. It goes by way of the site that is to lead, which
/// must know that it is to keep it.
pub(super) async fn lead(control: &Arc<Control>, request: &v1::AdminRequest, lead: &v1::LeadRequest, out: &Out) {
    let what = format!("move the leadership to {}", lead.site);
    let site = match SiteName::new(&lead.site) {
        Ok(site) => site,
        Err(error) => return out.failed(failure("UNKNOWN_SITE", &what, error.to_string(), "")).await,
    };
    let here = site == *control.site();
    if here {
        control.hold_leadership(lead.hold_ms.min(MOST_HOLD_MS));
    }
    if here && control.lead().is_some() {
        return out.done(v1::Done { text: format!("{site} leads"), ..v1::Done::default() }).await;
    }
    if control.lead().is_none() || request.hops == 0 {
        let forwarded = if here {
            forward_to_leader(control, request, out).await
        } else {
            forward(control, &site, request, out).await
        };
        if let Err(why) = forwarded {
            out.failed(failure("NO_LEADER", &what, why, "cfs admin replication status")).await;
        }
        return;
    }
    let Some(node) = control.node() else { return };
    match tokio::time::timeout(MOVE_LIMIT, node.move_leadership(&site)).await {
        Ok(Ok(())) => out.done(v1::Done { text: format!("{site} leads"), ..v1::Done::default() }).await,
        Ok(Err(error)) => out.failed(failure("REFUSED", &what, error.to_string(), "try again")).await,
        Err(_) => out.failed(failure("TIMEOUT", &what, format!("not within {MOVE_LIMIT:?}"), "try again")).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_that_has_rejoined_is_called_what_it_is() {
        let said = |site: &str, witness, shared| has_rejoined(&SiteName::new(site).expect("a name"), witness, shared);
        assert_eq!(said("site-a", false, false), "site-a has rejoined and is a replica");
        assert_eq!(said("site-a", false, true), "site-a has rejoined and takes appends, as every data site does");
        assert_eq!(said("site-w", true, true), "site-w has rejoined and is a witness");
    }
}
