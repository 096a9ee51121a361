//! `cfs admin replication`: how replication goes, and who is primary.

use std::process::ExitCode;

use crate::Context;

pub(in crate::commands) mod ask;
pub mod audit;
pub mod bootstrap_status;
mod certificates;
mod change;
pub mod config;
mod confirm;
pub mod cursor;
pub mod debug;
pub mod enroll;
pub mod failover;
#[cfg(test)]
mod fixture_tests;
mod gather;
pub mod gc;
pub mod health;
pub mod history;
pub mod invite;
pub mod journal_status;
pub mod lag;
pub mod metrics;
mod operator;
mod picture;
mod redeem;
pub(in crate::commands) mod refusal;
pub mod rejoin;
pub mod remove;
pub mod resync;
pub mod shutdown;
pub mod split_brain;
pub mod status;
pub mod watch;

use refusal::Refusal;

/// Verbs of `cfs admin replication`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show this site's role, lag and peers
    Status(status::Args),
    /// Tell whether all sites are well, what is not and what to do; exits with 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN
    Health(health::Args),
    /// Show how far each site is behind, and on whose word
    Lag(lag::Args),
    /// Make another site the primary
    Failover(failover::Args),
    /// Take this site into the cluster
    Enroll(enroll::Args),
    /// Show how far this site is in coming to hold what the others hold
    BootstrapStatus(bootstrap_status::Args),
    /// Let a site that has no certificates yet ask for them, once
    Invite(invite::Args),
    /// Bring this site back into the cluster, keeping everything that it holds
    Rejoin(rejoin::Args),
    /// Take a site out of the cluster
    Remove(remove::Args),
    /// Leave the cluster, handing over the primary role first
    Shutdown(shutdown::Args),
    /// Repair one inode of this site's store from another site
    Resync(resync::Args),
    /// Two sites that act for different epochs
    #[command(subcommand)]
    SplitBrain(split_brain::Command),
    /// Show changes of primary, and every other decision
    History(history::Args),
    /// Show what happened: lost writes, decisions, errors
    Audit(audit::Args),
    /// Remove what is kept longer than it has to be
    Gc(gc::Args),
    /// Show how far each stream has come
    #[command(subcommand)]
    Cursor(cursor::Command),
    /// Show what is in this site's journal, what may go and what holds the rest
    JournalStatus(journal_status::Args),
    /// Show the cluster's settings, or change them on all sites
    Config(Box<config::Args>),
    /// Print this site's metrics
    Metrics(metrics::Args),
    /// Look for the cause of something: what both processes do at this moment, or everything about the cluster in one archive
    Debug(debug::Args),
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let outcome = match self {
            Self::Status(args) => status::run(context, args).await,
            Self::Health(args) => health::run(context, args).await,
            Self::Lag(args) => lag::run(context, args).await,
            Self::Failover(args) => failover::run(context, args).await,
            Self::Enroll(args) => enroll::run(context, args).await,
            Self::BootstrapStatus(args) => bootstrap_status::run(context, args).await,
            Self::Invite(args) => invite::run(context, args).await,
            Self::Rejoin(args) => rejoin::run(context, args).await,
            Self::Remove(args) => remove::run(context, args).await,
            Self::Shutdown(args) => shutdown::run(context, args).await,
            Self::Resync(args) => resync::run(context, args).await,
            Self::SplitBrain(command) => command.run(context).await,
            Self::History(args) => history::run(context, args).await,
            Self::Audit(args) => audit::run(context, args).await,
            Self::Gc(args) => gc::run(context, args).await,
            Self::Cursor(command) => command.run(context).await,
            Self::JournalStatus(args) => journal_status::run(context, args).await,
            Self::Config(args) => config::run(context, *args).await,
            Self::Metrics(args) => metrics::run(context, args).await,
            Self::Debug(args) => debug::run(context, args).await,
        };
        // A refusal has its own form on standard error.
        match outcome {
            Err(error) => match error.downcast_ref::<Refusal>() {
                Some(refusal) => Ok(refusal.report()),
                None => Err(error),
            },
            done => done,
        }
    }
}
