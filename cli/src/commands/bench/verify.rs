//! `cfs bench verify`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use cfs_model::Epoch;
use cfs_rpc::v1::inspect_client::InspectClient;
use cfs_rpc::v1::{ReadDirectoryRequest, StatusRequest};
use serde::Serialize;
use tonic::transport::Channel;

use crate::bench::{self, RecordEntry};
use crate::output::{self, Document};
use crate::{Context, client};

/// Arguments of `cfs bench verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What `cfs bench append --follow-primary --record FILE` wrote
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
}

#[derive(Debug, Serialize)]
struct Results {
    site: String,
    checked: u64,
    missing: u64,
    first_missing: Option<RecordEntry>,
}

impl Document for Results {
    const SCHEMA: &'static str = "cfs.bench-verify/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}: {} acknowledged entries checked, {} missing", self.site, self.checked, self.missing)?;
        if let Some(first) = &self.first_missing {
            writeln!(
                out,
                "first missing: entry {} of {}, inode {}, acknowledged by {} in epoch {} at {} ms, {}:{}",
                first.seq,
                first.producer,
                first.inode,
                first.site,
                Epoch(first.epoch),
                first.unix_ms,
                first.stream,
                first.lsn
            )?;
        }
        Ok(())
    }
}

/// Runs the command: exits with 1 if an entry is missing. What the site has not applied yet is missing, too: wait for it
/// with `cfs admin replication cursor status`.
///
/// # Errors
/// When the record cannot be read, or the site's shipper does not answer.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut inspect = client::inspect(context).await?;
    let request = StatusRequest { cursors_only: true, ..StatusRequest::default() };
    let status = inspect.status(request).await.map_err(client::failed("report its status"))?.into_inner();
    let record = args.record.clone();
    let (checked, mut expected) = tokio::task::spawn_blocking(move || {
        let (mut checked, mut expected) = (0, BTreeMap::<u64, Vec<u64>>::new());
        bench::read_record(&record, |entry| {
            checked += 1;
            expected.entry(entry.parent).or_default().push(entry.inode);
        })?;
        anyhow::Ok((checked, expected))
    })
    .await??;
    let mut missing = Vec::new();
    for (directory, inodes) in &mut expected {
        inodes.sort_unstable();
        missing.extend(not_in(&mut inspect, *directory, inodes).await?);
    }
    missing.sort_unstable();
    let count = missing.len() as u64;
    let first_missing = tokio::task::spawn_blocking(move || {
        let mut first = None;
        if !missing.is_empty() {
            bench::read_record(&args.record, |entry| {
                if first.is_none() && missing.binary_search(&entry.inode).is_ok() {
                    first = Some(entry);
                }
            })?;
        }
        anyhow::Ok(first)
    })
    .await??;
    let results = Results { site: status.site, checked, missing: count, first_missing };
    output::print(context.format(), &results)?;
    Ok(if count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Which of these inodes, in ascending order, have no name in the directory.
///
/// # Errors
/// When the site does not answer.
pub(crate) async fn not_in(
    inspect: &mut InspectClient<Channel>,
    directory: u64,
    inodes: &[u64],
) -> Result<Vec<u64>, client::Error> {
    let request = ReadDirectoryRequest { inode: directory, ..ReadDirectoryRequest::default() };
    let action = "read a directory";
    let mut replies = inspect.read_directory(request).await.map_err(client::failed(action))?.into_inner();
    let mut found = vec![false; inodes.len()];
    while let Some(reply) = replies.message().await.map_err(client::failed(action))? {
        for node in reply.items.iter().filter_map(|item| item.node.as_ref()) {
            // A name whose inode is not created yet holds no entry.
            if let (Ok(at), true) = (inodes.binary_search(&node.inode), node.attributes.is_some()) {
                found[at] = true;
            }
        }
    }
    Ok(inodes.iter().zip(found).filter(|(_, found)| !found).map(|(inode, _)| *inode).collect())
}
