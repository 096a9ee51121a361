//! A few changes as they happen, each timed until the other site has applied it.

use std::time::Instant;

use anyhow::Context as _;
use cfs_client::{Ack, Options, Producer, Target};
use cfs_model::op::{self, InodeKind, Op, op::Kind};
use cfs_rpc::v1::inspect_client::InspectClient;
use cfs_rpc::v1::{StatusReply, StatusRequest};
use serde::Serialize;
use tonic::Streaming;
use tonic::transport::Channel;

use super::LIMIT;
use crate::{client, namespace};

/// Inode numbers that no real file system hands out.
const FIRST_INODE: u64 = (1 << 63) - 16;

/// One change and how long it took.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// What was done.
    pub change: String,
    /// From the append until it was applied on the other site.
    pub ms: f64,
}

/// Makes changes in a directory of their own at one site, waits for each at the other, and takes them back. `show` is
/// told of each as it arrives.
///
/// # Errors
/// When a change is refused or does not arrive within a minute.
pub async fn make_changes(
    socket: std::path::PathBuf,
    source: &mut InspectClient<Channel>,
    replica: &mut InspectClient<Channel>,
    show: impl Fn(&Change),
) -> anyhow::Result<Vec<Change>> {
    let root = namespace::root(source).await?.context("the tree has no root directory")?;
    let name = format!("demo-{}", std::process::id());
    let producer = Producer::connect(Target::Unix(socket), &name, Options::default()).await?;
    let request = StatusRequest { cursors_only: true, ..StatusRequest::default() };
    let status = replica.watch_status(request).await.map_err(client::failed("report its cursors"))?.into_inner();
    let mut arrivals = Arrivals { status };
    let mut made = Vec::new();
    for (what, op) in changes(root, &format!(".{name}")) {
        let began = Instant::now();
        let ack = producer.append(&op).await?.await?;
        tokio::time::timeout(LIMIT, arrivals.wait(&ack))
            .await
            .with_context(|| format!("{what} did not arrive at the other site within {LIMIT:?}"))??;
        let change = Change { change: what, ms: began.elapsed().as_secs_f64() * 1000.0 };
        show(&change);
        made.push(change);
    }
    Ok(made)
}

/// A file's short life, and nothing left of it.
fn changes(root: u64, directory: &str) -> Vec<(String, Op)> {
    let (dir, file, link) = (FIRST_INODE, FIRST_INODE + 1, FIRST_INODE + 2);
    let name = |name: &str| bytes::Bytes::from(name.to_owned());
    let (is_file, now) = (InodeKind::File as i32, namespace::attributes_now(0o644));
    let op = |kind| Op { kind: Some(kind) };
    let create = op::Create {
        parent: dir,
        name: name("draft"),
        inode: file,
        kind: is_file,
        attributes: Some(now.clone()),
        device: 0,
    };
    let rename = op::Rename {
        from_parent: dir,
        from_name: name("draft"),
        to_parent: dir,
        to_name: name("final"),
        inode: file,
        kind: is_file,
        replaced: 0,
    };
    let private = op::Attributes { mode: Some(0o600), ..op::Attributes::default() };
    let symlink = op::Symlink {
        parent: dir,
        name: name("link"),
        inode: link,
        target: name("final"),
        attributes: Some(now.clone()),
    };
    let at = |what: &str, path: &str| format!("{what} /{directory}{path}");
    vec![
        (at("mkdir", ""), namespace::make_directory(root, directory.as_bytes(), dir)),
        (at("create", "/draft"), op(Kind::Create(create))),
        (
            at("write 1 MiB to", "/draft"),
            op(Kind::Write(op::Write { inode: file, size: 1 << 20, mtime: now.mtime, ..op::Write::default() })),
        ),
        (at("rename to", "/final"), op(Kind::Rename(rename))),
        (at("chmod 600", "/final"), op(Kind::SetAttr(op::SetAttr { inode: file, attributes: Some(private) }))),
        (at("symlink", "/link"), op(Kind::Symlink(symlink))),
        (
            at("remove", "/link"),
            op(Kind::Unlink(op::Unlink { parent: dir, name: name("link"), inode: link, last: true })),
        ),
        (
            at("remove", "/final"),
            op(Kind::Unlink(op::Unlink { parent: dir, name: name("final"), inode: file, last: true })),
        ),
        (at("rmdir", ""), op(Kind::Rmdir(op::Rmdir { parent: root, name: name(directory), inode: dir }))),
    ]
}

/// What the replica says it has applied.
struct Arrivals {
    status: Streaming<StatusReply>,
}

impl Arrivals {
    async fn wait(&mut self, ack: &Ack) -> anyhow::Result<()> {
        loop {
            let reply = self.status.message().await?.context("the other site stopped reporting")?;
            let there = |c: &cfs_rpc::v1::StreamCursor| {
                c.site == u32::from(ack.stream.site.0)
                    && c.incarnation == ack.stream.incarnation.0
                    && c.applied >= ack.lsn.0
            };
            if reply.cursors.iter().any(there) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_a_valid_operation() {
        for (what, op) in changes(2, ".demo-1") {
            cfs_shipper_core::merge::validate(&op).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
}
