//! `cfs admin meta lookup`.

use std::io::{self, Write};
use std::process::ExitCode;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cfs_model::Epoch;
use cfs_rpc::v1::{LookupReply, LookupRequest, Node, Parent, RegisterVersion, SiteLookup};
use serde::Serialize;

use super::node::{NodeView, or_dash};
use crate::output::{self, Document, Table, good_or_bad};
use crate::{Context, client, op_json, path_text};

/// Arguments of `cfs admin meta lookup`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The inode's number
    #[arg(value_name = "INODE", value_parser = super::inode_number)]
    inode: u64,
    /// Also every register with the entry that wrote it, the entries that name the inode, and writes that were lost
    #[arg(long)]
    detailed: bool,
    /// Ask every site, and tell whether they hold the same
    #[arg(long)]
    all_sites: bool,
}

/// What is known of an inode: the same bytes on sites that hold the same.
#[derive(Debug, Serialize)]
struct Inode {
    found: bool,
    removed: bool,
    #[serde(flatten)]
    node: NodeView,
    paths: Vec<String>,
    paths_b64: Vec<String>,
    #[serde(flatten)]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sites: Option<Vec<Site>>,
    #[serde(skip)]
    path_bytes: Vec<Vec<u8>>,
    #[serde(skip)]
    unreadable: String,
}

/// Everything that is held of it.
#[derive(Debug, Serialize)]
struct Details {
    digest: String,
    register_count: u64,
    registers: Vec<Register>,
    parents: Vec<ParentView>,
    conflict_count: u64,
    conflicts: Vec<Register>,
}

#[derive(Debug, Serialize)]
struct Register {
    register: String,
    value: serde_json::Value,
    #[serde(flatten)]
    written: Written,
}

/// The entry that wrote something.
#[derive(Debug, Serialize)]
struct Written {
    epoch: u64,
    clock: u64,
    site: u32,
    incarnation: u64,
    lsn: u64,
}

#[derive(Debug, Serialize)]
struct ParentView {
    parent: u64,
    name: String,
    name_b64: String,
    #[serde(flatten)]
    written: Written,
}

/// How another site's copy compares.
#[derive(Debug, Serialize)]
struct Site {
    site: String,
    verdict: String,
    why: String,
    differing: Vec<String>,
}

impl Written {
    const fn of(version: &RegisterVersion) -> Self {
        let RegisterVersion { epoch, clock, site, incarnation, lsn, .. } = version;
        Self { epoch: *epoch, clock: *clock, site: *site, incarnation: *incarnation, lsn: *lsn }
    }

    fn cells(&self) -> [String; 4] {
        let stream = format!("{}.{}", self.site, self.incarnation);
        [Epoch(self.epoch).to_string(), self.clock.to_string(), stream, self.lsn.to_string()]
    }
}

impl Register {
    fn of(version: &RegisterVersion) -> Self {
        let value = op_json::bytes_to_json(&version.value);
        Self { register: version.register.clone(), value, written: Written::of(version) }
    }
}

impl ParentView {
    fn of(parent: &Parent) -> Self {
        Self {
            parent: parent.inode,
            name: path_text::for_json(&parent.name).0,
            name_b64: BASE64_STANDARD.encode(&parent.name),
            written: Written::of(&parent.version.clone().unwrap_or_default()),
        }
    }
}

impl Details {
    fn of(reply: &LookupReply) -> Self {
        Self {
            digest: reply.digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            register_count: reply.register_count,
            registers: reply.registers.iter().map(Register::of).collect(),
            parents: reply.parents.iter().map(ParentView::of).collect(),
            conflict_count: reply.conflict_count,
            conflicts: reply.conflicts.iter().map(Register::of).collect(),
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Digest: {}", self.digest)?;
        for parent in &self.parents {
            let [epoch, clock, stream, lsn] = parent.written.cells();
            let name = path_text::for_terminal(parent.name.as_bytes());
            writeln!(out, "Parent: {} {name} (epoch {epoch}, clock {clock}, {stream}@{lsn})", parent.parent)?;
        }
        writeln!(out)?;
        write_registers(out, "REGISTER", &self.registers, self.register_count)?;
        if self.conflict_count > 0 {
            writeln!(out)?;
            write_registers(out, "LOST WRITE", &self.conflicts, self.conflict_count)?;
        }
        Ok(())
    }
}

fn write_registers(out: &mut dyn Write, what: &str, registers: &[Register], count: u64) -> io::Result<()> {
    let mut table = Table::new(&[what, "VALUE", "EPOCH", ">CLOCK", "STREAM", ">LSN"]);
    for r in registers {
        let value =
            r.value.as_str().map_or_else(|| r.value.to_string(), |text| path_text::for_terminal(text.as_bytes()));
        let [epoch, clock, stream, lsn] = r.written.cells();
        table.row([path_text::for_terminal(r.register.as_bytes()), value, epoch, clock, stream, lsn]);
    }
    table.write(out)?;
    match count - registers.len() as u64 {
        0 => Ok(()),
        more => writeln!(out, "... and {more} more"),
    }
}

impl Inode {
    fn of(inode: u64, reply: &LookupReply, args: &Args) -> Self {
        let node = NodeView::of(&Node { inode, ..reply.node.clone().unwrap_or_default() });
        let sites = reply.others.iter().map(|other: &SiteLookup| Site {
            site: other.site.clone(),
            verdict: other.verdict.clone(),
            why: other.why.clone(),
            differing: other.fields.clone(),
        });
        Self {
            found: reply.found,
            removed: reply.removed,
            node,
            paths: reply.paths.iter().map(|path| path_text::for_json(path).0).collect(),
            paths_b64: reply.paths.iter().map(|path| BASE64_STANDARD.encode(path)).collect(),
            details: args.detailed.then(|| Details::of(reply)),
            sites: args.all_sites.then(|| sites.collect()),
            path_bytes: reply.paths.iter().map(|path| path.to_vec()).collect(),
            unreadable: reply.unreadable.clone(),
        }
    }

    fn write_inode(&self, out: &mut dyn Write) -> io::Result<()> {
        let n = &self.node;
        writeln!(out, "Inode: {}{}", n.inode, if self.removed { " (removed)" } else { "" })?;
        if !self.unreadable.is_empty() {
            return writeln!(out, "{}: {}", good_or_bad("UNREADABLE", false), self.unreadable);
        }
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
        match &self.details {
            Some(details) => details.write(out),
            None => Ok(()),
        }
    }
}

impl Document for Inode {
    const SCHEMA: &'static str = "cfs.lookup/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        self.write_inode(out)?;
        for site in self.sites.iter().flatten() {
            let verdict = good_or_bad(&site.verdict, site.verdict == "EQUAL");
            let why = if site.why.is_empty() { String::new() } else { format!(": {}", site.why) };
            writeln!(out, "{}: {verdict}{why}", site.site)?;
            for name in &site.differing {
                writeln!(out, "  {}", path_text::for_terminal(name.as_bytes()))?;
            }
        }
        Ok(())
    }
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

/// What there is when an inode does not exist.
fn absent(inode: u64, reply: &LookupReply, detailed: bool) -> String {
    if !reply.found {
        return format!(
            "inode {inode} was never seen here, or it was removed so long ago that all sites have forgotten it; next: \
             `cfs admin meta ls -R /` lists what there is"
        );
    }
    let next = match detailed {
        true => "what refers to it stands above".to_owned(),
        false => format!("next: `cfs admin meta lookup {inode} --detailed` shows what is left of it"),
    };
    let life = reply.registers.iter().find(|register| register.register == "life");
    match life {
        Some(life) => {
            format!("inode {inode} was removed by the entry {}.{}@{}; {next}", life.site, life.incarnation, life.lsn)
        }
        None => format!("inode {inode} was never made here, but something refers to it; {next}"),
    }
}

/// Runs the command. Exits with 1 if there is no such inode, or with `--all-sites` if a site holds something else; with
/// `--detailed` what is left of an inode is printed first.
///
/// # Errors
/// When the shipper cannot be reached, or has no such inode.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut inspect = client::inspect(context).await?;
    let inode = args.inode;
    let request = LookupRequest { inode, all_sites: args.all_sites };
    let reply = inspect.lookup(request).await.map_err(client::failed(format!("look up inode {inode}")))?.into_inner();
    let leftover = args.detailed && (!reply.registers.is_empty() || !reply.parents.is_empty());
    if reply.exists || leftover || args.all_sites {
        output::print(context.format(), &Inode::of(inode, &reply, &args))?;
    }
    let known = |other: &SiteLookup| other.reply.as_ref().is_some_and(|reply| reply.exists);
    anyhow::ensure!(
        reply.exists || !reply.unreadable.is_empty() || reply.others.iter().any(known),
        "{}",
        absent(inode, &reply, args.detailed)
    );
    let differs = reply.others.iter().any(|other| matches!(other.verdict.as_str(), "DIFFERS" | "UNREADABLE"));
    Ok(if differs || !reply.unreadable.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
