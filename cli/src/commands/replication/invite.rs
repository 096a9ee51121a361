//! `cfs admin replication invite`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use cfs_model::SiteName;
use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{InviteAnswer, InviteRequest};
use serde::Serialize;

use super::ask;
use super::history::moment;
use crate::output::{self, Document};
use crate::{Context, duration};

/// Arguments of `cfs admin replication invite`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site that is to be enrolled, and no other
    #[arg(value_name = "SITE")]
    site: SiteName,
    /// How long the token is good, an hour at most
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = duration::parse)]
    ttl: Duration,
}

/// An invitation.
#[derive(Debug, Serialize)]
struct Invitation {
    site: String,
    token: String,
    until: String,
    ca_pin: String,
    via: String,
    address: String,
    answered_by: String,
}

impl Document for Invitation {
    const SCHEMA: &'static str = "cfs.invitation/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.token)
    }
}

/// Runs the command: prints the token, and nothing else unless another format is asked for.
///
/// # Errors
/// When the control process refuses or cannot be reached; then nobody is invited.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let ttl_ms = u64::try_from(args.ttl.as_millis()).unwrap_or(u64::MAX);
    let request = InviteRequest { site: args.site.to_string(), ttl_ms };
    let answer = ask::query::<InviteAnswer>(context, Kind::Invite(request)).await?;
    let InviteAnswer { token, site, until_ms, pin, via, address } = answer.body;
    let until = moment(until_ms);
    let invitation = Invitation { site, token, until, ca_pin: pin, via, address, answered_by: answer.by };
    output::print(context.format(), &invitation)?;
    anstream::eprintln!(
        "good once, for {site}, until {until}, through {via} at {address}\n  pin of the authority: {pin}\n  next: on {site}, with the \
         cluster's id in its configuration: cfs admin replication enroll --primary {via} --token TOKEN",
        site = invitation.site,
        until = invitation.until,
        via = invitation.via,
        address = invitation.address,
        pin = invitation.ca_pin,
    );
    Ok(ExitCode::SUCCESS)
}
