//! What the local site's store holds, as the comparison needs it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cfs_model::op::{InodeKind, StreamPosition};
use cfs_rpc::v1::inspect_client::InspectClient;
use cfs_rpc::v1::{LookupRequest, Node, ReadDirectoryRequest, StatusReply, StatusRequest};
use futures::stream::{StreamExt, TryStreamExt};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::client;

/// Inodes looked up at the same time, for one directory.
const LOOKUPS: usize = 32;
/// First pause when the shipper does not answer; doubled each time.
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// How long a shipper may be away, for example to start again.
const PATIENCE: Duration = Duration::from_secs(600);

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
    /// The shipper does not answer, and that was said.
    away: Arc<AtomicBool>,
}

impl Store {
    /// Reads through this connection.
    pub fn new(client: InspectClient<Channel>) -> Self {
        Self { client, away: Arc::default() }
    }

    /// What the site says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<StatusReply, client::Error> {
        let ask = || async { Ok(self.client.clone().status(StatusRequest::default()).await?.into_inner()) };
        self.patiently("tell its status", ask).await
    }

    /// The names of directory `inode`, or those of `names` that exist, once `applied` is applied. Directory 0 is the
    /// place above the root; its one name is `/`. Waits while the shipper starts again.
    ///
    /// # Errors
    /// When the site does not answer for ten minutes, or refuses.
    pub async fn names(
        &self,
        inode: u64,
        names: Vec<Bytes>,
        applied: Option<StreamPosition>,
    ) -> Result<Names, client::Error> {
        let request = ReadDirectoryRequest { inode, names, applied };
        self.patiently(&format!("read directory {inode}"), || self.read(request.clone())).await
    }

    async fn read(&self, request: ReadDirectoryRequest) -> Result<Names, Status> {
        let mut replies = self.client.clone().read_directory(request).await?.into_inner();
        let mut found = Names::new();
        while let Some(reply) = replies.message().await? {
            for item in reply.items {
                let node = item.node.unwrap_or_default();
                let held = Held { inode: node.inode, node: node.attributes.is_some().then_some(node) };
                found.insert(item.path, held);
            }
        }
        Ok(found)
    }

    /// One path of an inode, if it has any.
    ///
    /// # Errors
    /// When the site does not answer for ten minutes, or refuses.
    pub async fn path(&self, inode: u64) -> Result<Option<Bytes>, client::Error> {
        let ask =
            || async { Ok(self.client.clone().lookup(LookupRequest { inode, all_sites: false }).await?.into_inner()) };
        Ok(self.patiently(&format!("look up inode {inode}"), ask).await?.paths.into_iter().next())
    }

    /// Asks again while the shipper is away: an import outlives a restart of it.
    async fn patiently<T, F: Future<Output = Result<T, Status>>>(
        &self,
        action: &str,
        mut ask: impl FnMut() -> F,
    ) -> Result<T, client::Error> {
        let since = Instant::now();
        let mut pause = MIN_PAUSE;
        loop {
            match ask().await {
                Ok(answer) => {
                    if self.away.swap(false, Ordering::Relaxed) {
                        anstream::eprintln!("the shipper answers again");
                    }
                    return Ok(answer);
                }
                Err(status) if may_pass(status.code()) && since.elapsed() < PATIENCE => {
                    if !self.away.swap(true, Ordering::Relaxed) {
                        anstream::eprintln!("waiting for the shipper, which does not answer: {}", status.message());
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
                Err(status) => return Err(client::failed(action)(status)),
            }
        }
    }

    /// Those of `inodes` that exist, by number. Waits while the shipper starts again.
    ///
    /// # Errors
    /// When the site does not answer for ten minutes, or refuses.
    pub async fn nodes(&self, inodes: Vec<u64>) -> Result<HashMap<u64, Node>, client::Error> {
        let lookups = inodes.into_iter().map(|inode| async move {
            let ask = || async {
                Ok(self.client.clone().lookup(LookupRequest { inode, all_sites: false }).await?.into_inner())
            };
            let reply = self.patiently(&format!("look up inode {inode}"), ask).await?;
            let live = reply.found && !reply.removed;
            Ok::<_, client::Error>(reply.node.filter(|node| live && node.attributes.is_some()).map(|n| (inode, n)))
        });
        let found = futures::stream::iter(lookups).buffer_unordered(LOOKUPS);
        found.try_filter_map(|found| std::future::ready(Ok(found))).try_collect().await
    }
}

const fn may_pass(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::DeadlineExceeded)
}
