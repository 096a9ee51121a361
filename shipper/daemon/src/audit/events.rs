//! Lost writes as events, and back.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cfs_audit::{Event, Hash, Kind, LostValue, Severity, Stamp};
use cfs_model::Version;
use cfs_model::op::op::Kind as Op;
use cfs_shipper_core::merge::Register;
use cfs_store::apply::Repair;
use cfs_store::lost::{self, LostEvent};

use crate::node::Node;

/// The name of a lost write, the same on every site: its entry, and which of its registers.
fn name(lost: &LostEvent) -> String {
    let mut register = Vec::new();
    lost.key.register.encode(&mut register);
    let digest = Hash::of(&[&register]).to_string();
    format!("{}-{}-{}", lost.key.stream, lost.key.lsn, &digest[..8])
}

/// The inode that a register belongs to; of a directory entry, its parent.
const fn inode(register: &Register) -> u64 {
    match register {
        Register::Field(inode, _) | Register::Dentry(inode, _) | Register::Xattr(inode, _) => *inode,
    }
}

/// What a register is called, and the name that it has.
fn register(register: &Register) -> (&'static str, Option<&[u8]>) {
    match register {
        Register::Field(_, field) => (field.name(), None),
        Register::Dentry(_, name) => ("entry", Some(name)),
        Register::Xattr(_, name) => ("xattr", Some(name)),
    }
}

fn value(value: &lost::LostValue) -> LostValue {
    match value {
        lost::LostValue::Removed => LostValue::Removed,
        lost::LostValue::Live { kind, device, target } => {
            LostValue::Live { kind: *kind, device: *device, target_b64: BASE64_STANDARD.encode(target) }
        }
        lost::LostValue::Number(number) => LostValue::Number(*number),
        lost::LostValue::Time { seconds, nanos } => LostValue::Time { seconds: *seconds, nanos: *nanos },
        lost::LostValue::Bytes(bytes) => LostValue::BytesB64(BASE64_STANDARD.encode(bytes)),
        lost::LostValue::Entry(inode, kind) => LostValue::Entry { inode: *inode, kind: *kind },
        lost::LostValue::Tombstone => LostValue::Tombstone,
    }
}

fn stamp(version: &Version) -> Stamp {
    let stamp = &version.stamp;
    Stamp {
        epoch: stamp.epoch.0,
        clock: stamp.clock,
        site: stamp.site.0,
        incarnation: stamp.incarnation.0,
        lsn: version.lsn.0,
    }
}

/// What is said of a lost write, whichever event it is about.
fn about(node: &Node, lost: &LostEvent, event: Event) -> Event {
    let (register, name) = register(&lost.key.register);
    let mut event = event.inode(inode(&lost.key.register)).site(node.site_name(lost.key.stream.site));
    event.epoch = Some(lost.version.stamp.epoch.0);
    event.stamp = Some(stamp(&lost.version));
    event = event.with("register", register);
    match name {
        None => event,
        Some(name) => event
            .with("name", String::from_utf8_lossy(name).into_owned())
            .with("name_b64", BASE64_STANDARD.encode(name)),
    }
}

fn subject(lost: &LostEvent) -> String {
    let inode = inode(&lost.key.register);
    match register(&lost.key.register) {
        ("entry", Some(name)) => format!("entry {:?} of directory {inode}", String::from_utf8_lossy(name)),
        (what, Some(name)) => format!("{what} {:?} of inode {inode}", String::from_utf8_lossy(name)),
        (what, None) => format!("{what} of inode {inode}"),
    }
}

/// A write that was lost.
pub(super) fn lost(node: &Node, lost: &LostEvent) -> Event {
    let text = format!(
        "CONFLICT: a write of {} by {} (epoch {}, entry {} of stream {}) lost to another that its writer had not seen",
        subject(lost),
        node.site_name(lost.key.stream.site),
        lost.version.stamp.epoch,
        lost.key.lsn,
        lost.key.stream
    );
    let mut event = about(node, lost, Event::new(Kind::Conflict, Severity::Conflict, text));
    event.event = format!("lost-{}", name(lost));
    event.value = Some(value(&lost.value));
    event
}

/// A lost write that a later one has settled.
pub(super) fn superseded(node: &Node, lost: &LostEvent) -> Event {
    let text = format!("a later write of {}, whose writer had seen both, settled it", subject(lost));
    let mut event = about(node, lost, Event::new(Kind::Superseded, Severity::Info, text));
    event.event = format!("superseded-{}", name(lost));
    event.with("of", format!("lost-{}", name(lost)))
}

/// An entry that mends the structure; `None`: it is of a kind that none of these has.
pub(super) fn repair(node: &Node, repair: &Repair) -> Option<Event> {
    let shown = |name: &[u8]| format!("{:?}", String::from_utf8_lossy(name));
    let (inode, what) = match repair.op.kind.as_ref()? {
        Op::Unlink(op) => (op.inode, format!("lost its name {} in directory {}", shown(&op.name), op.parent)),
        Op::Link(op) => (op.inode, format!("got the name {} in directory {}", shown(&op.name), op.parent)),
        Op::Mkdir(op) => (op.inode, format!("was made as {} in directory {}", shown(&op.name), op.parent)),
        Op::Rename(op) => {
            let (from, to) = (shown(&op.from_name), shown(&op.to_name));
            let text = format!("was moved from {from} in directory {} to {to} in {}", op.from_parent, op.to_parent);
            (op.inode, text)
        }
        _ => return None,
    };
    let (stream, lsn) = (repair.stream, repair.version.lsn);
    let text = format!("structure repair: inode {inode} {what} (entry {lsn} of stream {stream})");
    let mut event = Event::new(Kind::Repair, Severity::Info, text).inode(inode).site(node.site_name(stream.site));
    event.event = format!("repair-{stream}-{lsn}");
    event.epoch = Some(repair.version.stamp.epoch.0);
    event.stamp = Some(stamp(&repair.version));
    Some(event)
}
