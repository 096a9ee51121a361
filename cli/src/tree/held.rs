//! What the local site's store holds, as the comparison needs it.

use std::collections::HashMap;

use bytes::Bytes;
use cfs_model::op::{InodeKind, StreamPosition};
use cfs_rpc::v1::inspect_client::InspectClient;
use cfs_rpc::v1::{LookupRequest, Node, ReadDirectoryRequest, StatusReply, StatusRequest};
use futures::stream::{StreamExt, TryStreamExt};
use tonic::transport::Channel;

use crate::client;

/// Inodes looked up at the same time, for one directory.
const LOOKUPS: usize = 32;

/// What a name leads to in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// The inode's number.
    pub inode: u64,
    /// The inode; `None`: the name dangles.
    pub node: Option<Node>,
}

impl Held {
    /// The inode's kind; unspecified for a name that dangles.
    pub fn kind(&self) -> InodeKind {
        self.node.as_ref().map_or(InodeKind::Unspecified, Node::kind)
    }
}

/// A directory's names in the store.
pub type Names = HashMap<Bytes, Held>;

/// Reads the local site's store.
#[derive(Debug, Clone)]
pub struct Store {
    client: InspectClient<Channel>,
}

impl Store {
    /// Reads through this connection.
    pub const fn new(client: InspectClient<Channel>) -> Self {
        Self { client }
    }

    /// What the site says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<StatusReply, client::Error> {
        let request = StatusRequest { all_sites: false };
        Ok(self.client.clone().status(request).await.map_err(client::failed("tell its status"))?.into_inner())
    }

    /// The names of directory `inode`, or those of `names` that exist, once `applied` is applied. Directory 0 is the
    /// place above the root; its one name is `/`.
    ///
    /// # Errors
    /// When the site does not answer, or has not applied that in time.
    pub async fn names(
        &self,
        inode: u64,
        names: Vec<Bytes>,
        applied: Option<StreamPosition>,
    ) -> Result<Names, client::Error> {
        let action = || client::failed(format!("read directory {inode}"));
        let request = ReadDirectoryRequest { inode, names, applied };
        let mut replies = self.client.clone().read_directory(request).await.map_err(action())?.into_inner();
        let mut found = Names::new();
        while let Some(reply) = replies.message().await.map_err(action())? {
            for item in reply.items {
                let node = item.node.unwrap_or_default();
                let held = Held { inode: node.inode, node: node.attributes.is_some().then_some(node) };
                found.insert(item.path, held);
            }
        }
        Ok(found)
    }

    /// Those of `inodes` that exist, by number.
    ///
    /// # Errors
    /// When the site does not answer.
    pub async fn nodes(&self, inodes: Vec<u64>) -> Result<HashMap<u64, Node>, client::Error> {
        let lookups = inodes.into_iter().map(|inode| {
            let mut client = self.client.clone();
            async move {
                let reply = client.lookup(LookupRequest { inode }).await;
                let reply = reply.map_err(client::failed(format!("look up inode {inode}")))?.into_inner();
                let live = reply.found && !reply.removed;
                Ok::<_, client::Error>(reply.node.filter(|node| live && node.attributes.is_some()).map(|n| (inode, n)))
            }
        });
        futures::stream::iter(lookups).buffer_unordered(LOOKUPS).try_filter_map(async |found| Ok(found)).try_collect().await
    }
}
