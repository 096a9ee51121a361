//! An inode as the commands print it.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cfs_model::op::{InodeKind, Time};
use cfs_rpc::v1::Node;
use serde::Serialize;

use crate::path_text;

/// An inode in JSON; what it lacks is null.
#[derive(Debug, Serialize)]
pub(super) struct NodeView {
    pub(super) inode: u64,
    /// One letter, as `find -printf %y` has it; null for an entry that leads nowhere.
    #[serde(rename = "type")]
    pub(super) kind: Option<char>,
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    /// May be beyond 64 bits.
    pub(super) mtime_ns: Option<i128>,
    pub(super) target: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) target_escaped: bool,
    pub(super) target_b64: Option<String>,
    pub(super) nlink: Option<u64>,
    pub(super) device: Option<u64>,
    /// Name to value in Base64.
    pub(super) xattrs: BTreeMap<String, String>,
    #[serde(skip)]
    mtime: Option<Time>,
    #[serde(skip)]
    target_bytes: Vec<u8>,
}

pub(super) const fn is_false(value: &bool) -> bool {
    !*value
}

impl NodeView {
    pub(super) fn of(node: &Node) -> Self {
        let kind = type_letter(node.kind).filter(|_| node.attributes.is_some());
        let attributes = node.attributes.clone().unwrap_or_default();
        let link = kind == Some('l');
        let (target, target_escaped) = path_text::for_json(&node.target);
        Self {
            inode: node.inode,
            kind,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            size: attributes.size,
            mtime_ns: attributes.mtime.as_ref().map(nanoseconds),
            target: link.then_some(target),
            target_escaped: link && target_escaped,
            target_b64: link.then(|| BASE64_STANDARD.encode(&node.target)),
            nlink: kind.map(|_| node.nlink),
            device: matches!(kind, Some('c' | 'b')).then_some(node.device),
            xattrs: node.xattrs.iter().map(xattr).collect(),
            mtime: attributes.mtime,
            target_bytes: if link { node.target.to_vec() } else { Vec::new() },
        }
    }

    /// When it was last changed, for people.
    pub(super) fn mtime_text(&self) -> String {
        let Some(time) = &self.mtime else { return "-".to_owned() };
        match jiff::Timestamp::new(time.seconds, i32::try_from(time.nanos).unwrap_or(0)) {
            Ok(moment) => moment.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            Err(_) => format!("@{}", time.seconds),
        }
    }

    /// Permissions in octal, for people.
    pub(super) fn mode_text(&self) -> String {
        self.mode.map_or_else(|| "-".to_owned(), |mode| format!("{mode:04o}"))
    }

    /// ` -> TARGET` of a symbolic link, for people; empty for others.
    pub(super) fn target_text(&self) -> String {
        match self.target {
            Some(_) => format!(" -> {}", path_text::for_terminal(&self.target_bytes)),
            None => String::new(),
        }
    }
}

fn xattr(xattr: &cfs_rpc::v1::Xattr) -> (String, String) {
    (path_text::for_json_key(&xattr.name), BASE64_STANDARD.encode(&xattr.value))
}

/// A point in time as one number.
fn nanoseconds(time: &Time) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

/// One letter for a kind of inode, as `find -printf %y` prints it.
fn type_letter(kind: i32) -> Option<char> {
    Some(match InodeKind::try_from(kind).ok()? {
        InodeKind::File => 'f',
        InodeKind::Directory => 'd',
        InodeKind::Symlink => 'l',
        InodeKind::Fifo => 'p',
        InodeKind::Socket => 's',
        InodeKind::CharDevice => 'c',
        InodeKind::BlockDevice => 'b',
        InodeKind::Unspecified => return None,
    })
}

/// A number, or `-`.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
