//! `cfs admin meta lookup`.

use std::io::{self, Write};
use std::process::ExitCode;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cfs_model::Epoch;
use cfs_rpc::v1::{LookupReply, LookupRequest, Node, RegisterVersion};
use serde::Serialize;

use super::node::{NodeView, or_dash};
use crate::output::{self, Document, Table};
use crate::{Context, client, op_json, path_text};

/// Arguments of `cfs admin meta lookup`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The inode's number
    #[arg(value_name = "INODE")]
    inode: u64,
    /// Also every register with the entry that wrote it
    #[arg(long)]
    detailed: bool,
}

/// What is known of an inode.
#[derive(Debug, Serialize)]
struct Inode {
    found: bool,
    removed: bool,
    #[serde(flatten)]
    node: NodeView,
    paths: Vec<String>,
    paths_b64: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registers: Option<Vec<Register>>,
    #[serde(skip)]
    path_bytes: Vec<Vec<u8>>,
}

#[derive(Debug, Serialize)]
struct Register {
    register: String,
    value: serde_json::Value,
    epoch: u64,
    clock: u64,
    site: u32,
    incarnation: u64,
    lsn: u64,
}

impl Register {
    fn of(version: &RegisterVersion) -> Self {
        Self {
            register: version.register.clone(),
            value: op_json::bytes_to_json(&version.value),
            epoch: version.epoch,
            clock: version.clock,
            site: version.site,
            incarnation: version.incarnation,
            lsn: version.lsn,
        }
    }
}

impl Inode {
    fn of(inode: u64, reply: &LookupReply, detailed: bool) -> Self {
        let node = NodeView::of(&Node { inode, ..reply.node.clone().unwrap_or_default() });
        Self {
            found: reply.found,
            removed: reply.removed,
            node,
            paths: reply.paths.iter().map(|path| path_text::for_json(path).0).collect(),
            paths_b64: reply.paths.iter().map(|path| BASE64_STANDARD.encode(path)).collect(),
            registers: detailed.then(|| reply.registers.iter().map(Register::of).collect()),
            path_bytes: reply.paths.iter().map(|path| path.to_vec()).collect(),
        }
    }
}

impl Document for Inode {
    const SCHEMA: &'static str = "cfs.lookup/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let n = &self.node;
        writeln!(out, "Inode: {}{}", n.inode, if self.removed { " (removed)" } else { "" })?;
        writeln!(out, "Type: {}", n.kind.map_or("-", type_name))?;
        writeln!(out, "Mode: {}", n.mode_text())?;
        writeln!(out, "Owner: {}:{}", or_dash(n.uid), or_dash(n.gid))?;
        writeln!(out, "Size: {}", or_dash(n.size))?;
        writeln!(out, "Modified: {} UTC ({} ns)", n.mtime_text(), or_dash(n.mtime_ns))?;
        writeln!(out, "Links: {}", or_dash(n.nlink))?;
        if n.target.is_some() {
            writeln!(out, "Target:{}", n.target_text().trim_start_matches(" ->"))?;
        }
        if let Some(device) = n.device {
            writeln!(out, "Device: {device}")?;
        }
        for (name, value) in &n.xattrs {
            writeln!(out, "Xattr: {} = {value} (Base64)", path_text::for_terminal(name.as_bytes()))?;
        }
        for path in &self.path_bytes {
            writeln!(out, "Path: {}", path_text::for_terminal(path))?;
        }
        match &self.registers {
            Some(registers) => write_registers(out, registers),
            None => Ok(()),
        }
    }
}

fn write_registers(out: &mut dyn Write, registers: &[Register]) -> io::Result<()> {
    writeln!(out)?;
    let mut table = Table::new(&["REGISTER", "VALUE", "EPOCH", ">CLOCK", "STREAM", ">LSN"]);
    for r in registers {
        let value =
            r.value.as_str().map_or_else(|| r.value.to_string(), |text| path_text::for_terminal(text.as_bytes()));
        let stream = format!("{}.{}", r.site, r.incarnation);
        let register = path_text::for_terminal(r.register.as_bytes());
        table.row([register, value, Epoch(r.epoch).to_string(), r.clock.to_string(), stream, r.lsn.to_string()]);
    }
    table.write(out)
}

const fn type_name(letter: char) -> &'static str {
    match letter {
        'f' => "file",
        'd' => "directory",
        'l' => "symbolic link",
        'p' => "fifo",
        's' => "socket",
        'c' => "character device",
        _ => "block device",
    }
}

/// Runs the command. Exits with 1 if there is no such inode; with `--detailed` what is left of it is printed first.
///
/// # Errors
/// When the shipper cannot be reached, or has no such inode.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut inspect = client::inspect(context).await?;
    let action = format!("look up inode {}", args.inode);
    let reply = inspect.lookup(LookupRequest { inode: args.inode }).await.map_err(client::failed(action))?.into_inner();
    if reply.found || (args.detailed && !reply.registers.is_empty()) {
        output::print(context.format(), &Inode::of(args.inode, &reply, args.detailed))?;
    }
    anyhow::ensure!(
        reply.found,
        "inode {} {}; `cfs admin meta ls -R /` lists what there is",
        args.inode,
        if reply.removed { "was removed" } else { "is not known here" }
    );
    Ok(ExitCode::SUCCESS)
}
