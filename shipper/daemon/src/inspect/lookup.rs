//! One inode, here and on other sites.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cfs_model::{Vector, Version};
use cfs_rpc::v1;
use cfs_rpc::v1::peer_client::PeerClient;
use cfs_shipper_core::caps::MAX_FRAME_BYTES;
use cfs_shipper_core::merge::Register;
use cfs_store::Store;
use cfs_store::lost::LostValue;
use cfs_store::view::{HeldRegister, State};
use tonic::Status;

use super::{PEER_TIMEOUT, blocking, node_view, store_error};
use crate::dial;
use crate::digests::wait_applied;
use crate::node::Node;

/// Paths of one inode in an answer.
const MAX_PATHS: usize = 1000;
/// Registers, parents and conflicts in an answer, each.
const MAX_REGISTERS: usize = 4096;
/// Bytes of values in an answer.
const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// How often sites are asked for the same moment, and the pause in between.
const ATTEMPTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(60);
/// How long another site may take to reach this site's position.
const WAIT_MS: u64 = 500;

/// An inode with its paths and everything that is held of it.
pub(super) fn lookup(store: &dyn Store, inode: u64) -> Result<v1::LookupReply, Status> {
    let applied = store.position().applied.to_wire();
    let Some(view) = store.inode(inode).map_err(store_error)? else {
        return Ok(v1::LookupReply { applied, ..v1::LookupReply::default() });
    };
    let paths = store.paths(inode, MAX_PATHS).map_err(store_error)?;
    let held = store.held(inode, MAX_REGISTERS, MAX_VALUE_BYTES).map_err(store_error)?;
    Ok(v1::LookupReply {
        found: true,
        removed: view.state == State::Removed,
        exists: matches!(view.state, State::Live { .. }),
        paths: paths.into_iter().map(Into::into).collect(),
        registers: held.registers.iter().map(register).collect(),
        register_count: held.register_count,
        parents: held.parents.iter().map(parent).collect(),
        conflicts: held
            .conflicts
            .iter()
            .map(|lost| version(name(&lost.key.register), text(&lost.key.register, &lost.value), &lost.version))
            .collect(),
        conflict_count: held.conflict_count,
        digest: held.digest.to_be_bytes().to_vec().into(),
        node: node_view::node(view),
        applied,
        others: Vec::new(),
        unreadable: String::new(),
    })
}

fn register(held: &HeldRegister) -> v1::RegisterVersion {
    version(name(&held.register), text(&held.register, &held.value), &held.version)
}

fn parent(held: &HeldRegister) -> v1::Parent {
    let name = match &held.register {
        Register::Dentry(_, name) => name.clone(),
        _ => Vec::new(),
    };
    v1::Parent {
        inode: held.register.inode(),
        name: name.into(),
        version: Some(version(String::new(), Vec::new(), &held.version)),
    }
}

fn version(register: String, value: Vec<u8>, version: &Version) -> v1::RegisterVersion {
    v1::RegisterVersion {
        register,
        value: value.into(),
        epoch: version.stamp.epoch.0,
        clock: version.stamp.clock,
        site: u32::from(version.stamp.site.0),
        incarnation: version.stamp.incarnation.0,
        lsn: version.lsn.0,
    }
}

/// A register as operators see it.
pub(crate) fn name(register: &Register) -> String {
    match register {
        Register::Field(_, field) => field.name().to_owned(),
        Register::Xattr(_, name) => format!("xattr {}", String::from_utf8_lossy(name)),
        Register::Dentry(_, name) => format!("entry {}", String::from_utf8_lossy(name)),
    }
}

fn text(register: &Register, value: &LostValue) -> Vec<u8> {
    let is_mode = matches!(register, Register::Field(_, field) if field.name() == "mode");
    match value {
        LostValue::Removed => b"removed".to_vec(),
        LostValue::Live { kind, device: 0, target } if target.is_empty() => format!("live, kind {kind}").into_bytes(),
        LostValue::Live { kind, device, target } if target.is_empty() => {
            format!("live, kind {kind}, device {device}").into_bytes()
        }
        LostValue::Live { kind, target, .. } => [format!("live, kind {kind}, target ").as_bytes(), target].concat(),
        LostValue::Number(mode) if is_mode => format!("{mode:04o}").into_bytes(),
        LostValue::Number(number) => number.to_string().into_bytes(),
        LostValue::Time { seconds, nanos } => format!("{seconds}.{nanos:09}").into_bytes(),
        LostValue::Bytes(bytes) => bytes.clone(),
        LostValue::Entry(inode, kind) => format!("inode {inode}, kind {kind}").into_bytes(),
        LostValue::Tombstone => b"gone".to_vec(),
    }
}

/// The same as [`lookup`], and what every other site holds beside it.
pub(super) async fn everywhere(node: &Arc<Node>, inode: u64) -> Result<v1::LookupReply, Status> {
    let asked = node.data_peers().into_iter().map(|peer| async move {
        let compared = compared(node, &peer, inode).await;
        compared.unwrap_or_else(|why| v1::SiteLookup {
            site: peer.name.to_string(),
            verdict: "UNREACHABLE".into(),
            why,
            ..v1::SiteLookup::default()
        })
    });
    let others = futures::future::join_all(asked).await;
    let here = here(node, inode).await;
    let mut reply = match here {
        Ok(reply) => reply,
        // The others' copies are what is wanted when this one does not read.
        Err(status) if others.iter().any(|other| other.verdict != "UNREACHABLE") => {
            v1::LookupReply { unreadable: status.message().to_owned(), ..v1::LookupReply::default() }
        }
        Err(status) => return Err(status),
    };
    reply.others = others;
    Ok(reply)
}

pub(crate) async fn here(node: &Arc<Node>, inode: u64) -> Result<v1::LookupReply, Status> {
    let store = node.store.clone();
    blocking(move || lookup(&*store, inode)).await
}

/// Answers another site.
pub(crate) async fn answer(node: &Arc<Node>, request: v1::PeerLookupRequest) -> Result<v1::LookupReply, Status> {
    let wanted = Vector::from_wire(&request.wanted);
    let wanted = wanted.ok_or_else(|| Status::invalid_argument("the position is not one"))?;
    wait_applied(node, &wanted, Duration::from_millis(request.wait_ms).min(PEER_TIMEOUT)).await;
    here(node, request.inode).await
}

/// Asks one site until both have told of the same position, or of the same registers.
async fn compared(node: &Arc<Node>, peer: &cfs_config::Peer, inode: u64) -> Result<v1::SiteLookup, String> {
    let site = peer.name.to_string();
    let channel = tokio::time::timeout(PEER_TIMEOUT, dial::peer(node, peer)).await;
    let mut client =
        PeerClient::new(channel.map_err(|_| "no answer".to_owned())??).max_decoding_message_size(MAX_FRAME_BYTES);
    let mut last = v1::SiteLookup::default();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let before = here(node, inode).await;
        let wanted = before.as_ref().map(|before| before.applied.clone()).unwrap_or_default();
        let request = v1::PeerLookupRequest { inode, wanted, wait_ms: WAIT_MS };
        let there = match tokio::time::timeout(PEER_TIMEOUT, client.lookup(request)).await {
            Ok(Ok(there)) => there.into_inner(),
            Ok(Err(status)) if status.code() == tonic::Code::DataLoss => {
                return Ok(v1::SiteLookup {
                    site,
                    verdict: "UNREADABLE".into(),
                    why: status.message().to_owned(),
                    ..v1::SiteLookup::default()
                });
            }
            Ok(Err(status)) => return Err(status.message().to_owned()),
            Err(_) => return Err("no answer".to_owned()),
        };
        let Ok(before) = before else {
            let (verdict, why) = ("DIFFERS".into(), "the copy of this site does not read".into());
            return Ok(v1::SiteLookup { site, verdict, why, fields: Vec::new(), reply: Some(there) });
        };
        let applied = Vector::from_wire(&there.applied).unwrap_or_default();
        wait_applied(node, &applied, Duration::from_millis(WAIT_MS)).await;
        let Ok(after) = here(node, inode).await else { continue };
        let fields = differing(&after, &there);
        if fields.is_empty() || differing(&before, &there).is_empty() {
            return Ok(v1::SiteLookup {
                site,
                verdict: "EQUAL".into(),
                reply: Some(there),
                ..v1::SiteLookup::default()
            });
        }
        // Nothing was written here while the other site was asked, and it was at a position in between.
        let between = |a: &v1::LookupReply| Vector::from_wire(&a.applied).unwrap_or_default();
        let certain =
            before.digest == after.digest && applied.covers(&between(&before)) && between(&after).covers(&applied);
        let (verdict, why) = if certain {
            ("DIFFERS", String::new())
        } else {
            ("UNDECIDED", "the sites were never at the same position, or the inode was being written".to_owned())
        };
        last = v1::SiteLookup { site: site.clone(), verdict: verdict.into(), why, fields, reply: Some(there) };
        if certain {
            break;
        }
    }
    Ok(last)
}

/// The registers, parents and conflicts in which two answers differ, by name.
fn differing(here: &v1::LookupReply, there: &v1::LookupReply) -> Vec<String> {
    fn list(reply: &v1::LookupReply) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        for register in &reply.registers {
            out.insert(register.register.clone(), format!("{register:?}"));
        }
        for parent in &reply.parents {
            let name = format!("parent {} {}", parent.inode, String::from_utf8_lossy(&parent.name));
            out.insert(name, format!("{parent:?}"));
        }
        for lost in &reply.conflicts {
            let name = format!("conflict {} {}.{}@{}", lost.register, lost.site, lost.incarnation, lost.lsn);
            out.insert(name, format!("{lost:?}"));
        }
        out
    }
    let (ours, theirs) = (list(here), list(there));
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let mut out: Vec<String> = names.into_iter().filter(|name| ours.get(*name) != theirs.get(*name)).cloned().collect();
    // Beyond what is listed, the sum of all registers tells.
    if out.is_empty() && (here.digest != there.digest || here.conflict_count != there.conflict_count) {
        out.push("registers beyond those that are listed".to_owned());
    }
    out
}
