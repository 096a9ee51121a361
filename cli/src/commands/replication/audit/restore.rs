//! `cfs admin replication audit restore`.

use std::io::{self, Write};
use std::process::ExitCode;

use cfs_config::Config;
use cfs_rpc::v1::RestoreAuditRequest;
use serde::Serialize;

use super::super::operator;
use super::super::refusal::Refusal;
use crate::output::{self, Document};
use crate::{Context, client, path_text};

/// Arguments of `cfs admin replication audit restore`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The event of a conflict, as in its record: lost-...
    #[arg(value_name = "EVENT")]
    event: String,
    /// Also if a later write, whose writer had seen both, has settled it; and a deletion of which it is not known any more
    /// what it removed, or that leaves the inode without a name
    #[arg(long)]
    force: bool,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Restored {
    event: String,
    inode_id: u64,
    register: String,
    /// The site that wrote it, and the new entry.
    site: String,
    stream: String,
    lsn: u64,
}

impl Document for Restored {
    const SCHEMA: &'static str = "cfs.audit-restore/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { event, inode_id, register, site, stream, lsn } = self;
        let event = path_text::for_terminal(event.as_bytes());
        writeln!(out, "restored {register} of inode {inode_id} from {event}: {site} wrote it again as {stream}@{lsn}")
    }
}

/// Runs the command.
///
/// # Errors
/// When this site is not the primary, there is no such event, or its value cannot be written again.
pub(super) async fn run(context: &Context, config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let mut inspect = client::inspect(context).await?;
    let request = RestoreAuditRequest { event: args.event.clone(), force: args.force, operator: operator::name() };
    let reply = inspect.restore_audit(request).await.map_err(client::failed("restore the value"))?.into_inner();
    let event = path_text::for_terminal(args.event.as_bytes());
    let what = || format!("{event} was not restored");
    match reply.not_primary.as_str() {
        "" => {}
        "?" => {
            let why = format!("{} takes no appends, and no other site is known to be primary", config.site.name);
            return Err(Refusal::new("CFS-E143", what(), why, "cfs admin replication status").into());
        }
        primary => {
            let why =
                format!("{} is not the primary, {primary} is; the event has the same name there", config.site.name);
            let next = format!("run it on {primary}: cfs admin replication audit restore {event}");
            return Err(Refusal::new("CFS-E143", what(), why, next).into());
        }
    }
    if !reply.refused.is_empty() {
        let next = if reply.unknown {
            "cfs admin replication audit --filter conflict"
        } else {
            "see what the inode holds now: cfs admin meta lookup --detailed INODE"
        };
        return Err(Refusal::new("CFS-E144", what(), reply.refused, next).into());
    }
    let at = reply.at.unwrap_or_default();
    let restored = Restored {
        event: args.event,
        inode_id: reply.inode,
        register: reply.register,
        site: reply.site,
        stream: at.stream().map_or_else(String::new, |stream| stream.to_string()),
        lsn: at.lsn,
    };
    output::print(context.format(), &restored)?;
    if !reply.warning.is_empty() {
        anstream::eprintln!("warning: {}", reply.warning);
    }
    Ok(ExitCode::SUCCESS)
}
