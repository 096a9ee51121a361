//! The receiver's side: copies another site's store, and goes on after every break from the last part that is in its own.

use std::sync::Arc;
use std::time::Duration;

use cfs_config::Peer;
use cfs_rpc::v1;
use cfs_rpc::v1::copy_frame::Kind as Outgoing;
use cfs_rpc::v1::peer_client::PeerClient;
use cfs_shipper_core::caps::MAX_COPY_PARTS_AHEAD;
use cfs_store::snapshot::{self, MAX_CHUNK_BYTES, Progress, Snapshot};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::run::{begin_again, begin_catchup, change, offers};
use super::{Begin, Way};
use crate::dial;
use crate::node::Node;
use crate::path::replicate::Work;
use crate::worker;

/// A source that says nothing for so long is left.
const SILENCE: Duration = Duration::from_secs(30);
/// What is kept beside the store, for the operator, is written after so many parts.
const PARTS_BETWEEN_NOTES: u64 = 32;

/// The order in which sites are asked: replicas before the primary, then whoever gives the fewest copies.
fn preferred(mut offers: Vec<(Peer, v1::OfferReply)>) -> Vec<(Peer, v1::OfferReply)> {
    offers.retain(|(_, offer)| offer.refused.is_empty() && !offer.applied.is_empty());
    offers.sort_by_key(|(peer, offer)| (offer.primary, offer.giving, peer.id));
    offers
}

/// Copies until the store is whole, or until something breaks; `attempt` rotates through the sources.
pub(super) async fn copy(node: &Arc<Node>, journal: &mpsc::Sender<Work>, attempt: usize) -> Result<(), String> {
    let offers = preferred(offers(node).await);
    let source = match offers.len() {
        0 => return Err("no site that is reached can give its store".to_owned()),
        // The preferred one twice, then each in turn.
        len => &offers[(attempt / 2) % len].0,
    };
    let progress = match progress(node).await? {
        Some(progress) => progress,
        None => {
            begin_again(node).await;
            progress(node).await?.ok_or("the store does not take a copy")?
        }
    };
    // A restart does not begin to count anew, and a full disk is waited for before anybody is asked.
    let usage = blocking(node, |node| Ok(node.store.usage()?)).await?;
    node.bootstrap.holds(usage.inodes + usage.dentries);
    wait_for_space(node).await;
    let name = source.name.to_string();
    change(node, move |kept| kept.source = name).await;
    if let Some(head) = &progress.snapshot {
        begin_journal(node, journal, head).await?;
    }
    let installed = match progress.next {
        None => Ok(()),
        Some(_) => session(node, journal, source, progress).await,
    };
    match installed {
        Ok(()) => finish(node).await,
        Err(Broken::Stale(why)) => {
            tracing::warn!(why, "the copy begins again");
            begin_again(node).await;
            Err(why)
        }
        Err(Broken::Session(why)) => Err(format!("{}: {why}", source.name)),
    }
}

/// Why a session ended early.
enum Broken {
    /// Its parts fit nothing that can still be had.
    Stale(String),
    /// The next session goes on.
    Session(String),
}

impl From<String> for Broken {
    fn from(why: String) -> Self {
        Self::Session(why)
    }
}

impl From<tonic::Status> for Broken {
    fn from(status: tonic::Status) -> Self {
        let why = status.message().to_owned();
        if status.code() == Code::Aborted { Self::Stale(why) } else { Self::Session(why) }
    }
}

async fn blocking<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(&Node) -> Result<T, snapshot::Error> + Send + 'static,
) -> Result<T, String> {
    let node = node.clone();
    let done = worker::behind(move || work(&node)).await;
    done.map_err(|e| e.to_string())?.map_err(|error| error.to_string())
}

async fn progress(node: &Arc<Node>) -> Result<Option<Progress>, String> {
    blocking(node, |node| node.store.install_progress()).await
}

/// One session with a source: parts come, each is in the store before it is answered.
async fn session(
    node: &Arc<Node>,
    journal: &mpsc::Sender<Work>,
    source: &Peer,
    progress: Progress,
) -> Result<(), Broken> {
    let channel = dial::peer(node, source).await?;
    // A row with what waits for it may be long, a part holds at least one.
    let mut client = PeerClient::new(channel).max_decoding_message_size(MAX_CHUNK_BYTES + 64 * 1024);
    let (out, frames) = mpsc::channel(MAX_COPY_PARTS_AHEAD as usize + 1);
    let mut headed = progress.snapshot.is_some();
    let begin = v1::CopyBegin {
        covers: progress.end.to_wire(),
        snapshot: progress.snapshot.map(|head| head.encode()).unwrap_or_default().into(),
        next: progress.next.map(|next| next.encode()).unwrap_or_default().into(),
    };
    send(&out, Outgoing::Begin(begin)).await?;
    let mut parts = client.copy(ReceiverStream::new(frames)).await?.into_inner();
    tracing::info!(source = %source.name, resumed = headed, "copying a store");
    let mut count = 0;
    loop {
        let part = tokio::time::timeout(SILENCE, parts.message()).await;
        let part = part.map_err(|_| format!("nothing was heard for {} s", SILENCE.as_secs()))??;
        let Some(v1::CopyPart { part, rows }) = part else { return Err("it ended the copy".to_owned().into()) };
        wait_for_space(node).await;
        let bytes = part.len() as u64;
        let (progress, held) = blocking(node, move |node| {
            node.store.install_chunk(&part)?;
            let usage = node.store.usage()?;
            Ok((node.store.install_progress()?, usage.inodes + usage.dentries))
        })
        .await?;
        let Some(Progress { snapshot: Some(head), next, .. }) = progress else {
            return Err("the store has forgotten the copy".to_owned().into());
        };
        if !headed {
            begin_journal(node, journal, &head).await?;
            headed = true;
        }
        node.bootstrap.installed(node.boot_ms(), bytes, held, rows);
        node.bootstrap.note("");
        count += 1;
        if count % PARTS_BETWEEN_NOTES == 1 {
            change(node, |_| {}).await;
        }
        if next.is_none() {
            return Ok(());
        }
        let durable = node.journal.streams().into_iter().filter_map(|s| Some((s, node.journal.position(s)?.durable)));
        let durable = durable.collect::<cfs_model::Vector>().to_wire();
        send(&out, Outgoing::Installed(v1::CopyInstalled { parts: count, durable })).await?;
    }
}

/// The copy waits while the disk is full, as everything else does.
async fn wait_for_space(node: &Node) {
    while node.space.is_read_only() {
        node.bootstrap.note(node.space.why());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn send(out: &mpsc::Sender<v1::CopyFrame>, kind: Outgoing) -> Result<(), String> {
    out.send(v1::CopyFrame { kind: Some(kind) }).await.map_err(|_| "the connection broke".to_owned())
}

/// Lets the journal go on behind the copy, so that its tail is stored while the rest is copied. The store's head is on disk
/// before: a journal that begins behind nothing could not be explained.
async fn begin_journal(node: &Arc<Node>, journal: &mpsc::Sender<Work>, head: &Snapshot) -> Result<(), String> {
    blocking(node, |node| Ok(node.store.sync()?)).await?;
    let (begin, done) = Begin::after(head);
    journal.send(Work::Begin(begin)).await.map_err(|_| "the shipper is stopping".to_owned())?;
    done.await.map_err(|_| "the shipper is stopping".to_owned())??;
    node.bootstrap.set_pulls(true);
    node.signals.role.bump();
    Ok(())
}

async fn finish(node: &Arc<Node>) -> Result<(), String> {
    let position = blocking(node, |node| {
        let position = node.store.install_finish()?;
        node.store.sync()?;
        Ok(position)
    })
    .await?;
    tracing::info!(at = %position.applied, "the store is copied; the journal goes on from there");
    begin_catchup(node, Way::Snapshot).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use cfs_model::{SiteId, SiteName};

    use super::*;

    #[test]
    fn a_replica_that_gives_nothing_is_asked_first() {
        let offer = |id: u8, primary, giving, refused: &str| {
            let peer = Peer {
                name: SiteName::new(format!("site-{id}")).unwrap(),
                id: SiteId(id),
                witness: false,
                peer: String::new(),
                control: String::new(),
                producer: None,
            };
            let applied = vec![cfs_model::op::StreamPosition { site: 1, incarnation: 1, lsn: 1 }];
            (peer, v1::OfferReply { primary, giving, refused: refused.into(), applied, ..Default::default() })
        };
        let offers =
            vec![offer(1, true, 0, ""), offer(2, false, 1, ""), offer(3, false, 0, "not now"), offer(4, false, 0, "")];
        let order: Vec<u8> = preferred(offers).iter().map(|(peer, _)| peer.id.0).collect();
        assert_eq!(order, [4, 2, 1]);
    }
}
