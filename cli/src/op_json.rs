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
use cfs_model::op::{InodeKind, Op};
use serde_json::{Value, json};

mod read;
mod write;

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
    Ok(Op { kind: Some(read::kind(operation, map)?) })
}

/// Writes an operation. An operation without content, which only a newer version could have written, comes out as
/// `{"unknown":{}}`.
pub fn to_json(op: &Op) -> Value {
    write::operation(op.kind.as_ref())
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

#[cfg(test)]
#[path = "op_json_tests.rs"]
mod tests;
