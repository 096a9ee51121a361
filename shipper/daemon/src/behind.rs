//! Who is too far behind: its cursor lies before what is kept of a stream, so that only a snapshot of the store brings it
//! on. The one place that says so, for this site and for the others.
//!
//! A source refuses such a pull with `GONE`, and says in every state from where on it holds each stream; so a gap is never
//! skipped, and a site asks whoever still has what it lacks.

use std::sync::Arc;
use std::time::Duration;

use cfs_journal::Position;
use cfs_model::{Epoch, Lsn, SiteId, StreamId};

use crate::node::Node;
use crate::peers::Peer;

/// How often a site looks at itself.
const INTERVAL: Duration = Duration::from_secs(1);

/// A stream of which a site lacks what no other still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Behind {
    pub(crate) stream: StreamId,
    /// How far the site is.
    pub(crate) cursor: Lsn,
    /// The first LSN that is kept anywhere, as far as is known.
    pub(crate) first: Lsn,
}

impl std::fmt::Display for Behind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stream {} is kept from LSN {} on, the site ends at {}", self.stream, self.first, self.cursor)
    }
}

/// All of them, for people.
pub(crate) fn text(all: &[Behind]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What one site holds of a stream.
struct Copy {
    first: Lsn,
    durable: Lsn,
}

/// `Some(first)` if at least one of `copies` has more than `cursor`, and none that has still has what follows it.
fn first_kept(cursor: Lsn, copies: impl Iterator<Item = Copy>) -> Option<Lsn> {
    let mut first: Option<Lsn> = None;
    for copy in copies.filter(|copy| copy.durable > cursor) {
        if copy.first <= cursor.next() {
            return None;
        }
        first = Some(first.map_or(copy.first, |known| known.min(copy.first)));
    }
    first
}

/// What a peer said that it holds of `stream`; nothing is known if it did not say from where on.
fn copy_of(peer: &Peer, stream: StreamId) -> Option<Copy> {
    Some(Copy {
        durable: peer.durable.get(&stream).copied()?,
        first: peer.first.get(&stream).copied().unwrap_or_default(),
    })
}

fn own_copy(node: &Node, stream: StreamId) -> Option<Copy> {
    Some(Copy { first: node.journal.first(stream)?, durable: node.journal.position(stream)?.durable })
}

/// The streams of which this site's store lacks what its own journal does not have any more: the store was lost, or is an older
/// one. Nothing that others send fills that.
fn own_gaps(node: &Node) -> Vec<Behind> {
    let applied = node.store.position().applied;
    let held = node.journal.streams().into_iter().filter_map(|stream| Some((stream, own_copy(node, stream)?)));
    let gaps = held.filter_map(|(stream, own)| {
        let cursor = applied.get(stream);
        let first = first_kept(cursor, std::iter::once(own))?;
        Some(Behind { stream, cursor, first })
    });
    gaps.collect()
}

/// The streams that this site can only go on with after a snapshot: all sites that are heard and have more have removed
/// what follows, or its store lacks what its journal does not have.
pub(crate) fn here(node: &Node) -> Vec<Behind> {
    let mut all = own_gaps(node);
    all.extend(of_others(node));
    all
}

fn of_others(node: &Node) -> Vec<Behind> {
    let now_ms = node.boot_ms();
    let streams: Vec<(StreamId, Lsn)> = node.positions.lock().iter().map(|(s, p)| (*s, p.cursor.durable())).collect();
    let peers = node.peers.lock();
    let heard: Vec<&Peer> = peers.values().filter(|peer| peer.is_heard(now_ms, node.silence_ms())).collect();
    let directed = node.governed.directed();
    let closed = &directed.closed;
    let behind = streams.into_iter().filter(|(stream, cursor)| closed.get(stream).is_none_or(|end| cursor < end));
    let behind = behind.filter_map(|(stream, cursor)| {
        let first = first_kept(cursor, heard.iter().filter_map(|peer| copy_of(peer, stream)))?;
        Some(Behind { stream, cursor, first })
    });
    behind.collect()
}

/// The streams that `site` can only go on with after a snapshot, as far as this site knows: it and the others that are
/// heard have removed what follows the site's cursor. Empty for a site that was never heard.
pub(crate) fn of_site(node: &Node, site: SiteId) -> Vec<Behind> {
    let now_ms = node.boot_ms();
    let peers = node.peers.lock();
    let Some(of) = peers.values().find(|peer| peer.id == site && peer.heard_at_ms.is_some()) else {
        return Vec::new();
    };
    let others = || peers.values().filter(|peer| peer.id != site && peer.is_heard(now_ms, node.silence_ms()));
    let behind = node.journal.streams().into_iter().filter_map(|stream| {
        let cursor = of.durable.get(&stream).copied().unwrap_or_default();
        let copies = own_copy(node, stream).into_iter().chain(others().filter_map(|peer| copy_of(peer, stream)));
        Some(Behind { stream, cursor, first: first_kept(cursor, copies)? })
    });
    behind.collect()
}

/// Looks, for as long as the process lives, whether this site is too far behind, and says so.
pub(crate) async fn watch(node: Arc<Node>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        // A site that is being enrolled finds its own way.
        if node.bootstrap.is_under_way() {
            continue;
        }
        for behind in here(&node) {
            let trying = node.clone();
            match tokio::task::spawn_blocking(move || go_on_from_store(&trying, behind)).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(_) => return,
            }
            if node
                .positions
                .stuck(behind.stream, format!("{behind}: this site needs a snapshot of another site's store"))
            {
                node.metrics.error("behind");
                tracing::error!(%behind, "this site is too far behind: it needs a snapshot of another site's store");
            }
        }
    }
}

/// A journal that lost a stream, or its tail, goes on where the store is, if the others still have what follows: nothing
/// before is needed here any more. Blocks.
fn go_on_from_store(node: &Node, behind: Behind) -> bool {
    let Behind { stream, cursor, first } = behind;
    let store = node.store.position();
    let (applied, chain) = (store.applied.get(stream), store.chains.get(&stream).copied());
    let Some(chain) = chain.filter(|_| applied > cursor && applied.next() >= first) else { return false };
    // What the journal does not hold any more must survive in the store.
    match node.store.sync() {
        Ok(synced) if synced.get(stream) >= applied => {}
        _ => return false,
    }
    let position = Position { durable: applied, chain, epoch: Epoch(0), clock: store.highest_clock };
    match node.journal.begin_after(stream, position) {
        Ok(_) => {
            node.positions.restore(stream, applied, applied);
            node.plan().start_again(stream);
            node.signals.durable.bump();
            tracing::warn!(%stream, %cursor, %applied, "the journal had lost what the store holds; the stream goes on where the store is");
            true
        }
        Err(error @ cfs_journal::remove::Error::Fatal { .. }) => {
            crate::fatal::fatal("the journal cannot be written", &error)
        }
        Err(error) => {
            tracing::warn!(%stream, %error, "a stream cannot go on where the store is");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_too_far_behind_only_if_nobody_has_what_follows() {
        let copies = |copies: &[(u64, u64)]| {
            let copies = copies.iter().map(|(first, durable)| Copy { first: Lsn(*first), durable: Lsn(*durable) });
            first_kept(Lsn(10), copies)
        };
        assert_eq!(copies(&[]), None);
        assert_eq!(copies(&[(11, 20)]), None);
        assert_eq!(copies(&[(12, 20)]), Some(Lsn(12)));
        assert_eq!(copies(&[(15, 20), (12, 30)]), Some(Lsn(12)));
        assert_eq!(copies(&[(15, 20), (1, 12)]), None, "a third site still has it");
        assert_eq!(copies(&[(15, 20), (1, 10)]), Some(Lsn(15)), "it has nothing more");
        assert_eq!(copies(&[(11, 10)]), None, "nobody has more");
        assert_eq!(copies(&[(0, 20)]), None, "an older version does not say");
    }
}
