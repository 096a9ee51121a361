//! `cfs admin replication resync`.

use std::io::{self, Write};
use std::process::ExitCode;

use cfs_rpc::v1::{ResyncProgress, ResyncRequest};
use serde::Serialize;

use crate::commands::meta::inode_number;
use crate::output::{self, Document, Format};
use crate::{Context, client};

/// Arguments of `cfs admin replication resync`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The inode whose attributes, extended attributes and, of a directory, entries are to be repaired on this site
    #[arg(long, value_name = "N", value_parser = inode_number)]
    inode: u64,
    /// Take them from this site; otherwise from one whose registers all have the digest that it keeps
    #[arg(long, value_name = "SITE")]
    from: Option<String>,
    /// Take them also from a site that is damaged, as long as the damage is elsewhere
    #[arg(long)]
    force: bool,
}

/// How it went.
#[derive(Debug, Serialize)]
struct Report {
    site: String,
    inode: u64,
    source: String,
    registers: u64,
    changed: u64,
    steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
struct Step {
    phase: String,
    text: String,
}

impl Document for Report {
    const SCHEMA: &'static str = "cfs.resync/1";

    /// The steps have been printed as they came.
    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let what = match self.changed {
            0 => "nothing had to be repaired".to_owned(),
            changed => format!("{changed} rows repaired"),
        };
        writeln!(
            out,
            "RESULT: {} registers of inode {} compared with {}, {what}",
            self.registers, self.inode, self.source
        )
    }
}

/// Runs the command: prints steps as they happen.
///
/// # Errors
/// When the shipper cannot be reached, or no site has a copy that may be used.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut inspect = client::inspect(context).await?;
    let action = || format!("repair inode {}", args.inode);
    let request = ResyncRequest { inode: args.inode, from: args.from.clone().unwrap_or_default(), force: args.force };
    let mut replies = inspect.resync(request).await.map_err(client::failed(action()))?.into_inner();
    let (mut steps, mut last) = (Vec::new(), ResyncProgress::default());
    while let Some(progress) = replies.message().await.map_err(client::failed(action()))? {
        if context.format() == Format::Table {
            anstream::println!("{}: {}", progress.phase, progress.text);
        }
        steps.push(Step { phase: progress.phase.clone(), text: progress.text.clone() });
        last = progress;
    }
    let report = Report {
        site: last.site,
        inode: args.inode,
        source: last.source,
        registers: last.registers,
        changed: last.changed,
        steps,
    };
    output::print(context.format(), &report)?;
    Ok(ExitCode::SUCCESS)
}
