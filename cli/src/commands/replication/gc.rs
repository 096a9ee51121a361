//! `cfs admin replication gc`.

use std::io::{self, Write};
use std::process::ExitCode;

use cfs_rpc::v1::GcRequest;
use serde::Serialize;

mod audit;

use super::journal_status::{Journal, data_site, size_text};
use crate::output::{self, Document};
use crate::{Context, client};

/// Arguments of `cfs admin replication gc`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also remove what is within the retention budget, if every enrolled site has it
    #[arg(long)]
    aggressive: bool,
    /// Remove audit records beyond their retention, and nothing of the journal
    #[arg(long, conflicts_with = "aggressive")]
    audit_only: bool,
}

#[derive(Debug, Serialize)]
struct Gc {
    site: String,
    freed_bytes: u64,
    segments: u64,
    /// Of the bytes, those that some site lacks: the budget was exceeded.
    forced_bytes: u64,
    aggressive: bool,
    journal: Journal,
    #[serde(flatten)]
    audit: audit::Collected,
}

impl Document for Gc {
    const SCHEMA: &'static str = "cfs.gc/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "site = {}", self.site)?;
        writeln!(out, "freed_bytes = {} ({})", self.freed_bytes, size_text(self.freed_bytes))?;
        writeln!(out, "segments_removed = {}", self.segments)?;
        if self.forced_bytes > 0 {
            writeln!(out, "of_which_a_site_lacks = {} ({})", self.forced_bytes, size_text(self.forced_bytes))?;
        }
        writeln!(out)?;
        writeln!(out, "What holds the rest:")?;
        self.journal.write_holds(out)?;
        writeln!(out)?;
        self.audit.write_table(out)
    }
}

/// Runs the command: what it removes is off the disk when it returns.
///
/// # Errors
/// When the shipper cannot be reached, when the site is a witness, or when the disk refuses.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    data_site(context)?;
    if args.audit_only {
        output::print(context.format(), &audit::collect(context).await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut inspect = client::inspect(context).await?;
    let request = GcRequest { aggressive: args.aggressive };
    let reply = inspect.gc(request).await.map_err(client::failed("remove segments of its journal"))?.into_inner();
    let journal = Journal::of(reply.journal.unwrap_or_default());
    let gc = Gc {
        site: reply.site,
        freed_bytes: reply.freed_bytes,
        segments: reply.segments,
        forced_bytes: reply.forced_bytes,
        aggressive: args.aggressive,
        journal,
        audit: audit::collect(context).await?,
    };
    output::print(context.format(), &gc)?;
    Ok(ExitCode::SUCCESS)
}
