//! `cfs admin replication shutdown`.

use std::process::ExitCode;
use std::time::Duration;

use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{Done, FailoverPlan, FailoverRequest, RemoveRequest};

use super::ask::Answer;
use super::change::Outcome;
use super::gather::gather;
use super::picture::{HEALTHY, PRIMARY, Picture};
use super::refusal::Refusal;
use super::{ask, change, confirm, remove};
use crate::Context;
use crate::output;

/// How long the role may take to move.
const MOVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Arguments of `cfs admin replication shutdown`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hand over the primary role, then leave the cluster; the only way there is
    #[arg(long, required = true)]
    graceful: bool,
    /// Without a question
    #[arg(long)]
    yes: bool,
}

const COMMAND: &str = "cfs admin replication shutdown --graceful";

/// Runs the command: this site hands the role over if it has it, and is a member no more. Its processes go on; `enroll`
/// brings it back.
///
/// # Errors
/// When nobody can take the role, it is the last site that holds data, or a control process refuses or cannot be reached.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let site = context.config()?.site.name.to_string();
    let picture = Picture::of(&gather(context, false).await?);
    if picture.state == "REMOVED" {
        let text = format!("{site} has left the cluster already");
        let done = Done { text, nothing_to_do: true, ..Done::default() };
        return print(context, Answer { by: site, unreachable: Vec::new(), body: done });
    }
    // Nobody is asked about what cannot be.
    let mut candidates = Vec::new();
    let request = RemoveRequest { site: site.clone(), force: false };
    let planned = remove::planned(context, request).await.map_err(as_shutdown);
    // An older control process plans nothing.
    let for_the_role = matches!(&planned, Ok(None)) || planned.as_ref().is_err_and(is_for_the_role);
    if picture.role == PRIMARY && for_the_role {
        candidates = who_can_take_over(context, &site, &picture).await?;
    } else {
        planned?;
    }
    if !args.yes {
        anstream::eprintln!(
            "{site} leaves the cluster: it hands the role over if it is primary, has no vote any more, and nobody waits for \
             it. What it holds stays on its disk; `cfs admin replication enroll` brings it back."
        );
    }
    confirm::on_terminal(args.yes, &site, COMMAND.to_owned()).await?;
    if picture.role == PRIMARY {
        hand_over(context, &site, candidates).await?;
    }
    let remove = Kind::Remove(RemoveRequest { site: site.clone(), force: false });
    let mut answer = change::drive(context, "leave the cluster", remove, None).await.map_err(as_shutdown)?;
    answer.body.text.push_str(&format!("; its processes may be stopped, `enroll` brings {site} back"));
    print(context, answer)
}

fn print(context: &Context, answer: Answer<Done>) -> anyhow::Result<ExitCode> {
    output::print(context.format(), &Outcome::of("shutdown", answer))?;
    Ok(ExitCode::SUCCESS)
}

/// A refusal of the parts names this command as what to repeat.
fn as_shutdown(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Refusal>() {
        Ok(refusal) if &*refusal.code == "UNSHARED" => Refusal {
            next: format!("wait until the others hold it (cfs admin replication lag --watch), then {COMMAND}"),
            ..refusal
        }
        .into(),
        Ok(refusal) => refusal.into(),
        Err(error) => error,
    }
}

/// Whether a site is not removed because it is primary, and for nothing else.
fn is_for_the_role(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refusal>().is_some_and(|refusal| &*refusal.code == "PRIMARY")
}

fn request_to(to: &str) -> FailoverRequest {
    let timeout_ms = MOVE_TIMEOUT.as_millis() as u64;
    FailoverRequest { to: to.to_owned(), timeout_ms, ..FailoverRequest::default() }
}

/// The sites that can take the role, in the order of the status.
async fn who_can_take_over(context: &Context, site: &str, picture: &Picture) -> anyhow::Result<Vec<String>> {
    let others = picture.peers.iter().filter(|peer| !peer.witness && peer.enrolled);
    let (mut able, mut reasons) = (Vec::new(), Vec::new());
    for peer in others {
        if peer.state != HEALTHY {
            reasons.push(format!("{} is {}", peer.site, peer.state));
            continue;
        }
        let plan = ask::query::<FailoverPlan>(context, Kind::Failover(request_to(&peer.site))).await?;
        match plan.body.blockers.first() {
            Some(blocker) => reasons.push(format!("{}: {}", peer.site, blocker.why)),
            None => able.push(peer.site.clone()),
        }
    }
    match (able.is_empty(), reasons.is_empty()) {
        (false, _) => Ok(able),
        (_, true) => {
            let why = format!("{site} is the last data site: it cannot leave");
            Err(Refusal::new("LAST", COMMAND, why, "cfs admin replication status").into())
        }
        (_, false) => Err(nobody(site, &reasons).into()),
    }
}

fn nobody(site: &str, reasons: &[String]) -> Refusal {
    let why = format!("{site} is primary and nobody can take the role: {}", reasons.join("; "));
    Refusal::new("NO_SUCCESSOR", COMMAND, why, "cfs admin replication status")
}

/// Gives the role to the first of these that takes it.
async fn hand_over(context: &Context, site: &str, candidates: Vec<String>) -> anyhow::Result<()> {
    let mut reasons = Vec::new();
    for to in candidates {
        anstream::eprintln!("{site} is primary: handing over to {to}");
        let request = FailoverRequest { confirmed: true, ..request_to(&to) };
        match change::drive(context, "hand the role over", Kind::Failover(request), Some(2 * MOVE_TIMEOUT)).await {
            Ok(_) => return Ok(()),
            Err(error) => reasons.push(format!("{to}: {error:#}")),
        }
    }
    Err(nobody(site, &reasons).into())
}
