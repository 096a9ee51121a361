//! `cfs admin replication failover`.

use std::process::ExitCode;
use std::time::Duration;

use cfs_model::SiteName;
use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{Done, FailoverPlan, FailoverRequest};

use super::ask::{self, Answer};
use super::change::{self, Outcome};
use super::confirm;
use super::refusal::Refusal;
use crate::output;
use crate::{Context, duration};

mod plan;

use plan::Plan;

/// For how long beyond its timeout a change is waited for.
const GRACE: Duration = Duration::from_secs(5);

/// Arguments of `cfs admin replication failover`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site that is to be primary
    #[arg(long, value_name = "SITE")]
    to: SiteName,
    /// Print what would happen, what is at risk and what is in the way; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Although a hook vetoes it or something is in the way that may be overridden; without quorum, go on alone
    #[arg(long)]
    force: bool,
    /// Without a question
    #[arg(long)]
    yes: bool,
    /// Give up after so long, as in 500ms, 30s, 1m; a planned change is then taken back
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    timeout: Duration,
    /// After a split: write this site's values again, so that they win
    #[arg(long, value_name = "SITE")]
    prefer: Option<SiteName>,
    /// After a restart of the only voter: no other site acts for a newer generation
    #[arg(long)]
    alone: bool,
}

impl Args {
    fn request(&self) -> FailoverRequest {
        FailoverRequest {
            to: self.to.to_string(),
            dry_run: true,
            force: self.force,
            timeout_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
            confirmed: false,
            prefer: self.prefer.as_ref().map(ToString::to_string).unwrap_or_default(),
            alone: self.alone,
            plan_epoch: 0,
        }
    }

    /// As it was typed, for whoever has to type it again.
    fn command(&self) -> String {
        let mut command = "cfs admin replication failover".to_owned();
        for (given, flag) in [(self.force, " --force"), (self.alone, " --alone")] {
            if given {
                command.push_str(flag);
            }
        }
        if let Some(site) = &self.prefer {
            command.push_str(&format!(" --prefer {site}"));
        }
        format!("{command} --to {}", self.to)
    }
}

/// Runs the command. Nothing is changed before the plan was shown and confirmed.
///
/// # Errors
/// When it is blocked or not confirmed, or the control process refuses or cannot be reached.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let answer = ask::query::<FailoverPlan>(context, Kind::Failover(args.request())).await?;
    let plan = Plan::of(answer, args.force);
    if args.dry_run {
        output::print(context.format(), &plan)?;
        return Ok(if plan.is_blocked() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    if plan.already && !args.alone {
        let done = Done {
            text: format!("{} is primary already: nothing to do", args.to),
            epoch: plan.epoch_before,
            nothing_to_do: true,
            ..Done::default()
        };
        let answer = Answer { by: plan.answered_by.clone(), unreachable: plan.unreachable.clone(), body: done };
        return print(context, answer, &args);
    }
    if let Some(refusal) = plan.refusal(&args.command()) {
        return Err(refusal.into());
    }
    anstream::eprint!("{}", plan.before_and_after());
    confirm::on_terminal(args.yes, args.to.as_str(), args.command()).await?;
    let request = FailoverRequest { dry_run: false, confirmed: true, plan_epoch: plan.epoch_before, ..args.request() };
    // The leader counts the time; this is for a leader that does not.
    let limit = args.timeout + GRACE;
    let going = change::drive(context, "change the primary", Kind::Failover(request), Some(limit));
    let answer = going.await.map_err(with_next)?;
    print(context, answer, &args)
}

fn print(context: &Context, answer: Answer<Done>, args: &Args) -> anyhow::Result<ExitCode> {
    let outcome = Outcome { primary: Some(args.to.to_string()), ..Outcome::of("failover", answer) };
    output::print(context.format(), &outcome)?;
    Ok(ExitCode::SUCCESS)
}

/// Whatever went wrong on the way: the history tells how it ended.
fn with_next(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Refusal>() {
        Ok(refusal) if refusal.next.is_empty() && refusal.op == 0 => {
            Refusal { next: "cfs admin replication history".to_owned(), ..refusal }.into()
        }
        Ok(refusal) => refusal.into(),
        Err(error) => error,
    }
}

#[cfg(test)]
#[path = "failover_tests.rs"]
mod tests;
