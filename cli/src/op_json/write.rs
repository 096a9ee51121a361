//! To JSON.

use cfs_model::op::{self, InodeKind, op::Kind};
use serde_json::{Map, Value, json};

use super::{bytes_to_json, kind_name};

/// The object with the operation's name and fields.
pub(super) fn operation(kind: Option<&Kind>) -> Value {
    let mut out = Out(Map::new());
    let name = kind.map_or("unknown", |kind| write_kind(kind, &mut out));
    json!({ name: out.0 })
}

fn write_kind(kind: &Kind, out: &mut Out) -> &'static str {
    match kind {
        Kind::Create(o) => {
            out.entry(o.parent, &o.name, o.inode).kind(o.kind).attributes(o.attributes.as_ref());
            out.nonzero("device", o.device);
            "create"
        }
        Kind::Mkdir(o) => {
            out.entry(o.parent, &o.name, o.inode).attributes(o.attributes.as_ref());
            "mkdir"
        }
        Kind::Symlink(o) => {
            out.entry(o.parent, &o.name, o.inode).bytes("target", &o.target).attributes(o.attributes.as_ref());
            "symlink"
        }
        Kind::Link(o) => {
            out.entry(o.parent, &o.name, o.inode).kind(o.kind);
            "link"
        }
        Kind::Unlink(o) => {
            out.entry(o.parent, &o.name, o.inode);
            if o.last {
                out.put("last", true);
            }
            "unlink"
        }
        Kind::Rmdir(o) => {
            out.entry(o.parent, &o.name, o.inode);
            "rmdir"
        }
        Kind::Rename(o) => {
            out.put("from_parent", o.from_parent).bytes("from_name", &o.from_name);
            out.put("to_parent", o.to_parent).bytes("to_name", &o.to_name);
            out.put("inode", o.inode).kind(o.kind).nonzero("replaced", o.replaced);
            "rename"
        }
        Kind::Write(o) => {
            out.put("inode", o.inode).put("size", o.size).time("mtime", o.mtime.as_ref());
            if !o.extents.is_empty() {
                out.bytes("extents", &o.extents);
            }
            "write"
        }
        Kind::Truncate(o) => {
            out.put("inode", o.inode).put("size", o.size).time("mtime", o.mtime.as_ref());
            "truncate"
        }
        Kind::SetAttr(o) => {
            out.put("inode", o.inode).attributes(o.attributes.as_ref());
            "set_attr"
        }
        Kind::SetXattr(o) => {
            out.put("inode", o.inode).bytes("name", &o.name).bytes("value", &o.value);
            "set_xattr"
        }
        Kind::RemoveXattr(o) => {
            out.put("inode", o.inode).bytes("name", &o.name);
            "remove_xattr"
        }
        Kind::Forget(o) => {
            let positions: Vec<Value> = o.positions.iter().map(position_to_json).collect();
            out.put("positions", positions);
            "forget"
        }
    }
}

fn position_to_json(p: &op::StreamPosition) -> Value {
    json!({ "stream": format!("{}.{}", p.site, p.incarnation), "lsn": p.lsn })
}

/// Collects the fields of one operation.
struct Out(Map<String, Value>);

impl Out {
    fn put(&mut self, field: &str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(field.to_owned(), value.into());
        self
    }

    fn nonzero(&mut self, field: &str, value: u64) -> &mut Self {
        if value != 0 { self.put(field, value) } else { self }
    }

    fn bytes(&mut self, field: &str, value: &[u8]) -> &mut Self {
        self.put(field, bytes_to_json(value))
    }

    fn entry(&mut self, parent: u64, name: &[u8], inode: u64) -> &mut Self {
        self.put("parent", parent).bytes("name", name).put("inode", inode)
    }

    fn kind(&mut self, number: i32) -> &mut Self {
        match InodeKind::try_from(number).ok().and_then(kind_name) {
            Some(name) => self.put("kind", name),
            None => self.put("kind", number),
        }
    }

    fn time(&mut self, field: &str, time: Option<&op::Time>) -> &mut Self {
        match time {
            Some(time) => self.put(field, json!({ "seconds": time.seconds, "nanos": time.nanos })),
            None => self,
        }
    }

    fn attributes(&mut self, attributes: Option<&op::Attributes>) -> &mut Self {
        let Some(a) = attributes else { return self };
        for (field, value) in [("mode", a.mode), ("uid", a.uid), ("gid", a.gid)] {
            if let Some(value) = value {
                self.put(field, value);
            }
        }
        if let Some(size) = a.size {
            self.put("size", size);
        }
        self.time("mtime", a.mtime.as_ref()).time("ctime", a.ctime.as_ref());
        if let Some(extents) = &a.extents {
            self.bytes("extents", extents);
        }
        self
    }
}
