//! `cfs admin meta ls`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cfs_rpc::v1::{ListItem, ListRequest};
use serde::Serialize;

use super::node::{NodeView, is_false, or_dash};
use crate::client;
use crate::output::{Row, Rows};
use crate::{Context, path_text};

/// Arguments of `cfs admin meta ls`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to list: a path from the root of the replicated tree
    #[arg(value_name = "PATH")]
    path: OsString,
    /// Also everything below
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// One entry of a directory.
#[derive(Debug, Serialize)]
pub struct Entry {
    path: String,
    #[serde(skip_serializing_if = "is_false")]
    path_escaped: bool,
    path_b64: String,
    #[serde(flatten)]
    node: NodeView,
    #[serde(skip)]
    bytes: Vec<u8>,
}

impl Entry {
    /// The entry in an answer; an entry whose inode is not there has no type.
    fn of(item: ListItem) -> Self {
        let (path, path_escaped) = path_text::for_json(&item.path);
        let path_b64 = BASE64_STANDARD.encode(&item.path);
        let node = NodeView::of(&item.node.unwrap_or_default());
        Self { path, path_escaped, path_b64, node, bytes: item.path.to_vec() }
    }
}

impl Row for Entry {
    const SCHEMA: &'static str = "cfs.ls/1";

    fn heading() -> String {
        let (mode, size, modified) = ("MODE", "SIZE", "MODIFIED (UTC)");
        format!("T {mode:>5} {:>8} {:>8} {size:>14} {modified:19} {:>20} {:>5} PATH", "UID", "GID", "INODE", "LINKS")
    }

    fn line(&self) -> String {
        let n = &self.node;
        format!(
            "{} {:>5} {:>8} {:>8} {:>14} {:19} {:>20} {:>5} {}{}",
            n.kind.unwrap_or('?'),
            n.mode_text(),
            or_dash(n.uid),
            or_dash(n.gid),
            or_dash(n.size),
            n.mtime_text(),
            n.inode,
            or_dash(n.nlink),
            path_text::for_terminal(&self.bytes),
            n.target_text(),
        )
    }
}

/// Runs the command: prints entries as they arrive, in bounded memory.
///
/// # Errors
/// When the shipper cannot be reached, or has no such path.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let path = args.path.into_vec();
    anyhow::ensure!(
        path.starts_with(b"/"),
        "path {:?} is not usable: write it from the root of the replicated tree, as in /usr",
        path_text::for_terminal(&path)
    );
    let action = format!("list {}", path_text::for_terminal(&path));
    let mut inspect = client::inspect(context).await?;
    let request = ListRequest { path: path.into(), recursive: args.recursive };
    let mut replies = inspect.list(request).await.map_err(client::failed(&action))?.into_inner();
    let mut rows = Rows::to_stdout(context.format());
    while let Some(reply) = replies.message().await.map_err(client::failed(&action))? {
        for item in reply.items {
            rows.push(&Entry::of(item))?;
        }
    }
    rows.finish()?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use cfs_model::op::{Attributes, InodeKind, Time};
    use cfs_rpc::v1::{Node, Xattr};

    use super::*;

    fn link() -> ListItem {
        let mtime = Some(Time { seconds: i64::MAX, nanos: 999_999_999 });
        let attributes = Attributes { mode: Some(0o777), size: Some(3), mtime, ..Attributes::default() };
        let node = Node {
            inode: u64::MAX,
            kind: InodeKind::Symlink as i32,
            attributes: Some(attributes),
            target: b"a\\\xff".to_vec().into(),
            nlink: 1,
            xattrs: vec![Xattr { name: b"user.x".to_vec().into(), value: b"\0".to_vec().into() }],
            ..Node::default()
        };
        ListItem { path: b"/d\n/e".to_vec().into(), node: Some(node) }
    }

    #[test]
    fn json_has_the_documented_keys_and_exact_numbers() {
        let json = serde_json::to_string(&Entry::of(link())).expect("JSON");
        assert_eq!(
            json,
            r#"{"path":"/d\n/e","path_b64":"L2QKL2U=","inode":18446744073709551615,"type":"l","mode":511,"uid":null,"gid":null,"size":3,"mtime_ns":9223372036854775807999999999,"target":"a\\\\\\xff","target_escaped":true,"target_b64":"YVz/","nlink":1,"device":null,"xattrs":{"user.x":"AA=="}}"#
        );
    }

    #[test]
    fn tables_stay_on_one_line() {
        let line = Entry::of(link()).line();
        assert!(line.ends_with("/d\\x0a/e -> a\\\\\\xff"), "{line}");
        assert!(line.starts_with("l  0777"), "{line}");
    }

    #[test]
    fn a_dangling_entry_has_no_type() {
        let item = ListItem { path: b"/x".to_vec().into(), node: Some(Node { inode: 7, ..Node::default() }) };
        let json = serde_json::to_value(Entry::of(item)).expect("JSON");
        assert_eq!((&json["type"], &json["inode"]), (&serde_json::Value::Null, &serde_json::json!(7)));
    }
}
