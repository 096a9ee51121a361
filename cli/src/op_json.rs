//! An operation as JSON: what `cfs journal dump` prints and `cfs journal append` reads.
//!
//! An operation is an object with one member, named after the operation; its value holds the fields of `op.proto`
//! under their own names, with attributes beside them and not nested:
//!
//! ```json
//! {"create":{"parent":1,"name":"x","inode":5,"kind":"file","mode":420,"uid":0,"gid":0,"size":0,
//!            "mtime":{"seconds":1700000000,"nanos":5}}}
//! {"rename":{"from_parent":1,"from_name":"x","to_parent":1,"to_name":"y","inode":5,"kind":"file"}}
//! {"set_xattr":{"inode":5,"name":"user.tag","value":{"b64":"/w=="}}}
//! ```
//!
//! * Byte strings (names, targets, values, extents) are a string when they are UTF-8, otherwise `{"b64": "..."}`;
//!   both are read everywhere.
//! * A time is written as `{"seconds": S, "nanos": N}`. It is also read as `"S.FRACTION"`, where the fraction counts
//!   forward from second `S` also before 1970, as `date +%s.%N` prints it; or as a whole number of seconds.
//! * `kind` is one of `file directory symlink fifo char_device block_device socket`.
//! * Fields that are 0, false or absent in the operation are left out. A field that an operation does not have is
//!   refused, so that a misspelt one is not lost.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use cfs_model::op::{self, InodeKind, Op, op::Kind};
use cfs_model::{Lsn, StreamId};
use serde_json::{Map, Value, json};

/// Why JSON is no operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not JSON.
    #[error("it is not JSON: {0}")]
    Json(String),
    /// Not an object with one member.
    #[error("write one object with one member, as in {{\"unlink\":{{\"parent\":1,\"name\":\"x\",\"inode\":5}}}}")]
    Shape,
    /// No such operation.
    #[error("operation {0:?} is unknown: use one of {list}", list = OPERATIONS.join(" "))]
    Operation(String),
    /// A field is needed.
    #[error("{operation} needs {field:?}")]
    Missing {
        /// In which operation.
        operation: String,
        /// Which field.
        field: &'static str,
    },
    /// A field does not hold what it should.
    #[error("{field:?} of {operation} must be {expected}")]
    Field {
        /// In which operation.
        operation: String,
        /// Which field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A field that the operation does not have.
    #[error("{operation} has no field {field:?}")]
    Unknown {
        /// In which operation.
        operation: String,
        /// Which field.
        field: String,
    },
}

const OPERATIONS: [&str; 13] = [
    "create",
    "mkdir",
    "symlink",
    "link",
    "unlink",
    "rmdir",
    "rename",
    "write",
    "truncate",
    "set_attr",
    "set_xattr",
    "remove_xattr",
    "forget",
];

const KINDS: [(InodeKind, &str); 7] = [
    (InodeKind::File, "file"),
    (InodeKind::Directory, "directory"),
    (InodeKind::Symlink, "symlink"),
    (InodeKind::Fifo, "fifo"),
    (InodeKind::CharDevice, "char_device"),
    (InodeKind::BlockDevice, "block_device"),
    (InodeKind::Socket, "socket"),
];

const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// Reads an operation from a line of JSON.
///
/// # Errors
/// What is wrong with the line, with the field at fault.
pub fn parse(line: &str) -> Result<Op, Error> {
    from_json(serde_json::from_str(line).map_err(|e| Error::Json(e.to_string()))?)
}

/// Reads an operation.
///
/// # Errors
/// What is wrong, with the field at fault.
pub fn from_json(value: Value) -> Result<Op, Error> {
    let Value::Object(outer) = value else { return Err(Error::Shape) };
    let mut members = outer.into_iter();
    let (Some((operation, Value::Object(map))), None) = (members.next(), members.next()) else {
        return Err(Error::Shape);
    };
    let mut fields = Fields { operation, map };
    let kind = read_kind(&mut fields)?;
    match fields.map.into_iter().next() {
        Some((field, _)) => Err(Error::Unknown { operation: fields.operation, field }),
        None => Ok(Op { kind: Some(kind) }),
    }
}

/// Writes an operation. An operation without content, which only a newer version could have written, comes out as
/// `{"unknown":{}}`.
pub fn to_json(op: &Op) -> Value {
    let mut out = Out(Map::new());
    let name = op.kind.as_ref().map_or("unknown", |kind| write_kind(kind, &mut out));
    json!({ name: out.0 })
}

/// Writes a byte string: a string if it is UTF-8, otherwise `{"b64": ...}`.
pub fn bytes_to_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "b64": BASE64_STANDARD.encode(bytes) }),
    }
}

/// Reads a byte string in either form; `None` if it is neither.
pub fn bytes_from_json(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Object(map) if map.len() == 1 => BASE64_STANDARD.decode(map.get("b64")?.as_str()?).ok(),
        _ => None,
    }
}

/// The name of an inode's kind in JSON.
pub fn kind_name(kind: InodeKind) -> Option<&'static str> {
    KINDS.iter().find(|(k, _)| *k == kind).map(|(_, name)| *name)
}

fn read_kind(f: &mut Fields) -> Result<Kind, Error> {
    let kind = match f.operation.as_str() {
        "create" => Kind::Create(op::Create {
            parent: f.number("parent")?,
            name: f.bytes("name")?,
            inode: f.number("inode")?,
            kind: f.inode_kind()?,
            attributes: Some(f.attributes()?),
            device: f.optional_number("device")?.unwrap_or(0),
        }),
        "mkdir" => Kind::Mkdir(op::Mkdir {
            parent: f.number("parent")?,
            name: f.bytes("name")?,
            inode: f.number("inode")?,
            attributes: Some(f.attributes()?),
        }),
        "symlink" => Kind::Symlink(op::Symlink {
            parent: f.number("parent")?,
            name: f.bytes("name")?,
            inode: f.number("inode")?,
            target: f.bytes("target")?,
            attributes: Some(f.attributes()?),
        }),
        "link" => Kind::Link(op::Link {
            parent: f.number("parent")?,
            name: f.bytes("name")?,
            inode: f.number("inode")?,
            kind: f.inode_kind()?,
        }),
        "unlink" => Kind::Unlink(op::Unlink {
            parent: f.number("parent")?,
            name: f.bytes("name")?,
            inode: f.number("inode")?,
            last: f.flag("last")?,
        }),
        "rmdir" => {
            Kind::Rmdir(op::Rmdir { parent: f.number("parent")?, name: f.bytes("name")?, inode: f.number("inode")? })
        }
        "rename" => Kind::Rename(op::Rename {
            from_parent: f.number("from_parent")?,
            from_name: f.bytes("from_name")?,
            to_parent: f.number("to_parent")?,
            to_name: f.bytes("to_name")?,
            inode: f.number("inode")?,
            kind: f.inode_kind()?,
            replaced: f.optional_number("replaced")?.unwrap_or(0),
        }),
        "write" => Kind::Write(op::Write {
            inode: f.number("inode")?,
            size: f.number("size")?,
            mtime: f.time("mtime")?,
            extents: f.optional_bytes("extents")?.unwrap_or_default(),
        }),
        "truncate" => {
            Kind::Truncate(op::Truncate { inode: f.number("inode")?, size: f.number("size")?, mtime: f.time("mtime")? })
        }
        "set_attr" => Kind::SetAttr(op::SetAttr { inode: f.number("inode")?, attributes: Some(f.attributes()?) }),
        "set_xattr" => Kind::SetXattr(op::SetXattr {
            inode: f.number("inode")?,
            name: f.bytes("name")?,
            value: f.optional_bytes("value")?.unwrap_or_default(),
        }),
        "remove_xattr" => Kind::RemoveXattr(op::RemoveXattr { inode: f.number("inode")?, name: f.bytes("name")? }),
        "forget" => Kind::Forget(op::Forget { positions: f.positions()? }),
        other => return Err(Error::Operation(other.chars().take(64).collect())),
    };
    Ok(kind)
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

/// The fields of one operation; each is taken out as it is read, so that what is left at the end is unknown.
struct Fields {
    operation: String,
    map: Map<String, Value>,
}

impl Fields {
    fn missing(&self, field: &'static str) -> Error {
        Error::Missing { operation: self.operation.clone(), field }
    }

    fn read<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.map.remove(field) else { return Ok(None) };
        let bad = || Error::Field { operation: self.operation.clone(), field, expected };
        convert(&value).map(Some).ok_or_else(bad)
    }

    fn optional_number(&mut self, field: &'static str) -> Result<Option<u64>, Error> {
        self.read(field, "a whole number from 0 to 2^64-1", Value::as_u64)
    }

    fn number(&mut self, field: &'static str) -> Result<u64, Error> {
        self.optional_number(field)?.ok_or_else(|| self.missing(field))
    }

    fn small_number(&mut self, field: &'static str) -> Result<Option<u32>, Error> {
        self.read(field, "a whole number from 0 to 2^32-1", |v| v.as_u64()?.try_into().ok())
    }

    fn flag(&mut self, field: &'static str) -> Result<bool, Error> {
        Ok(self.read(field, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    fn optional_bytes(&mut self, field: &'static str) -> Result<Option<Bytes>, Error> {
        let expected = "a string or {\"b64\": \"...\"} with standard Base64";
        Ok(self.read(field, expected, bytes_from_json)?.map(Bytes::from))
    }

    fn bytes(&mut self, field: &'static str) -> Result<Bytes, Error> {
        self.optional_bytes(field)?.ok_or_else(|| self.missing(field))
    }

    fn inode_kind(&mut self) -> Result<i32, Error> {
        let expected = "one of file directory symlink fifo char_device block_device socket";
        let read = |v: &Value| KINDS.iter().find(|(_, name)| Some(*name) == v.as_str()).map(|(kind, _)| *kind as i32);
        self.read("kind", expected, read)?.ok_or_else(|| self.missing("kind"))
    }

    fn time(&mut self, field: &'static str) -> Result<Option<op::Time>, Error> {
        self.read(field, "a time: {\"seconds\": S, \"nanos\": N}, \"S.FRACTION\" or whole seconds", time_from_json)
    }

    fn attributes(&mut self) -> Result<op::Attributes, Error> {
        Ok(op::Attributes {
            mode: self.small_number("mode")?,
            uid: self.small_number("uid")?,
            gid: self.small_number("gid")?,
            size: self.optional_number("size")?,
            mtime: self.time("mtime")?,
            ctime: self.time("ctime")?,
            extents: self.optional_bytes("extents")?,
        })
    }

    fn positions(&mut self) -> Result<Vec<op::StreamPosition>, Error> {
        let one = |v: &Value| {
            let stream: StreamId = v.get("stream")?.as_str()?.parse().ok()?;
            Some(op::StreamPosition::of(stream, Lsn(v.get("lsn")?.as_u64()?)))
        };
        let all = |v: &Value| v.as_array()?.iter().map(one).collect::<Option<Vec<_>>>();
        let expected = "a list of {\"stream\": \"SITE.INCARNATION\", \"lsn\": N}";
        self.read("positions", expected, all)?.ok_or_else(|| self.missing("positions"))
    }
}

fn time_from_json(value: &Value) -> Option<op::Time> {
    match value {
        Value::Number(_) => Some(op::Time { seconds: value.as_i64()?, nanos: 0 }),
        Value::String(text) => time_from_text(text),
        Value::Object(map) => {
            let nanos = map.get("nanos").map_or(Some(0), Value::as_u64)?;
            let nanos = u32::try_from(nanos).ok().filter(|n| *n < NANOS_PER_SECOND)?;
            let known = map.keys().all(|key| key == "seconds" || key == "nanos");
            known.then_some(op::Time { seconds: map.get("seconds")?.as_i64()?, nanos })
        }
        _ => None,
    }
}

fn time_from_text(text: &str) -> Option<op::Time> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    // "-0.5" could mean half a second before or after: the object form says which.
    if seconds == "-0" || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (digits, beyond) = fraction.split_at(fraction.len().min(9));
    if beyond.bytes().any(|b| b != b'0') {
        return None;
    }
    Some(op::Time { seconds: seconds.parse().ok()?, nanos: format!("{digits:0<9}").parse().ok()? })
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

#[cfg(test)]
#[path = "op_json_tests.rs"]
mod tests;
