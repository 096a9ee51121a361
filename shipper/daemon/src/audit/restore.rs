//! Writing a lost value again, as a new entry of the primary's stream.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use cfs_audit::{Event, Kind as AuditKind, LostValue, Record, Severity};
use cfs_journal::Journal;
use cfs_model::op::{
    Attributes, Create, InodeKind, Link, Mkdir, Op, RemoveXattr, Rename, Rmdir, SetAttr, SetXattr, StreamPosition,
    Symlink, Time, Unlink, op::Kind,
};
use cfs_model::{Incarnation, Lsn, SiteId, StreamId};
use cfs_rpc::v1;
use cfs_shipper_core::merge::{Field, Register, validate};
use cfs_store::Store;
use cfs_store::lost::LostKey;
use cfs_store::view::State;
use prost::Message;
use tokio::sync::mpsc::UnboundedSender;
use tonic::Status;

use super::deletion::{self, Present, Removal};
use crate::node::Node;
use crate::path::commit::Work;
use crate::restate;

const DIRECTORY: u8 = InodeKind::Directory as u8;
const SYMLINK: u8 = InodeKind::Symlink as u8;
/// The producer name under which values are restored; producers' names hold no control characters.
const PRODUCER: Bytes = Bytes::from_static(b"\0restore");

fn bytes(text: &str) -> Result<Bytes, String> {
    BASE64_STANDARD.decode(text).map(Bytes::from).map_err(|_| "its value does not read".to_owned())
}

/// The register that a record is about.
fn register(record: &Record) -> Result<Register, String> {
    let event = &record.event;
    let inode = event.inode_id.ok_or("it names no inode")?;
    let detail = |key: &str| event.details.get(key).and_then(|value| value.as_str());
    let what = detail("register").ok_or("it names no register")?;
    let name = || detail("name_b64").ok_or_else(|| "it names no entry".to_owned()).and_then(bytes);
    Ok(match what {
        "entry" => Register::Dentry(inode, name()?.to_vec()),
        "xattr" => Register::Xattr(inode, name()?.to_vec()),
        field => {
            let field = Field::ALL.into_iter().find(|known| known.name() == field);
            Register::Field(inode, field.ok_or("it names an unknown register")?)
        }
    })
}

/// The entry that a record is about.
fn entry_of(record: &Record) -> Result<(StreamId, Lsn), String> {
    let stamp = record.event.stamp.ok_or("it has no stamp")?;
    Ok((StreamId { site: SiteId(stamp.site), incarnation: Incarnation(stamp.incarnation) }, Lsn(stamp.lsn)))
}

/// Whether a later write has settled the matter: then the store says so, or has forgotten it.
fn is_superseded(store: &dyn Store, record: &Record, register: Register) -> Result<bool, String> {
    let (stream, lsn) = entry_of(record)?;
    // The row after the one before it.
    let before = LostKey { register: register.clone(), stream, lsn: Lsn(lsn.0.saturating_sub(1)) };
    let found = store.lost(Some(&before), 1).map_err(|error| error.to_string())?;
    let key = LostKey { register, stream, lsn };
    Ok(found.first().is_none_or(|lost| lost.key != key || lost.superseded))
}

/// The operation that writes the lost value of a record again. With `force` also one that a later write has settled. Blocks.
fn operation(store: &dyn Store, journal: &Journal, record: &Record, force: bool) -> Result<Op, String> {
    if record.event.kind != AuditKind::Conflict {
        return Err(format!("it is of kind {}: only a conflict has a value to restore", record.event.kind.word()));
    }
    let register = register(record)?;
    let value = record.event.value.as_ref().ok_or("its value was too long for the trail")?;
    if !force && is_superseded(store, record, register.clone())? {
        return Err("a later write, whose writer had seen both, has settled it; --force writes it all the same".into());
    }
    let kind = match register {
        Register::Field(inode, Field::Life) => life(store, inode, value)?,
        // What nobody would see is not called restored.
        Register::Field(inode, _) | Register::Xattr(inode, _) if !exists(store, inode)? => {
            return Err(format!("inode {inode} does not exist any more: restore the event of its removal first"));
        }
        Register::Field(inode, field) => attribute(inode, field, value)?,
        Register::Dentry(parent, name) if *value == LostValue::Tombstone => {
            let (stream, lsn) = entry_of(record)?;
            let removal = deletion::written(journal, stream, lsn)?.and_then(|op| Removal::by(&op, parent, &name));
            removed(store, parent, name.into(), removal, force)?
        }
        Register::Dentry(parent, name) => entry(store, parent, name.into(), value)?,
        Register::Xattr(inode, name) => match value {
            LostValue::BytesB64(value) => Kind::SetXattr(SetXattr { inode, name: name.into(), value: bytes(value)? }),
            _ => Kind::RemoveXattr(RemoveXattr { inode, name: name.into() }),
        },
    };
    let op = Op { kind: Some(kind) };
    validate(&op).map_err(|error| error.to_string())?;
    Ok(op)
}

fn exists(store: &dyn Store, inode: u64) -> Result<bool, String> {
    let view = store.inode(inode).map_err(|error| error.to_string())?;
    Ok(matches!(view.map(|view| view.state), Some(State::Live { .. })))
}

fn attribute(inode: u64, field: Field, value: &LostValue) -> Result<Kind, String> {
    let mut attributes = Attributes::default();
    let small = |n: u64| u32::try_from(n).map_err(|_| "its value is out of range".to_owned());
    match (field, value) {
        (Field::Mode, LostValue::Number(n)) => attributes.mode = Some(small(*n)?),
        (Field::Uid, LostValue::Number(n)) => attributes.uid = Some(small(*n)?),
        (Field::Gid, LostValue::Number(n)) => attributes.gid = Some(small(*n)?),
        (Field::Size, LostValue::Number(n)) => attributes.size = Some(*n),
        (Field::Mtime, LostValue::Time { seconds, nanos }) => {
            attributes.mtime = Some(Time { seconds: *seconds, nanos: *nanos });
        }
        (Field::Ctime, LostValue::Time { seconds, nanos }) => {
            attributes.ctime = Some(Time { seconds: *seconds, nanos: *nanos });
        }
        (Field::Extents, LostValue::BytesB64(text)) => attributes.extents = Some(bytes(text)?),
        _ => return Err("its value does not fit its register".into()),
    }
    Ok(Kind::SetAttr(SetAttr { inode, attributes: Some(attributes) }))
}

/// A name of an inode, if there is exactly one, or at least one.
fn name_of(store: &dyn Store, inode: u64, only: bool) -> Result<(u64, Bytes), String> {
    let paths = store.paths(inode, 2).map_err(|error| error.to_string())?;
    let [path, rest @ ..] = paths.as_slice() else {
        return Err(format!("no name leads to inode {inode}: restore the event of its entry first"));
    };
    if only && !rest.is_empty() {
        return Err(format!("inode {inode} has more than one name: remove the others first"));
    }
    let mut parent = store.root().map_err(|error| error.to_string())?.ok_or("there is no root directory")?;
    let mut parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
    let Some(name) = parts.pop() else { return Err("the root directory is not restored this way".into()) };
    for part in parts {
        let entry = store.entry(parent, part).map_err(|error| error.to_string())?;
        parent = entry.ok_or("its path changes just now: try again")?.inode;
    }
    Ok((parent, Bytes::copy_from_slice(name)))
}

fn is_empty(store: &dyn Store, directory: u64) -> Result<bool, String> {
    Ok(store.read_dir(directory, None, 1).map_err(|error| error.to_string())?.is_empty())
}

fn life(store: &dyn Store, inode: u64, value: &LostValue) -> Result<Kind, String> {
    let view = store.inode(inode).map_err(|error| error.to_string())?;
    match value {
        LostValue::Removed => {
            let Some(State::Live { kind, .. }) = view.map(|view| view.state) else {
                return Err(format!("inode {inode} is removed already"));
            };
            let (parent, name) = name_of(store, inode, true)?;
            if kind != DIRECTORY {
                return Ok(Kind::Unlink(Unlink { parent, name, inode, last: true }));
            }
            if !is_empty(store, inode)? {
                return Err(format!("directory {inode} is not empty: empty it first"));
            }
            Ok(Kind::Rmdir(Rmdir { parent, name, inode }))
        }
        LostValue::Live { kind, device, target_b64 } => {
            let (parent, name) = name_of(store, inode, false)?;
            Ok(match *kind {
                DIRECTORY => Kind::Mkdir(Mkdir { parent, name, inode, attributes: None }),
                SYMLINK => Kind::Symlink(Symlink { parent, name, inode, target: bytes(target_b64)?, attributes: None }),
                kind => {
                    Kind::Create(Create { parent, name, inode, kind: kind.into(), attributes: None, device: *device })
                }
            })
        }
        _ => Err("its value does not fit its register".into()),
    }
}

fn entry(store: &dyn Store, parent: u64, name: Bytes, value: &LostValue) -> Result<Kind, String> {
    let LostValue::Entry { inode, kind } = value else { return Err("its value does not fit its register".into()) };
    if !exists(store, *inode)? {
        return Err(format!("inode {inode}, which the entry pointed to, does not exist: the name would dangle"));
    }
    if *kind != DIRECTORY {
        return Ok(Kind::Link(Link { parent, name, inode: *inode, kind: i32::from(*kind) }));
    }
    // A directory has one name: it moves back, from wherever it is now.
    let (from_parent, from_name) = name_of(store, *inode, true).unwrap_or((parent, name.clone()));
    Ok(Kind::Rename(Rename {
        from_parent,
        from_name,
        to_parent: parent,
        to_name: name,
        inode: *inode,
        kind: i32::from(*kind),
        replaced: 0,
    }))
}

/// What an operation takes the only name from, if it gives that name to another inode, for people; otherwise empty.
fn displaced(store: &dyn Store, op: &Op) -> Result<String, String> {
    let (parent, name, inode) = match op.kind.as_ref() {
        Some(Kind::Link(link)) => (link.parent, &link.name, link.inode),
        Some(Kind::Rename(rename)) => (rename.to_parent, &rename.to_name, rename.inode),
        _ => return Ok(String::new()),
    };
    let present = store.entry(parent, name).map_err(|error| error.to_string())?;
    let Some(other) = present.map(|entry| entry.inode).filter(|other| *other != inode) else {
        return Ok(String::new());
    };
    let links = store.inode(other).map_err(|error| error.to_string())?.map_or(0, |view| view.nlink);
    if links > 1 {
        return Ok(String::new());
    }
    Ok(format!(
        "inode {other} had this name and has none now; give it another one in the file system, or `cfs admin meta consistency-check \
         --repair` brings it to /lost+found"
    ))
}

/// The name goes again, if it still leads to what the lost write took it from.
fn removed(store: &dyn Store, parent: u64, name: Bytes, removal: Option<Removal>, force: bool) -> Result<Kind, String> {
    let present = store.entry(parent, &name).map_err(|error| error.to_string())?.ok_or("the name is gone already")?;
    let inode = present.inode;
    let links = store.inode(inode).map_err(|error| error.to_string())?.map_or(1, |view| view.nlink);
    let present = Present { inode, is_directory: present.kind == DIRECTORY, is_only_name: links <= 1 };
    let kind = deletion::again((parent, name), present, removal, force)?;
    if matches!(kind, Kind::Rmdir(_)) && !is_empty(store, inode)? {
        return Err(format!("directory {inode} is not empty: empty it first"));
    }
    Ok(kind)
}

/// Writes the value of a lost write again, as a new entry, if this site is the primary; durable here on return, and audited.
pub(crate) async fn restore(
    node: &Arc<Node>,
    queue: &UnboundedSender<Work>,
    request: v1::RestoreAuditRequest,
) -> Result<v1::RestoreAuditReply, Status> {
    let v1::RestoreAuditRequest { event, force, operator } = request;
    let mut reply = v1::RestoreAuditReply { site: node.site().to_string(), ..v1::RestoreAuditReply::default() };
    if node.admission().accepting().is_none() {
        let (primary, _, _) = node.governed.primary();
        reply.not_primary = if primary.is_empty() || primary == node.site().as_str() { "?".into() } else { primary };
        return Ok(reply);
    }
    let (here, name) = (node.clone(), event.clone());
    let planned = tokio::task::spawn_blocking(move || {
        let record = cfs_audit::read::find(&here.audit.dir, &name).map_err(|error| error.to_string())?;
        let Some(record) = record else { return Ok(None) };
        let op = operation(&*here.store, &here.journal, &record, force)?;
        let warning = displaced(&*here.store, &op)?;
        Ok::<_, String>(Some((record, op, warning)))
    });
    let (record, op, warning) = match planned.await.map_err(|error| Status::internal(error.to_string()))? {
        Ok(Some(planned)) => planned,
        Ok(None) => {
            reply.unknown = true;
            reply.refused = format!("there is no event {event} in the audit trail of {}", node.site());
            return Ok(reply);
        }
        Err(why) => {
            reply.refused = why;
            return Ok(reply);
        }
    };
    let appended = restate::append(node, queue, PRODUCER, vec![op.encode_to_vec().into()]).await;
    let (stream, lsn) = match appended {
        Ok(at) => at,
        Err(why) => {
            reply.refused = why;
            return Ok(reply);
        }
    };
    let register = record.event.details.get("register").and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let inode = record.event.inode_id.unwrap_or_default();
    let text = format!(
        "{operator} restored the lost {register} of inode {inode} from {event}: entry {lsn} of stream {stream}"
    );
    tracing::info!("{text}");
    let audited = Event::new(AuditKind::Restore, Severity::Info, text).inode(inode);
    let audited = audited.with("of", event).with("by", operator).with("register", register.clone()).with("lsn", lsn.0);
    node.audit(audited.with("stream", stream.to_string()).with("forced", force));
    Ok(v1::RestoreAuditReply { at: Some(StreamPosition::of(stream, lsn)), inode, register, warning, ..reply })
}
