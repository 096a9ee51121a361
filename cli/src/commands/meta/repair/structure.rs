//! Makes a structure sound with entries that the primary writes: what hangs in the air goes to `/lost+found`, what leads
//! nowhere goes.

use std::collections::BTreeSet;

use anyhow::Context as _;
use bytes::Bytes;
use cfs_client::{Options, Producer};
use cfs_model::STRUCTURE_REPAIR;
use cfs_model::op::{Attributes, InodeKind, Link, Mkdir, Op, Rename, StreamPosition, Unlink, op::Kind};
use cfs_rpc::v1::inspect_client::InspectClient;
use cfs_rpc::v1::{ConsistencyRequest, LookupReply, LookupRequest, ReadDirectoryRequest, StructureFinding};
use tonic::transport::Channel;

use super::Step;
use crate::{Context, client, follow};

const LOST_AND_FOUND: &[u8] = b"lost+found";
/// One repair may bring the next to light: a directory that is back has its entries again.
const ROUNDS: usize = 16;
/// Names that an inode may have in `/lost+found`.
const MAX_NAMES: u32 = 1000;
/// Directories passed on the way up.
const MAX_DEPTH: usize = 4096;
/// Inode numbers tried for the directory of finds, downwards; file systems number upwards.
const NUMBERS: std::ops::RangeInclusive<u64> = (u64::MAX - 4096)..=(u64::MAX - 16);

/// What the repair asks and where it appends.
struct Repair {
    inspect: InspectClient<Channel>,
    producer: Producer,
    /// The last entry written.
    at: Option<StreamPosition>,
}

/// Repairs until nothing is found any more.
pub(super) async fn repair(
    context: &Context,
    inspect: &mut InspectClient<Channel>,
    steps: &mut Vec<Step>,
) -> anyhow::Result<()> {
    let mut repair: Option<Repair> = None;
    for _ in 0..ROUNDS {
        let found = inspect.check_consistency(ConsistencyRequest { local: true, timeout_ms: 0 }).await;
        let found = found.map_err(client::failed("check its structure"))?.into_inner().structure;
        if found.is_empty() {
            return Ok(());
        }
        if repair.is_none() {
            let target = follow::target(&context.config()?)?;
            let producer = Producer::connect(target, STRUCTURE_REPAIR, Options::default()).await;
            let producer = producer.map_err(|fatal| anyhow::anyhow!("the structure could not be repaired: {fatal}"))?;
            repair = Some(Repair { inspect: inspect.clone(), producer, at: None });
        }
        let Some(repair) = &mut repair else { continue };
        let before = steps.len();
        for finding in plan(repair, &found).await? {
            repair.mend(&finding, steps).await?;
        }
        anyhow::ensure!(steps.len() > before, "the structure is not sound, and nothing that would mend it was found");
        repair.wait().await?;
    }
    anyhow::bail!("the structure is still not sound after {ROUNDS} rounds; next: repeat the command")
}

/// What is mended in this round. Of directories that hang below each other, only the topmost; of a cycle, the one with
/// the lowest number: the others are back with it.
async fn plan(repair: &mut Repair, found: &[StructureFinding]) -> anyhow::Result<Vec<StructureFinding>> {
    let mut tops = BTreeSet::new();
    let mut out = Vec::new();
    for finding in found {
        if finding.kind != "detached" {
            out.push(finding.clone());
            continue;
        }
        let top = repair.top(finding.inode).await?;
        if tops.insert(top) {
            out.push(StructureFinding { inode: top, ..finding.clone() });
        }
    }
    Ok(out)
}

impl Repair {
    async fn lookup(&mut self, inode: u64) -> anyhow::Result<LookupReply> {
        let reply = self.inspect.lookup(LookupRequest { inode, all_sites: false }).await;
        Ok(reply.map_err(client::failed(format!("look up inode {inode}")))?.into_inner())
    }

    /// The directory to be moved so that `inode` is reached again.
    async fn top(&mut self, inode: u64) -> anyhow::Result<u64> {
        let mut passed = vec![inode];
        let mut at = inode;
        while passed.len() < MAX_DEPTH {
            let Some(parent) = self.lookup(at).await?.parents.first().map(|parent| parent.inode) else { break };
            let is_directory = is_directory(&self.lookup(parent).await?);
            if let Some(start) = passed.iter().position(|known| *known == parent) {
                return Ok(passed[start..].iter().copied().min().unwrap_or(at));
            }
            if !is_directory {
                break;
            }
            passed.push(parent);
            at = parent;
        }
        Ok(at)
    }

    async fn mend(&mut self, finding: &StructureFinding, steps: &mut Vec<Step>) -> anyhow::Result<()> {
        let (inode, parent, name) = (finding.inode, finding.parent, finding.name.clone());
        let shown = String::from_utf8_lossy(&name).into_owned();
        let step = |text: String| Step { what: "structure", inode, done: true, text };
        match finding.kind.as_str() {
            "dangling" => {
                self.append(Kind::Unlink(Unlink { parent, name, inode, last: false })).await?;
                step(format!("its entry {shown:?} in directory {parent}, which led nowhere, was removed")).tell(steps);
            }
            "orphan" => {
                let kind = self.lookup(inode).await?.node.map_or(0, |node| node.kind);
                let (place, name) = self.place(inode).await?;
                let named = if kind == InodeKind::Directory as i32 {
                    // A directory has one name: it is moved, from a name that nothing has.
                    let from_name = self.free_name(place, &format!(".#{inode}")).await?;
                    let (from_parent, to_parent, to_name) = (place, place, name.clone());
                    Kind::Rename(Rename { from_parent, from_name, to_parent, to_name, inode, kind, replaced: 0 })
                } else {
                    Kind::Link(Link { parent: place, name: name.clone(), inode, kind })
                };
                self.append(named).await?;
                step(format!("it had no name and is now /lost+found/{}", String::from_utf8_lossy(&name))).tell(steps);
            }
            "detached" | "homeless" => {
                let reply = self.lookup(inode).await?;
                let from = if finding.kind == "homeless" {
                    Some((parent, name))
                } else {
                    reply.parents.first().map(|parent| (parent.inode, parent.name.clone()))
                };
                let Some((from_parent, from_name)) = from else { return Ok(()) };
                let kind = reply.node.map_or(0, |node| node.kind);
                let (to_parent, to_name) = self.place(inode).await?;
                let shown = String::from_utf8_lossy(&to_name).into_owned();
                let rename = Rename { from_parent, from_name, to_parent, to_name, inode, kind, replaced: 0 };
                self.append(Kind::Rename(rename)).await?;
                step(format!("it could not be reached from the root and is now /lost+found/{shown}")).tell(steps);
            }
            "multiply_named" => {
                let mut names = self.lookup(inode).await?.parents;
                // The name that was given last stays.
                names.sort_by_key(|parent| parent.version.as_ref().map(|v| (v.epoch, v.clock, v.site, v.incarnation)));
                names.pop();
                for old in names {
                    let unlink = Unlink { parent: old.inode, name: old.name.clone(), inode, last: false };
                    self.append(Kind::Unlink(unlink)).await?;
                    let shown = String::from_utf8_lossy(&old.name).into_owned();
                    step(format!("its older name {shown:?} in directory {} was removed", old.inode)).tell(steps);
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn append(&mut self, kind: Kind) -> anyhow::Result<()> {
        let ack = self.producer.append(&Op { kind: Some(kind) }).await?.await?;
        let (site, incarnation) = (ack.stream.site.0.into(), ack.stream.incarnation.0);
        self.at = Some(StreamPosition { site, incarnation, lsn: ack.lsn.0 });
        Ok(())
    }

    /// Waits until this site shows what was appended.
    async fn wait(&mut self) -> anyhow::Result<()> {
        self.entry(0, b"/").await.map(drop)
    }

    /// The inode and kind of an entry, once all that was appended shows.
    async fn entry(&mut self, parent: u64, name: &[u8]) -> anyhow::Result<Option<(u64, i32)>> {
        let request =
            ReadDirectoryRequest { inode: parent, names: vec![Bytes::copy_from_slice(name)], applied: self.at };
        let failed = client::failed("read a directory");
        let mut replies = self.inspect.read_directory(request).await.map_err(failed)?.into_inner();
        while let Some(reply) = replies.message().await.map_err(client::failed("read a directory"))? {
            if let Some(node) = reply.items.into_iter().find_map(|item| item.node) {
                return Ok(Some((node.inode, node.kind)));
            }
        }
        Ok(None)
    }

    /// A free name in `/lost+found`, which is made if it is not there.
    async fn place(&mut self, inode: u64) -> anyhow::Result<(u64, Bytes)> {
        let (root, _) = self.entry(0, b"/").await?.context("the tree has no root directory")?;
        let directory = match self.entry(root, LOST_AND_FOUND).await? {
            Some((directory, kind)) if kind == InodeKind::Directory as i32 => directory,
            Some(_) => anyhow::bail!("/lost+found is no directory; next: rename it and repeat the command"),
            None => {
                let free = self.free_number().await?;
                let attributes = Some(Attributes { mode: Some(0o700), ..Attributes::default() });
                let name = Bytes::from_static(LOST_AND_FOUND);
                self.append(Kind::Mkdir(Mkdir { parent: root, name, inode: free, attributes })).await?;
                free
            }
        };
        Ok((directory, self.free_name(directory, &format!("#{inode}")).await?))
    }

    /// A name in `/lost+found` that nothing has.
    async fn free_name(&mut self, directory: u64, wanted: &str) -> anyhow::Result<Bytes> {
        for attempt in 0..MAX_NAMES {
            let name = if attempt == 0 { wanted.to_owned() } else { format!("{wanted}.{attempt}") };
            if self.entry(directory, name.as_bytes()).await?.is_none() {
                return Ok(name.into());
            }
        }
        anyhow::bail!("/lost+found has {MAX_NAMES} names like {wanted} already; next: look into it and empty it")
    }

    async fn free_number(&mut self) -> anyhow::Result<u64> {
        for number in NUMBERS.rev() {
            if !self.lookup(number).await?.found {
                return Ok(number);
            }
        }
        anyhow::bail!("no inode number is free for /lost+found; next: make that directory in the file system")
    }
}

fn is_directory(reply: &LookupReply) -> bool {
    reply.exists && reply.node.as_ref().is_some_and(|node| node.kind == InodeKind::Directory as i32)
}
