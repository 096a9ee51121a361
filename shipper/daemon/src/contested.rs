//! Which values of this site would lose the merge: asked by an operator who is about to keep the side of a split that has the
//! older epochs. Nothing is exchanged for it but the names and versions of what was written here.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cfs_journal::read;
use cfs_model::{Lsn, StreamId, Version};
use cfs_rpc::v1;
use cfs_rpc::v1::peer_client::PeerClient;
use cfs_shipper_core::caps::{MAX_CONTESTED_REGISTERS, MAX_FRAME_BYTES, MAX_LOSING_WRITES};
use cfs_shipper_core::merge::{Register, decode_version, effects, encode_version};
use cfs_shipper_core::payload::Entries;
use cfs_store::Store;
use tonic::Status;

use crate::dial;
use crate::inspect::lookup;
use crate::node::Node;

/// Registers that are named in an answer.
const MAX_NAMED: usize = 100;

/// Why they cannot be counted.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("more than {MAX_CONTESTED_REGISTERS} registers were written")]
    TooMany,
    #[error("the journal does not read: {0}")]
    Journal(#[from] read::Error),
    #[error("an entry does not read: {0}")]
    Entry(String),
    #[error("the store does not read: {0}")]
    Store(#[from] cfs_store::table::Error),
    #[error("the shipper of {site} does not tell: {why}")]
    Site { site: String, why: String },
}

/// The last write of each register.
type Writes = BTreeMap<Register, Version>;

/// Answers the control process.
pub(crate) async fn answer(node: &Arc<Node>, request: v1::ContestedRequest) -> Result<v1::ContestedReply, Status> {
    let spans = request.spans.iter().map(|span| {
        let after = span.after.and_then(|after| Some((after.stream()?, after.lsn())));
        after.map(|(stream, after)| (stream, after, Lsn(span.through)))
    });
    let spans: Option<Vec<_>> = spans.collect();
    let spans = spans.ok_or_else(|| Status::invalid_argument("a position is not one"))?;
    if let Some((stream, ..)) = spans.iter().find(|(stream, ..)| stream.site != node.id()) {
        return Err(Status::invalid_argument(format!("stream {stream} is not of this site")));
    }
    let list = usize::try_from(request.list).unwrap_or(MAX_NAMED).min(MAX_NAMED);
    match losing(node, spans, &request.sites, list).await {
        Ok(reply) => Ok(reply),
        Err(error) => Ok(v1::ContestedReply { not_known: error.to_string(), ..v1::ContestedReply::default() }),
    }
}

async fn losing(
    node: &Arc<Node>,
    spans: Vec<(StreamId, Lsn, Lsn)>,
    sites: &[String],
    list: usize,
) -> Result<v1::ContestedReply, Error> {
    let reader = node.clone();
    let writes = blocking(move || written(&reader, &spans)).await?;
    let writes: Vec<(Register, Version)> = writes.into_iter().collect();
    let mut lost = vec![false; writes.len()];
    for site in sites {
        for (index, loses) in ask(node, site, &writes).await?.into_iter().enumerate() {
            lost[index] |= loses;
        }
    }
    let node = node.clone();
    blocking(move || {
        for (index, loses) in node.store.losing(&writes)?.into_iter().enumerate() {
            lost[index] |= loses;
        }
        let losing: Vec<&Register> = writes.iter().zip(&lost).filter(|(_, lost)| **lost).map(|(w, _)| &w.0).collect();
        let named = losing.iter().take(list).map(|register| name(&*node.store, register)).collect::<Result<_, _>>()?;
        Ok(v1::ContestedReply { registers: losing.len() as u64, named, not_known: String::new() })
    })
    .await
}

/// What the entries of these spans wrote.
fn written(node: &Node, spans: &[(StreamId, Lsn, Lsn)]) -> Result<Writes, Error> {
    let mut writes = Writes::new();
    for (stream, after, through) in spans {
        let mut reader = node.journal.reader(*stream, *after)?;
        loop {
            let batches = reader.next(MAX_FRAME_BYTES)?;
            let Some(last) = batches.last().map(|batch| batch.header().last_lsn()) else { break };
            for batch in &batches {
                let header = batch.header();
                for entry in Entries::new(batch.decompress().map_err(|error| Error::Entry(error.to_string()))?) {
                    let entry = entry.map_err(|error| Error::Entry(error.to_string()))?;
                    let lsn = header.first_lsn.plus(u64::from(entry.index));
                    let version = Version { stamp: header.stamp(entry.index), lsn };
                    // What is no valid operation writes nothing anywhere.
                    let Ok(op) = entry.decode() else { continue };
                    let Ok(effects) = effects(&op, version) else { continue };
                    for register in effects.registers().filter(|_| lsn <= *through) {
                        let last = writes.entry(register).or_insert(version);
                        *last = version.max(*last);
                    }
                }
                if writes.len() > MAX_CONTESTED_REGISTERS {
                    return Err(Error::TooMany);
                }
            }
            if last >= *through {
                break;
            }
        }
    }
    Ok(writes)
}

/// Which of these would lose at another site.
async fn ask(node: &Node, site: &str, writes: &[(Register, Version)]) -> Result<Vec<bool>, Error> {
    let failed = |why: String| Error::Site { site: site.to_owned(), why };
    let peers = node.data_peers();
    let peer = peers.iter().find(|peer| peer.name.as_str() == site);
    let peer = peer.ok_or_else(|| failed("it is not known here".to_owned()))?;
    let channel = dial::peer(node, peer).await.map_err(failed)?;
    let mut client = PeerClient::new(channel);
    let mut out = Vec::with_capacity(writes.len());
    for part in writes.chunks(MAX_LOSING_WRITES) {
        let writes = part.iter().map(to_wire).collect();
        let reply = client.losing(v1::LosingRequest { writes }).await;
        let loses = reply.map_err(|status| failed(status.message().to_owned()))?.into_inner().loses;
        if loses.len() != part.len() {
            return Err(failed("its answer is not of what it was asked".to_owned()));
        }
        out.extend(loses);
    }
    Ok(out)
}

fn to_wire((register, version): &(Register, Version)) -> v1::RegisterWrite {
    let (mut name, mut stamp) = (Vec::new(), Vec::new());
    register.encode(&mut name);
    encode_version(version, &mut stamp);
    v1::RegisterWrite { register: Bytes::from(name), version: Bytes::from(stamp) }
}

fn from_wire(write: &v1::RegisterWrite) -> Option<(Register, Version)> {
    let mut version = &write.version[..];
    let register = Register::decode(&write.register).ok()?;
    let decoded = decode_version(&mut version).ok()?;
    version.is_empty().then_some((register, decoded))
}

/// Answers another site's shipper.
pub(crate) async fn answer_losing(node: &Arc<Node>, request: v1::LosingRequest) -> Result<v1::LosingReply, Status> {
    if request.writes.len() > MAX_LOSING_WRITES {
        return Err(Status::invalid_argument(format!("more than {MAX_LOSING_WRITES} writes")));
    }
    let writes: Option<Vec<_>> = request.writes.iter().map(from_wire).collect();
    let writes = writes.ok_or_else(|| Status::invalid_argument("a write is not one"))?;
    let node = node.clone();
    let loses = blocking(move || Ok(node.store.losing(&writes)?)).await;
    Ok(v1::LosingReply { loses: loses.map_err(|error| Status::data_loss(error.to_string()))? })
}

/// Where an operator finds a register.
fn name(store: &dyn Store, register: &Register) -> Result<v1::ContestedRegister, Error> {
    let inode = register.inode();
    let mut path = store.paths(inode, 1)?.into_iter().next().unwrap_or_default();
    if let Register::Dentry(_, name) = register
        && !path.is_empty()
    {
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(name);
    }
    let path = String::from_utf8_lossy(&path).into_owned();
    Ok(v1::ContestedRegister { path, inode, register: lookup::name(register) })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::Entry(error.to_string())))
}
