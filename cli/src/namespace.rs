//! The root of the replicated tree.

use cfs_model::op::{Attributes, Mkdir, Op, Time, op::Kind};
use cfs_rpc::v1::ReadDirectoryRequest;
use cfs_rpc::v1::inspect_client::InspectClient;
use jiff::Timestamp;
use tonic::transport::Channel;

use crate::client;

/// The place above the root.
const ABOVE_ROOT: u64 = 0;
/// The root's name there.
const ROOT_NAME: &[u8] = b"/";

/// The root directory's inode; `None` while there is none.
///
/// # Errors
/// When the shipper does not answer.
pub async fn root(inspect: &mut InspectClient<Channel>) -> Result<Option<u64>, client::Error> {
    let request = ReadDirectoryRequest { inode: ABOVE_ROOT, ..ReadDirectoryRequest::default() };
    let action = "find the root directory";
    let mut replies = inspect.read_directory(request).await.map_err(client::failed(action))?.into_inner();
    let mut found = None;
    while let Some(reply) = replies.message().await.map_err(client::failed(action))? {
        found = found.or_else(|| reply.items.iter().find_map(|item| item.node.as_ref().map(|node| node.inode)));
    }
    Ok(found)
}

/// Makes the root directory.
pub fn make_root(inode: u64) -> Op {
    make_directory(ABOVE_ROOT, ROOT_NAME, inode)
}

/// Makes a directory of this process's user, as of now.
pub fn make_directory(parent: u64, name: &[u8], inode: u64) -> Op {
    let attributes = Some(attributes_now(0o755));
    Op { kind: Some(Kind::Mkdir(Mkdir { parent, name: name.to_vec().into(), inode, attributes })) }
}

/// Attributes of something that this process's user made just now.
pub fn attributes_now(mode: u32) -> Attributes {
    let now = Timestamp::now();
    let seconds = now.as_second();
    let nanos = u32::try_from(now.subsec_nanosecond()).unwrap_or(0);
    Attributes {
        mode: Some(mode),
        uid: Some(rustix::process::geteuid().as_raw()),
        gid: Some(rustix::process::getegid().as_raw()),
        size: Some(0),
        mtime: Some(Time { seconds, nanos }),
        ctime: Some(Time { seconds, nanos }),
        extents: None,
    }
}
