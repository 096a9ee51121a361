//! What is in the journal, what goes next and what holds the rest: for people and metrics.

use std::collections::BTreeMap;

use cfs_model::op::StreamPosition;
use cfs_model::{Lsn, StreamId};
use cfs_rpc::v1;
use cfs_shipper_core::retention::{self, Budget, Piece, Situation, exhausted_in_s};

use super::{Holder, budget, holders, lacking_bytes, situation};
use crate::behind;
use crate::node::Node;

/// A site that is heard and lacks less than this share of the budget is catching up, and in no danger.
const NOTABLE_SHARE: u64 = 16;

/// When the first site falls behind what is kept, at the present rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exhaustion {
    pub(crate) site: String,
    pub(crate) in_s: u64,
}

/// The site that falls behind first, if any is on its way there.
pub(crate) fn exhaustion(node: &Node) -> Option<Exhaustion> {
    let (now, budget) = (situation(node, node.store.position().applied, false), budget(node));
    let all = holders(node).into_iter();
    let all = all.filter_map(|h| Some(Exhaustion { in_s: exhausted_by(node, &now, budget, &h)?, site: h.site }));
    all.min_by_key(|exhaustion| exhaustion.in_s)
}

/// Enrolled sites that need a snapshot, this one included.
pub(crate) fn sites_behind(node: &Node) -> usize {
    let others = holders(node).iter().filter(|holder| !behind::of_site(node, holder.id).is_empty()).count();
    others + usize::from(!behind::here(node).is_empty())
}

/// Seconds until what `holder` lacks begins to go; `None`: not in sight, or it has gone already.
fn exhausted_by(node: &Node, now: &Situation, budget: Budget, holder: &Holder) -> Option<u64> {
    let lacking = lacking_bytes(now, holder);
    if !holder.known || lacking == 0 || (holder.heard && lacking < budget.bytes / NOTABLE_SHARE) {
        return None;
    }
    let bytes_per_s = node.retention.state().lacking.get(&holder.site).map_or(0.0, retention::Growth::bytes_per_s);
    let by_bytes = exhausted_in_s(budget.bytes, lacking, bytes_per_s);
    by_bytes.into_iter().chain(exhausted_by_age(now, budget, holder)).min()
}

/// The same by age, which takes only what another site has.
fn exhausted_by_age(now: &Situation, budget: Budget, holder: &Holder) -> Option<u64> {
    let first_lacking = |(stream, pieces): (&StreamId, &Vec<Piece>)| {
        let cursor = holder.cursor(*stream)?;
        let piece = *pieces.iter().find(|piece| piece.last > cursor)?;
        (!piece.stays && piece.last <= now.copied.get(*stream)).then_some(piece.age_s)
    };
    now.pieces.iter().filter_map(first_lacking).map(|age_s| budget.age_s.saturating_sub(age_s)).min()
}

/// Everything about the journal.
pub(crate) fn reply(node: &Node) -> v1::JournalReply {
    let (now, budget) = (situation(node, node.store.position().applied, false), budget(node));
    let (usage, holders) = (node.journal.usage(), holders(node));
    let past = retention::past(&now, budget);
    let everything = Situation { everything: true, ..now.clone() };
    let removable = retention::plan(&everything, budget);
    let exhaustion = exhaustion(node);
    let state = node.retention.state();
    let (bytes_per_s, removed) = (state.written.bytes_per_s() as u64, state.removed);
    drop(state);
    v1::JournalReply {
        site: node.site().to_string(),
        bytes: usage.bytes,
        prepared_bytes: now.other_bytes,
        segments: usage.segments,
        oldest_age_s: now.pieces.values().filter_map(|pieces| Some(pieces.first()?.age_s)).max(),
        retention_bytes: budget.bytes,
        retention_set_bytes: node.settings.now().journal_retention_bytes,
        retention_s: budget.age_s,
        bytes_per_s,
        compaction_pending: !past.is_empty(),
        pending_segments: past.segments,
        pending_bytes: past.bytes,
        removable_bytes: removable.bytes,
        removed_bytes: removed.bytes,
        removed_segments: removed.segments,
        disk_free_bytes: node.space.free_bytes(),
        exhausted_in_s: exhaustion.as_ref().map(|e| e.in_s),
        exhausted_by: exhaustion.map(|e| e.site).unwrap_or_default(),
        streams: usage.streams.iter().map(|usage| stream(node, &now, usage)).collect(),
        sites: holders.iter().map(|holder| site(node, &now, budget, holder)).collect(),
        holds: holds(node, &now, &holders),
    }
}

fn stream(node: &Node, now: &Situation, usage: &cfs_journal::StreamUsage) -> v1::JournalStream {
    let id = usage.stream;
    let pieces = now.pieces.get(&id).map(Vec::as_slice).unwrap_or_default();
    v1::JournalStream {
        site: u32::from(id.site.0),
        incarnation: id.incarnation.0,
        site_name: node.site_name(id.site),
        first: usage.first.0,
        last: usage.durable.0,
        applied: now.applied.get(id).0,
        segments: usage.segments,
        bytes: usage.bytes + usage.prepared_bytes,
        oldest_age_s: pieces.first().map(|piece| piece.age_s),
        closed: node.governed.directed().closed.contains_key(&id),
    }
}

fn site(node: &Node, now: &Situation, budget: Budget, holder: &Holder) -> v1::JournalSite {
    let cursor = |stream: &StreamId| Some(StreamPosition::of(*stream, holder.cursor(*stream)?));
    v1::JournalSite {
        site: holder.site.clone(),
        known: holder.known,
        heard: holder.heard,
        silent_ms: holder.silent_ms,
        lacking_bytes: lacking_bytes(now, holder),
        exhausted_in_s: exhausted_by(node, now, budget, holder),
        behind: behind::text(&behind::of_site(node, holder.id)),
        cursors: now.pieces.keys().filter_map(cursor).collect(),
    }
}

/// Why a segment is still on disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Hold {
    /// It is being written.
    Written,
    /// This site has not applied it.
    Unapplied,
    /// A site lacks it.
    Site(String, &'static str),
    /// Nobody needs it, and there is room.
    Budget,
}

fn holds(node: &Node, now: &Situation, holders: &[Holder]) -> Vec<v1::JournalHold> {
    let mut sums: BTreeMap<(StreamId, Hold), (u64, u64)> = BTreeMap::new();
    for (stream, pieces) in &now.pieces {
        let first = pieces.first().map_or(Lsn(1), |piece| piece.first);
        for piece in pieces {
            let sum = sums.entry((*stream, hold(now, holders, *stream, first, piece))).or_default();
            sum.0 += 1;
            sum.1 += piece.bytes;
        }
    }
    let one = |((stream, hold), (segments, bytes)): ((StreamId, Hold), (u64, u64))| {
        let (site, why) = match hold {
            Hold::Written => (node.site().to_string(), "it is being written"),
            Hold::Unapplied => (node.site().to_string(), "it is not applied to this site's store yet"),
            Hold::Site(site, why) => (site, why),
            Hold::Budget => (String::new(), "every site has it; it stays while the journal is within its budget"),
        };
        v1::JournalHold { stream: stream.to_string(), site, why: why.to_owned(), segments, bytes }
    };
    sums.into_iter().map(one).collect()
}

fn hold(now: &Situation, holders: &[Holder], stream: StreamId, first: Lsn, piece: &Piece) -> Hold {
    if piece.stays {
        return Hold::Written;
    }
    if piece.last > now.applied.get(stream) {
        return Hold::Unapplied;
    }
    if piece.last <= now.shared.get(stream) {
        return Hold::Budget;
    }
    let slowest = holders.iter().filter_map(|h| Some((h.holds_back(stream, first)?, h))).min_by_key(|(lsn, _)| *lsn);
    match slowest {
        Some((_, holder)) if !holder.known => {
            Hold::Site(holder.site.clone(), "it was not heard since this process started, and may lack it")
        }
        Some((_, holder)) if !holder.heard => Hold::Site(holder.site.clone(), "it lacks it, and is down"),
        Some((_, holder)) => Hold::Site(holder.site.clone(), "it lacks it, and is catching up"),
        None => Hold::Site(String::new(), "this site was not told yet which other sites there are"),
    }
}
