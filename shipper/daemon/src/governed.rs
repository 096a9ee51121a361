//! What the control process handed over, what of it survives a restart, and what it forbids. Floors, rules and
//! acknowledgements are serialised here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use cfs_model::{Epoch, Incarnation, Lsn, SiteId, StreamId};
use cfs_rpc::private_file;
use cfs_rpc::v1;
use cfs_shipper_core::ack::Given;
use cfs_shipper_core::history::{Contradiction, History};

use crate::directed::{Directed, opened};

mod acknowledge;
mod kept;

pub(crate) use acknowledge::{Acknowledgement, Claim, Furthest};
use kept::{Drained, Kept, kept_after};

/// Why the own stream does not accept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) for_what: String,
    pub(crate) needs_incarnation: bool,
}

/// How far streams may be received.
#[derive(Debug)]
pub(crate) struct Limits {
    sealed: bool,
    directed: Arc<Directed>,
}

impl Limits {
    /// To its end if the stream is closed, and while this site is sealed only as far as the coordinator ordered, since all
    /// of it is of older epochs. `None`: as far as it goes.
    pub(crate) fn of(&self, stream: StreamId) -> Option<Lsn> {
        let closed = self.directed.closed.get(&stream).copied();
        let sealed = self.sealed.then(|| self.directed.fetch.get(stream));
        closed.into_iter().chain(sealed).min()
    }
}

/// The governed state of this site.
#[derive(Debug)]
pub(crate) struct Governed {
    directory: PathBuf,
    /// Held by whoever changes what is kept, over its fsync; taken before `state`.
    writer: Mutex<()>,
    /// Held for look-ups and for small changes only, never over a write to disk.
    state: Mutex<State>,
    /// The directive in `state`, for whoever holds other locks: nothing is ever waited for while this one is held.
    told: RwLock<Arc<Directed>>,
}

#[derive(Debug, Default)]
struct State {
    /// As on disk.
    kept: Kept,
    /// In force: at least `kept.floor`, ahead of it while it is being persisted.
    floor: Epoch,
    directed: Arc<Directed>,
    waiting: Waiting,
    given: Given,
    /// The epoch and the stream that it is about.
    given_in: Option<(Epoch, StreamId)>,
    furthest: Option<Furthest>,
    /// Sessions that wait for a promise, and the copies that they asked for.
    wants: std::collections::BTreeMap<u64, usize>,
    /// The control process's session that is listened to.
    attended_by: u64,
    /// The process ends to have its data rebuilt: it acts as primary no more.
    leaving: bool,
}

impl State {
    fn drain(&self) -> Option<u64> {
        let directed = &self.directed;
        (directed.drain_op != 0 && directed.drain_op > directed.aborted_op).then_some(directed.drain_op)
    }

    fn sealed(&self) -> bool {
        self.floor > self.kept.history.newest()
    }

    /// Told so, the lease runs, and nobody showed a newer epoch.
    fn may_acknowledge(&self, now_ns: u64) -> Option<Epoch> {
        let directed = &self.directed;
        let may =
            directed.primary && now_ns < directed.lease_deadline_ns && self.floor <= directed.epoch && !directed.fenced;
        let may = may && !self.leaving;
        may.then_some(directed.epoch)
    }
}

const FILE: &str = "governed.json";

/// Why the governed state is not what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} does not read ({why}); it holds the highest epoch that this site has seen: restore the file from a \
         backup of the same day, or move the site's state away and enrol it again"
    )]
    Damaged { path: PathBuf, why: String },
    #[error("the directive is refused: {0}")]
    Refused(String),
    #[error("the directive is refused: {0}")]
    Contradiction(#[from] Contradiction),
    #[error("a later session of the control process took over")]
    Superseded,
}

impl Governed {
    /// Reads what was kept in `directory`. Blocks.
    pub(crate) fn load(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let io = |source| Error::Io { path: path.clone(), source };
        private_file::create_directory(directory).map_err(io)?;
        let kept: Kept = match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| Error::Damaged { path: path.clone(), why: e.to_string() })?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(e) => return Err(io(e)),
        };
        let state = State { floor: kept.floor, kept, ..State::default() };
        Ok(Self {
            directory: directory.to_owned(),
            writer: Mutex::default(),
            state: Mutex::new(state),
            told: RwLock::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, kept: &Kept) -> Result<(), Error> {
        let path = self.directory.join(FILE);
        let bytes =
            serde_json::to_vec_pretty(kept).map_err(|e| Error::Damaged { path: path.clone(), why: e.to_string() })?;
        private_file::replace(&self.directory, FILE, &bytes).map_err(|source| Error::Io { path, source })
    }

    /// A session of the control process begins; it ends every earlier one.
    pub(crate) fn attended(&self) -> u64 {
        let mut state = self.lock();
        state.attended_by += 1;
        state.attended_by
    }

    /// Whether the session is still the one that is listened to.
    pub(crate) fn is_attended_by(&self, session: u64) -> bool {
        self.lock().attended_by == session
    }

    /// Takes a directive for site `own`, of the control process's `session`, if it came in one. What must survive is on
    /// disk when this returns; nothing is written if nothing of that changed. Returns whether anything was. Blocks.
    ///
    /// What forbids is in force before it is on disk, what permits only after: so whatever is reported as persisted has
    /// been in force since before the report was made.
    pub(crate) fn take(&self, own: SiteId, session: Option<u64>, directive: &v1::Directive) -> Result<bool, Error> {
        let _writing = self.writing();
        let directed = Arc::new(Directed::read(directive)?);
        let before = {
            let state = self.lock();
            if session.is_some_and(|session| session != state.attended_by) {
                return Err(Error::Superseded);
            }
            state.kept.clone()
        };
        let kept = kept_after(&before, own, directive, &directed)?;
        let permits = directed.primary && directed.drain_op <= directed.aborted_op;
        {
            let mut state = self.lock();
            state.floor = state.floor.max(kept.floor);
            if !permits {
                self.tell(&mut state, directed.clone());
            }
        }
        let news = kept != before;
        if news {
            self.keep(&kept)?;
        }
        let mut state = self.lock();
        state.kept = kept;
        self.tell(&mut state, directed);
        Ok(news)
    }

    /// Takes note of what another site knows: its floor and its history. Persisted before this returns, if anything
    /// is new. Blocks.
    pub(crate) fn learn(&self, floor: Epoch, history: &[v1::Opened]) -> Result<bool, Error> {
        let history = opened(history)?;
        self.change(|kept| {
            kept.history.merge(history)?;
            kept.floor = kept.floor.max(floor);
            Ok(())
        })
    }

    /// Marks that entries of the present incarnation may exist from now on. Blocks.
    pub(crate) fn mark_opened(&self) -> Result<(), Error> {
        self.change(|kept| {
            kept.opened = true;
            Ok(())
        })?;
        Ok(())
    }

    /// Marks that everything taken in `epoch` is durable and nothing more will be, if operation `op` still asks for it. On
    /// disk when this returns. Blocks.
    pub(crate) fn mark_drained(&self, op: u64, epoch: Epoch) -> Result<bool, Error> {
        let _writing = self.writing();
        let mut kept = {
            let state = self.lock();
            if state.drain() != Some(op) || state.directed.epoch != epoch {
                return Ok(false);
            }
            state.kept.clone()
        };
        let drained = Some(Drained { op, epoch });
        if kept.drained != drained {
            kept.drained = drained;
            self.keep(&kept)?;
            self.lock().kept = kept;
        }
        Ok(true)
    }

    /// Changes what is kept, on disk before it shows; a floor is in force before. Returns whether anything is new.
    fn change(&self, change: impl FnOnce(&mut Kept) -> Result<(), Error>) -> Result<bool, Error> {
        let _writing = self.writing();
        let before = self.lock().kept.clone();
        let mut kept = before.clone();
        change(&mut kept)?;
        if kept == before {
            return Ok(false);
        }
        {
            let mut state = self.lock();
            state.floor = state.floor.max(kept.floor);
        }
        self.keep(&kept)?;
        self.lock().kept = kept;
        Ok(true)
    }

    /// As persisted: what is reported never goes back (invariant 6).
    pub(crate) fn floor(&self) -> Epoch {
        self.lock().kept.floor
    }

    pub(crate) fn history(&self) -> History {
        self.lock().kept.history.clone()
    }

    /// What the last directive said.
    pub(crate) fn directed(&self) -> Arc<Directed> {
        self.told.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, state: &mut State, directed: Arc<Directed>) {
        *self.told.write().unwrap_or_else(PoisonError::into_inner) = directed.clone();
        state.directed = directed;
    }

    /// The epoch in which this site may take appends at boot time `now_ns`: it may acknowledge them, and no switchover
    /// takes the stream to its end.
    pub(crate) fn may_append(&self, now_ns: u64) -> Option<Epoch> {
        let state = self.lock();
        let drained = |epoch: &Epoch| state.kept.drained.is_some_and(|drained| drained.epoch == *epoch);
        state.may_acknowledge(now_ns).filter(|epoch| state.drain().is_none() && !drained(epoch))
    }

    /// The epoch in which this site may acknowledge at boot time `now_ns`, and write what it took before.
    pub(crate) fn may_acknowledge(&self, now_ns: u64) -> Option<Epoch> {
        self.lock().may_acknowledge(now_ns)
    }

    /// The floor is above every epoch that is known to be opened: a change of primary is under way.
    pub(crate) fn is_sealed(&self) -> bool {
        self.lock().sealed()
    }

    /// The switchover that asks this site to take its stream to its end, and the epoch.
    pub(crate) fn draining(&self) -> Option<(u64, Epoch)> {
        let state = self.lock();
        state.drain().map(|op| (op, state.directed.epoch))
    }

    /// The switchover for which this site's stream is at its end in the present epoch, persisted; 0: none.
    pub(crate) fn drained_op(&self) -> u64 {
        let state = self.lock();
        state.kept.drained.filter(|drained| drained.epoch == state.directed.epoch).map_or(0, |drained| drained.op)
    }

    /// A change of primary that this site takes part in, in words.
    pub(crate) fn change_under_way(&self) -> Option<String> {
        let state = self.lock();
        if state.directed.fenced {
            return Some("an operator: this site is fenced".into());
        }
        if state.sealed() {
            return Some(format!("the next primary: this site is sealed at epoch {}", state.floor));
        }
        let drained = state.kept.drained.filter(|drained| drained.epoch == state.directed.epoch);
        let op = state.drain().or(drained.map(|drained| drained.op))?;
        Some(format!("switchover {op}: this site takes no more appends in epoch {}", state.directed.epoch))
    }

    /// How far streams may be received now.
    pub(crate) fn limits(&self) -> Limits {
        let state = self.lock();
        Limits { sealed: state.sealed(), directed: state.directed.clone() }
    }

    /// End of the lease on the boot clock; all ones: none.
    pub(crate) fn lease_deadline_ns(&self) -> u64 {
        self.lock().directed.lease_deadline_ns
    }

    /// (site, producer address, epoch) of the primary as the last directive has it; an empty name if none.
    pub(crate) fn primary(&self) -> (String, String, Epoch) {
        let state = self.lock();
        (state.directed.primary_site.clone(), state.directed.primary_address.clone(), state.directed.epoch)
    }

    /// Whether this site was told to be primary, whatever else is missing.
    pub(crate) fn is_told_primary(&self) -> bool {
        self.lock().directed.primary
    }

    /// (incarnation allotted last, whether entries of it may exist).
    pub(crate) fn incarnation(&self) -> (Option<Incarnation>, bool) {
        let state = self.lock();
        (state.kept.incarnation, state.kept.opened)
    }

    /// Acts as primary no more until the process starts anew; `false`: this site is primary. `leaving` = false takes it back.
    pub(crate) fn leave(&self, leaving: bool) -> bool {
        let mut state = self.lock();
        let may = !leaving || !state.directed.primary;
        state.leaving = leaving && may;
        may
    }

    /// The present incarnation is never gone on with. Blocks.
    pub(crate) fn abandon(&self) -> Result<(), Error> {
        self.change(|kept| {
            kept.abandoned = kept.incarnation;
            Ok(())
        })?;
        Ok(())
    }

    /// Whether the incarnation allotted last is one that is never gone on with.
    pub(crate) fn needs_another_incarnation(&self) -> bool {
        let state = self.lock();
        state.kept.abandoned.is_some() && state.kept.abandoned == state.kept.incarnation
    }

    pub(crate) fn waiting(&self) -> Waiting {
        self.lock().waiting.clone()
    }

    /// Sets what the own stream waits for; returns whether that is news.
    pub(crate) fn set_waiting(&self, waiting: Waiting) -> bool {
        let mut state = self.lock();
        let news = state.waiting != waiting;
        state.waiting = waiting;
        news
    }
}

#[cfg(test)]
#[path = "governed_tests.rs"]
mod tests;
