//! From JSON.

use bytes::Bytes;
use cfs_model::op::{self, op::Kind};
use cfs_model::{Lsn, StreamId};
use serde_json::{Map, Value};

use super::{Error, KINDS, NANOS_PER_SECOND, bytes_from_json};

/// Reads the fields of the operation with this name, all of them.
pub(super) fn kind(operation: String, map: Map<String, Value>) -> Result<Kind, Error> {
    let mut fields = Fields { operation, map };
    let kind = read_kind(&mut fields)?;
    match fields.map.into_iter().next() {
        Some((field, _)) => Err(Error::Unknown { operation: fields.operation, field }),
        None => Ok(kind),
    }
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

pub(super) fn time_from_json(value: &Value) -> Option<op::Time> {
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
