//! Keeps the journal within its budget. What may go is decided in `cfs_shipper_core::retention`; this is who looks, from
//! what, and who removes. `docs/retention.md` says what operators see of it.

mod holders;
pub(crate) mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cfs_audit::{Event, Kind, Severity};
use cfs_journal::{Removed, remove};
use cfs_model::{Lsn, StreamId, Vector};
use cfs_rpc::v1;
use cfs_shipper_core::retention::{self, Budget, Growth, Piece, Plan, Situation, bytes_after};

use crate::behind;
use crate::fatal::fatal;
use crate::node::Node;
pub(crate) use holders::{Holder, holders};

/// How often the journal is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// What a site lacks does not go before all sites were heard, or this long after the start.
const PATIENCE_MS: u64 = 60_000;

/// The store is synced for retention's sake no more often.
const SYNC_PAUSE_MS: u64 = 5_000;

/// What retention remembers.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    /// Held while segments are removed.
    removing: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of what each site lacks.
    lacking: BTreeMap<String, Growth>,
    /// Of everything ever written.
    written: Growth,
    removed: Removed,
    /// What the store's last sync covered, and when it was.
    synced: Option<(Vector, u64)>,
    /// Sites that were told to be too far behind.
    behind: BTreeSet<String>,
}

impl Retention {
    /// The store is synced up to `applied`.
    pub(crate) fn synced(&self, applied: Vector, now_ms: u64) {
        self.state().synced = Some((applied, now_ms));
    }

    /// Up to where the store was synced last, and how long ago.
    fn last_sync(&self, now_ms: u64) -> (Vector, u64) {
        match &self.state().synced {
            Some((applied, at_ms)) => (applied.clone(), now_ms.saturating_sub(*at_ms)),
            None => (Vector::new(), u64::MAX),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much this site keeps: what is set, but never more than half of the disk.
pub(crate) fn budget(node: &Node) -> Budget {
    let set = node.settings.now();
    let bytes = set.journal_retention_bytes.min(node.space.total_bytes() / 2);
    Budget { bytes, age_s: set.journal_retention.seconds() }
}

/// Runs for as long as the process lives.
pub(crate) async fn run(node: Arc<Node>) {
    let mut known = String::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let enforcing = node.clone();
        let looked = tokio::task::spawn_blocking(move || {
            look(&enforcing);
            // On a disk that is nearly full nothing is kept for later that every site has.
            enforce(&enforcing, enforcing.space.is_read_only())
        });
        match looked.await {
            Ok(Ok(_)) => known.clear(),
            Ok(Err(error)) if error.to_string() != known => {
                node.metrics.error("retention");
                tracing::error!(%error, "the journal cannot be kept within its budget; it is tried again");
                known = error.to_string();
            }
            Ok(Err(_)) => {}
            Err(_) => return,
        }
    }
}

/// Removes what is past the budget; `everything`: all that every enrolled site has. On success what went is off the disk.
/// Blocks.
pub(crate) fn enforce(node: &Node, everything: bool) -> Result<(Removed, Plan), remove::Error> {
    let _one_at_a_time = node.retention.removing.lock().unwrap_or_else(PoisonError::into_inner);
    let budget = budget(node);
    let plan_of = |applied: Vector| retention::plan(&situation(node, applied, everything), budget);
    let wanted = plan_of(node.store.position().applied);
    if wanted.is_empty() {
        return Ok(Default::default());
    }
    // What goes must survive a power cut in the store. Syncing it costs the appends' disk time: not for every segment.
    let (synced, age_ms) = node.retention.last_sync(node.boot_ms());
    let mut plan = plan_of(synced);
    if plan.bytes < wanted.bytes && (everything || age_ms > SYNC_PAUSE_MS) {
        let synced = node.store.sync().unwrap_or_else(|error| fatal("the store cannot be synced", &error));
        node.retention.synced(synced.clone(), node.boot_ms());
        plan = plan_of(synced);
    }
    let mut removed = Removed::default();
    for (stream, through) in &plan.through {
        let gone = remove_front(node, *stream, *through)?;
        removed.segments += gone.segments;
        removed.bytes += gone.bytes;
    }
    if removed.segments > 0 {
        let mut state = node.retention.state();
        state.removed.segments += removed.segments;
        state.removed.bytes += removed.bytes;
        drop(state);
        node.metrics.removed(removed.bytes);
        let (segments, bytes, forced_bytes) = (removed.segments, removed.bytes, plan.forced_bytes);
        tracing::info!(segments, bytes, forced_bytes, "segments of the journal were removed");
    }
    Ok((removed, plan))
}

/// Enforces retention at an operator's word. Blocks.
pub(crate) fn gc(node: &Node, aggressive: bool) -> Result<v1::GcReply, remove::Error> {
    let (removed, plan) = enforce(node, aggressive)?;
    Ok(v1::GcReply {
        site: node.site().to_string(),
        freed_bytes: removed.bytes,
        segments: removed.segments,
        forced_bytes: plan.forced_bytes,
        journal: Some(report::reply(node)),
    })
}

fn remove_front(node: &Node, stream: StreamId, through: Lsn) -> Result<Removed, remove::Error> {
    let attempt = || match node.journal.position(stream) {
        // Only a closed stream is given up as a whole.
        Some(end) if end.durable == through => node.journal.begin_after(stream, end),
        _ => node.journal.remove_front(stream, through),
    };
    let outcome = match attempt() {
        Err(error) if error.is_full() && node.space.give_up_reserve().unwrap_or(false) => attempt(),
        outcome => outcome,
    };
    match outcome {
        Err(error @ remove::Error::Fatal { .. }) => fatal("the journal cannot be written", &error),
        // Somebody writes it after all: at another time.
        Err(remove::Error::Written(_)) => Ok(Removed::default()),
        outcome => outcome,
    }
}

/// What is known now. `applied` is what is in the store for good.
pub(crate) fn situation(node: &Node, applied: Vector, everything: bool) -> Situation {
    let directed = node.governed.directed();
    let wall_ns = node.wall_ns();
    let holders = holders(node);
    let mut now = Situation { applied, everything, ..Situation::default() };
    // A copy that is under way goes on with the journal from where it began.
    for (stream, needed) in node.copies.needed().iter() {
        now.applied.set(stream, needed.min(now.applied.get(stream)));
    }
    let usage = node.journal.usage();
    now.other_bytes = usage.streams.iter().map(|stream| stream.prepared_bytes).sum();
    for stream in node.journal.streams() {
        let given_up = |last: Lsn| directed.closed.get(&stream).is_some_and(|end| last >= *end);
        let piece = |s: cfs_journal::SegmentInfo| Piece {
            first: s.first,
            last: s.last,
            bytes: s.bytes,
            age_s: wall_ns.saturating_sub(s.newest_clock) / 1_000_000_000,
            stays: s.is_last && !given_up(s.last),
        };
        let pieces: Vec<Piece> = node.journal.segments(stream).into_iter().map(piece).collect();
        let first = node.journal.first(stream).unwrap_or_default();
        let shared = holders.iter().filter_map(|holder| holder.holds_back(stream, first)).min();
        now.shared.set(stream, shared.unwrap_or_else(|| now.applied.get(stream)));
        let copied = holders.iter().filter_map(|holder| holder.cursor(stream)).max();
        now.copied.set(stream, copied.unwrap_or_default());
        now.pieces.insert(stream, pieces);
    }
    let known = !directed.data_sites.is_empty() && holders.iter().all(|holder| holder.known);
    now.may_force = known || node.boot_ms().saturating_sub(node.started_ms) > PATIENCE_MS;
    if directed.data_sites.is_empty() {
        // Nobody has said yet who the others are.
        now.shared = Vector::new();
    }
    now
}

/// Bytes of the journal that a holder lacks.
pub(crate) fn lacking_bytes(now: &Situation, holder: &Holder) -> u64 {
    let bytes =
        |(stream, pieces): (&StreamId, &Vec<Piece>)| bytes_after(pieces, holder.cursor(*stream).unwrap_or_default());
    now.pieces.iter().map(bytes).sum()
}

/// Takes note of how the journal grows and of who fell behind it.
fn look(node: &Node) {
    let now = situation(node, node.store.position().applied, false);
    let now_ms = node.boot_ms();
    let holders = holders(node);
    let data_bytes: u64 = node.journal.usage().streams.iter().map(|stream| stream.data_bytes).sum();
    let mut state = node.retention.state();
    let removed = state.removed.bytes;
    state.written.saw(now_ms, data_bytes + removed);
    state.lacking.retain(|site, _| holders.iter().any(|holder| holder.site == *site));
    for holder in holders.iter().filter(|holder| holder.known) {
        let bytes = lacking_bytes(&now, holder);
        state.lacking.entry(holder.site.clone()).or_default().saw(now_ms, bytes);
    }
    drop(state);
    for holder in &holders {
        let behind = behind::of_site(node, holder.id);
        let mut state = node.retention.state();
        let news = if behind.is_empty() {
            state.behind.remove(&holder.site);
            false
        } else {
            state.behind.insert(holder.site.clone())
        };
        drop(state);
        if news {
            node.metrics.error("site_behind");
            let what = behind::text(&behind);
            tracing::error!(site = %holder.site, what, "a site fell behind what the journal keeps: it needs a snapshot");
            let text =
                format!("ERROR: {} fell behind what the journals keep and needs a snapshot: {what}", holder.site);
            node.audit(Event::new(Kind::Behind, Severity::Error, text).site(&holder.site));
        }
    }
}
