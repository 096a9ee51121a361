//! How a new site comes to hold what the others hold: where it is on that way, kept across restarts, and who does it.
//!
//! A site that holds nothing takes no streams before it has decided: either it pulls the journals from their first entry,
//! or it copies another site's store and pulls the journals from there. The same copy brings on a site that fell behind
//! what the others' journals still hold.

pub(crate) mod give;
mod journal;
mod kept;
mod run;
mod settle;
mod take;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use cfs_model::Vector;
use cfs_rpc::rebuild::{Order, Stage};
use cfs_rpc::v1;

use crate::node::Node;
use crate::rebuild;
pub(crate) use journal::Begin;
use kept::Kept;
pub(crate) use kept::{Phase, Way};
pub(crate) use run::{offers, run};

/// A full disk is tried again after this.
const FULL_PAUSE: Duration = Duration::from_millis(500);
/// Points of the rate's window, one for each part at most.
const RATE_POINTS: usize = 64;
/// The rate is that of this time.
const RATE_WINDOW_MS: u64 = 10_000;

/// Where this site is.
#[derive(Debug)]
pub(crate) struct Bootstrap {
    directory: PathBuf,
    /// Held by whoever changes what is kept, over its fsync.
    writer: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    kept: Kept,
    /// Whether streams are pulled: not before there is a place to go on from.
    pulls: bool,
    /// (boot ms, bytes) of late.
    rate: VecDeque<(u64, u64)>,
    rows: u64,
    /// What all streams must be applied up to.
    goal: Vector,
    note: String,
    /// This site's data were put aside, or are about to be.
    order: Option<Order>,
    /// The process ends to have its data rebuilt: it counts for nothing, and pulls nothing.
    leaving: bool,
}

impl Bootstrap {
    /// Reads what was kept in `directory`; without it, a site that `holds` something is through. Blocks.
    pub(crate) fn load(directory: &Path, holds: bool, installing: bool, now_ms: u64) -> io::Result<Self> {
        cfs_rpc::private_file::create_directory(directory)?;
        let mut kept = match Kept::read(directory)? {
            Some(kept) => kept,
            None => {
                let kept = Kept::begin(if holds { Phase::Complete } else { Phase::Idle }, now_ms);
                kept.write(directory)?;
                kept
            }
        };
        // The store is the one that knows.
        if installing && kept.phase() != Phase::Snapshot {
            kept.enter(Phase::Snapshot, now_ms);
            kept.way = Some(Way::Snapshot);
        }
        let pulls = kept.phase() >= Phase::Catchup;
        let state = State {
            kept,
            pulls,
            rate: VecDeque::new(),
            rows: 0,
            goal: Vector::new(),
            note: String::new(),
            order: None,
            leaving: false,
        };
        Ok(Self { directory: directory.to_owned(), writer: Mutex::default(), state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.lock().kept.phase()
    }

    /// Whether streams are pulled.
    pub(crate) fn pulls(&self) -> bool {
        let state = self.lock();
        state.pulls && !state.leaving
    }

    /// The order to rebuild this site's data that is in force.
    pub(crate) fn rebuilds(&self, order: Option<Order>) {
        self.lock().order = order;
    }

    pub(crate) fn order(&self) -> Option<Order> {
        self.lock().order.clone()
    }

    /// The process ends to have its data rebuilt; `false`: it does not after all.
    pub(crate) fn leave(&self, leaving: bool) {
        self.lock().leaving = leaving;
    }

    fn set_pulls(&self, pulls: bool) {
        self.lock().pulls = pulls;
    }

    /// Whether the store is being replaced, so that nothing is applied to it.
    pub(crate) fn is_copying(&self) -> bool {
        let state = self.lock();
        state.kept.phase() == Phase::Snapshot && state.kept.way == Some(Way::Snapshot)
    }

    /// Whether the store may still be in parts of different ages.
    pub(crate) fn is_partial(&self, comparable: impl FnOnce() -> bool) -> bool {
        let (phase, way) = {
            let state = self.lock();
            if state.leaving {
                return true;
            }
            // Whoever held more before counts for nothing until it does again.
            let rebuilt = state.order.as_ref().is_some_and(|order| order.stage == Stage::Moved);
            if rebuilt && state.kept.phase() < Phase::Catchup {
                return true;
            }
            (state.kept.phase(), if rebuilt { Some(Way::Snapshot) } else { state.kept.way })
        };
        way == Some(Way::Snapshot) && (phase == Phase::Snapshot || (phase == Phase::Catchup && !comparable()))
    }

    /// Whether this site is on its way.
    pub(crate) fn is_under_way(&self) -> bool {
        let state = self.lock();
        state.leaving || state.kept.phase() != Phase::Complete
    }

    /// Changes what is kept, on disk before it shows. Blocks, also for as long as the disk is full.
    fn change(&self, change: impl FnOnce(&mut Kept)) -> io::Result<()> {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = self.lock().kept.clone();
        change(&mut kept);
        loop {
            match kept.write(&self.directory) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    self.note(format!("how far the enrolment is cannot be kept: {error}"));
                    thread::sleep(FULL_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        self.lock().kept = kept;
        Ok(())
    }

    /// What it waits for, or what went wrong; empty: nothing. Returns whether that is news.
    fn note(&self, note: impl Into<String>) -> bool {
        let note = note.into();
        let mut state = self.lock();
        let news = state.note != note;
        state.note = note;
        news
    }

    /// So many rows are in the store already.
    fn holds(&self, rows: u64) {
        self.lock().rows = rows;
    }

    /// A part was installed.
    fn installed(&self, now_ms: u64, bytes: u64, rows: u64, rows_total: u64) {
        let mut state = self.lock();
        state.kept.bytes += bytes;
        state.kept.rows_total = rows_total;
        state.rows = rows;
        let bytes = state.kept.bytes;
        if state.rate.len() == RATE_POINTS {
            state.rate.pop_front();
        }
        state.rate.push_back((now_ms, bytes));
    }
}

impl State {
    fn bytes_per_s(&self, now_ms: u64) -> u64 {
        let recent = self.rate.iter().find(|(at, _)| now_ms.saturating_sub(*at) <= RATE_WINDOW_MS);
        match (recent, self.rate.back()) {
            (Some((from_ms, from)), Some((_, to))) if now_ms > *from_ms => (to - from) * 1000 / (now_ms - from_ms),
            _ => 0,
        }
    }
}

/// Why this site cannot go on with its data: it holds a stream past the end at which that was closed. Nobody takes the rest, and no
/// store with it equals the others' any more.
pub(crate) fn beyond(node: &Node) -> Option<String> {
    let directed = node.governed.directed();
    let closed = directed.closed.iter();
    let mut held = closed.map(|(stream, end)| {
        let durable = node.journal.position(*stream).map(|position| position.durable).unwrap_or_default();
        (*stream, durable.max(node.positions.cursor(*stream).applied()), *end)
    });
    let (stream, held, end) = held.find(|(_, held, end)| held > end)?;
    let name = node.site_name(stream.site);
    Some(format!(
        "it holds stream {stream} up to {held}, and the cluster closed it at {end} when {name} was removed: what comes after is taken by nobody"
    ))
}

/// Whether what this site has is of different ages, or more than anybody else will ever take, so that it must not be counted.
pub(crate) fn is_partial(node: &Node) -> bool {
    if beyond(node).is_some() {
        return true;
    }
    node.bootstrap.is_partial(|| {
        let position = node.store.position();
        position.comparable && rebuild::lacks(node, &position.applied).is_none()
    })
}

/// What was kept is forgotten: the site whose shipper has `directory` begins as one that holds nothing. Blocks.
pub(crate) fn begin_anew(directory: &Path, now_ms: u64) -> io::Result<()> {
    Kept::begin(Phase::Idle, now_ms).write(directory)
}

fn sum(vector: &Vector) -> u64 {
    vector.iter().map(|(_, lsn)| lsn.0).sum()
}

/// For people.
pub(crate) fn reply(node: &Node) -> v1::BootstrapReply {
    let now_ms = node.boot_ms();
    let applied = node.store.position().applied;
    let state = node.bootstrap.lock();
    if state.leaving {
        return v1::BootstrapReply {
            site: node.site().to_string(),
            phase: Phase::Idle.word().into(),
            note: "its data are about to be put aside".into(),
            aside: state.order.as_ref().map(rebuild::fate).unwrap_or_default(),
            ..v1::BootstrapReply::default()
        };
    }
    let kept = &state.kept;
    let behind = state.goal.beyond(&applied);
    let bytes_per_s = if kept.phase() == Phase::Snapshot { state.bytes_per_s(now_ms) } else { 0 };
    let share = |done: u64, all: u64| if all == 0 { 0.0 } else { 100.0 * (done.min(all) as f64) / all as f64 };
    let (mut percent, mut eta_s) = (None, None);
    match kept.phase() {
        Phase::Snapshot if kept.rows_total > 0 => {
            percent = Some(share(state.rows, kept.rows_total));
            let left = kept.rows_total.saturating_sub(state.rows);
            let bytes_left = (state.rows > 0).then(|| kept.bytes * left / state.rows);
            eta_s = bytes_left.filter(|_| bytes_per_s > 0).map(|bytes| bytes.div_ceil(bytes_per_s));
        }
        Phase::Catchup if !state.goal.is_empty() => {
            let done = sum(&applied).saturating_sub(kept.catchup_from);
            percent = Some(share(done, done + behind));
            let lasted_ms = node.wall_ns() / 1_000_000 - kept.since_ms().min(node.wall_ns() / 1_000_000);
            eta_s = (done > 0).then(|| behind.saturating_mul(lasted_ms) / done / 1000);
        }
        Phase::Complete => percent = Some(100.0),
        _ => {}
    }
    v1::BootstrapReply {
        site: node.site().to_string(),
        phase: kept.phase().word().into(),
        passed: kept.passed.iter().map(|p| v1::PassedPhase { phase: p.phase.word().into(), at_ms: p.at_ms }).collect(),
        way: kept.way.map_or("", Way::word).into(),
        source: kept.source.clone(),
        bytes: kept.bytes,
        bytes_per_s,
        percent,
        eta_s,
        rows: if kept.phase() > Phase::Snapshot { kept.rows_total.max(state.rows) } else { state.rows },
        rows_total: kept.rows_total,
        entries_behind: behind,
        note: state.note.clone(),
        aside: state.order.as_ref().map(rebuild::fate).unwrap_or_default(),
    }
}

/// In a few words, for the status; `None`: this site is through.
pub(crate) fn in_words(node: &Node) -> Option<String> {
    let reply = reply(node);
    let percent = reply.percent.map(|percent| format!(", {percent:.0}%")).unwrap_or_default();
    let note = if reply.note.is_empty() { String::new() } else { format!(": {}", reply.note) };
    node.bootstrap.is_under_way().then(|| {
        format!(
            "this site is being enrolled, phase {}{percent}{note}; see cfs admin replication bootstrap-status",
            reply.phase
        )
    })
}

#[cfg(test)]
#[path = "bootstrap_tests.rs"]
mod tests;
