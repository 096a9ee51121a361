//! For whom the journal is kept.

use std::collections::BTreeMap;

use cfs_model::{Lsn, SiteId, StreamId};

use crate::node::Node;

/// Another enrolled data site, as far as it is known here.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    pub(crate) site: String,
    pub(crate) id: SiteId,
    /// Whether it was heard since the start of this process.
    pub(crate) known: bool,
    /// Whether it was heard lately.
    pub(crate) heard: bool,
    /// Since it was heard, or since the start of this process.
    pub(crate) silent_ms: u64,
    durable: BTreeMap<StreamId, Lsn>,
}

impl Holder {
    /// How far it holds `stream`, durably; `None` if that is not known.
    pub(crate) fn cursor(&self, stream: StreamId) -> Option<Lsn> {
        self.known.then(|| self.durable.get(&stream).copied().unwrap_or_default())
    }

    /// Up to where it lets go of `stream`, which begins at `first` here; `None` if it holds nothing back, because what it
    /// lacks has gone already.
    pub(crate) fn holds_back(&self, stream: StreamId, first: Lsn) -> Option<Lsn> {
        match self.cursor(stream) {
            None => Some(Lsn::ZERO),
            Some(cursor) => (cursor.next() >= first).then_some(cursor),
        }
    }
}

/// The other enrolled data sites.
pub(crate) fn holders(node: &Node) -> Vec<Holder> {
    let directed = node.governed.directed();
    let now_ms = node.boot_ms();
    let peers = node.peers.lock();
    let others = directed.data_sites.iter().filter(|id| **id != node.id());
    let holder = |id: &SiteId| {
        // A site that is enrolled and not known here yet needs everything.
        let peer = peers.values().find(|peer| peer.id == *id).cloned().unwrap_or_default();
        Holder {
            site: node.site_name(*id),
            id: *id,
            known: peer.heard_at_ms.is_some(),
            heard: peer.is_heard(now_ms, node.silence_ms()),
            silent_ms: peer.silent_ms(now_ms, node.started_ms),
            durable: peer.durable,
        }
    };
    others.map(holder).collect()
}

#[cfg(test)]
mod tests {
    use cfs_model::Incarnation;

    use super::*;

    #[test]
    fn who_lacks_what_has_gone_already_holds_nothing_back() {
        let stream = StreamId { site: SiteId(1), incarnation: Incarnation(1) };
        let mut holder = Holder {
            site: "b".into(),
            id: SiteId(2),
            known: true,
            heard: false,
            silent_ms: 0,
            durable: BTreeMap::from([(stream, Lsn(10))]),
        };
        assert_eq!(holder.holds_back(stream, Lsn(1)), Some(Lsn(10)));
        assert_eq!(holder.holds_back(stream, Lsn(11)), Some(Lsn(10)));
        assert_eq!(holder.holds_back(stream, Lsn(12)), None, "only a snapshot helps it");
        holder.known = false;
        assert_eq!(holder.holds_back(stream, Lsn(12)), Some(Lsn::ZERO), "nothing is known of it");
    }
}
