//! The audit trail of this site: what is to be recorded waits in a queue, and a thread of its own writes it. Nobody waits
//! for that thread; what it has no room for is derived again from the store, or counted and told.

mod decisions;
mod deletion;
mod derive;
mod events;
mod exchange;
mod late;
mod restore;
mod writer;

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cfs_audit::known::Known;
use cfs_audit::{Event, Held, Trail};
use cfs_shipper_core::batch::Batch;
use cfs_store::apply::Applied;
use jiff::Timestamp;
use tokio::sync::Notify;

use crate::node::Node;
use crate::settings::Settings;
use crate::signal::Signal;

pub(crate) use decisions::record as record_decisions;
pub(crate) use exchange::{hand_out, held_by_others, held_here, hold};
use late::Epochs;
pub(crate) use restore::restore;
pub(crate) use writer::{open, write};

/// Decisions in one message.
pub(crate) const MAX_DECISIONS: usize = 64;
/// Events that wait for the disk.
const MAX_QUEUED_EVENTS: usize = 8192;
/// Bytes of events that wait for the disk.
const MAX_QUEUED_BYTES: usize = 8 * 1024 * 1024;

/// The trail and what is on its way there.
pub(crate) struct Audit {
    pub(crate) dir: PathBuf,
    /// `None` while there is no room to open it. Locked for a write, never while something waits.
    trail: Mutex<Option<Trail>>,
    /// Held while segments are removed, and while they must not be.
    pruning: Mutex<()>,
    held: Mutex<Option<Held>>,
    /// Decisions that are in the trail; `None` before the first is handed over.
    decisions: Mutex<Option<Known>>,
    epochs: Epochs,
    queue: Mutex<Queue>,
    news: Notify,
    /// The trail has grown.
    pub(crate) grew: Signal,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    bytes: usize,
    /// Events that were ever taken in, and that have left.
    taken: u64,
    left: u64,
    /// Lost writes have to be looked for in the store: at the start, and after some found no room here.
    behind: bool,
    /// Others that found no room here.
    dropped: u64,
    /// Epochs that began: what was applied before, and came late, is looked for in the journal.
    began: BTreeSet<late::Begin>,
}

impl Audit {
    pub(crate) fn new(dir: PathBuf, trail: Option<Trail>) -> Self {
        let epochs = Epochs::load(&dir);
        let began = epochs.newest().into_iter().collect();
        Self {
            dir,
            epochs,
            trail: Mutex::new(trail),
            pruning: Mutex::default(),
            held: Mutex::default(),
            decisions: Mutex::default(),
            queue: Mutex::new(Queue { behind: true, began, ..Queue::default() }),
            news: Notify::new(),
            grew: Signal::default(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn trail(&self) -> MutexGuard<'_, Option<Trail>> {
        self.trail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps segments where they are while it is held.
    pub(crate) fn keep_segments(&self) -> MutexGuard<'_, ()> {
        self.pruning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an event. Never blocks and never fails: without room the trail says later how many are missing.
    pub(crate) fn record(&self, event: Event) {
        self.take([event], |queue| queue.dropped += 1);
    }

    fn take(&self, events: impl IntoIterator<Item = Event>, mut no_room: impl FnMut(&mut Queue)) {
        let mut queue = self.queue();
        for event in events {
            let weight = event.weight();
            if queue.events.len() >= MAX_QUEUED_EVENTS || queue.bytes + weight > MAX_QUEUED_BYTES {
                no_room(&mut queue);
                continue;
            }
            queue.bytes += weight;
            queue.taken += 1;
            queue.events.push_back(event);
        }
        drop(queue);
        self.news.notify_one();
    }

    /// These batches are about to be applied. Blocks when an epoch begins in them, for one small write.
    pub(crate) fn about_to_apply(&self, node: &Node, batches: &[Batch]) {
        let fresh = self.epochs.about_to_apply(node, batches);
        if !fresh.is_empty() {
            self.queue().began.extend(fresh);
        }
    }

    /// Has lost writes looked for in the store that came there by another way than applying.
    pub(crate) fn look_in_store(&self) {
        self.queue().behind = true;
        self.news.notify_one();
    }

    /// Records what was lost or came late in a transaction of the store (invariant 7). What finds no room is found in the
    /// store and the journal later.
    pub(crate) fn applied(&self, node: &Node, batches: &[Batch], applied: &Applied) {
        let late = self.epochs.late(node, batches);
        if !late.is_empty() {
            self.take(late, |queue| queue.began.extend(self.epochs.newest()));
        }
        let began = !self.queue().began.is_empty();
        if began {
            self.news.notify_one();
        }
        for event in applied.repairs.iter().filter_map(|repair| events::repair(node, repair)) {
            self.record(event);
        }
        if applied.conflicts.is_empty() && applied.superseded.is_empty() {
            return;
        }
        let lost = applied.conflicts.iter().map(|lost| events::lost(node, lost));
        let superseded = applied.superseded.iter().map(|lost| events::superseded(node, lost));
        self.take(lost.chain(superseded), |queue| queue.behind = true);
    }
}

impl Node {
    /// Puts an event into the audit trail. Never blocks. It is durable a moment later; a site without room keeps some in
    /// memory, and tells in the trail of those that it could not keep.
    pub(crate) fn audit(&self, event: Event) {
        self.audit.record(event);
    }
}

/// How much of the trail is kept now: seconds and bytes.
pub(crate) fn retention(settings: &Settings) -> (u64, u64) {
    let now = settings.now();
    (now.audit_retention.seconds(), now.audit_retention_bytes)
}

/// The wall clock of this node.
fn now(node: &Node) -> Timestamp {
    let ns = i128::from(node.wall_ns());
    Timestamp::from_nanosecond(ns).unwrap_or(Timestamp::UNIX_EPOCH)
}
