//! What the control process handed over, and the service through which it does. There is no other way to make this
//! site accept appends.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cfs_model::{Epoch, Incarnation, SiteId, StreamId};
use cfs_rpc::private_file;
use cfs_rpc::v1;
use cfs_shipper_core::history::{Contradiction, History, Verdict};
use serde::{Deserialize, Serialize};
use tonic::{Request, Response, Status};

use crate::node::Node;

/// What survives a restart, because invariants 1, 3 and 6 ask for it. The lease never does.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// Nothing of an older epoch is acknowledged; also the highest epoch seen.
    floor: Epoch,
    history: History,
    /// The incarnation allotted last, and whether entries of it may exist.
    incarnation: Option<Incarnation>,
    opened: bool,
}

/// What holds until the next directive or the end of the process.
#[derive(Debug, Clone, Default)]
struct Directed {
    epoch: Epoch,
    primary: bool,
    primary_site: String,
    primary_address: String,
    lease_deadline_ns: u64,
}

/// Why the own stream does not accept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) for_what: String,
    pub(crate) needs_incarnation: bool,
}

/// The governed state of this site.
#[derive(Debug)]
pub(crate) struct Governed {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: Kept,
    directed: Directed,
    waiting: Waiting,
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
}

impl Governed {
    /// Reads what was kept in `directory`. Blocks.
    pub(crate) fn load(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let io = |source| Error::Io { path: path.clone(), source };
        private_file::create_directory(directory).map_err(io)?;
        let kept = match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| Error::Damaged { path: path.clone(), why: e.to_string() })?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(e) => return Err(io(e)),
        };
        let state = State { kept, ..State::default() };
        Ok(Self { directory: directory.to_owned(), state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, kept: &Kept) -> Result<(), Error> {
        let path = self.directory.join(FILE);
        let bytes =
            serde_json::to_vec_pretty(kept).map_err(|e| Error::Damaged { path: path.clone(), why: e.to_string() })?;
        private_file::replace(&self.directory, FILE, &bytes).map_err(|source| Error::Io { path, source })
    }

    /// Takes a directive. What must survive is on disk when this returns. Blocks.
    fn take(&self, directive: &v1::Directive) -> Result<(), Error> {
        let mut state = self.lock();
        let mut kept = state.kept.clone();
        let epoch = Epoch(directive.epoch);
        if directive.primary && epoch < kept.floor {
            return Err(Error::Refused(format!(
                "epoch {epoch} is older than {}, the highest that this site has seen; ask the current primary's site",
                kept.floor
            )));
        }
        kept.floor = kept.floor.max(Epoch(directive.floor)).max(epoch);
        kept.history.merge(opened(&directive.opened)?)?;
        let incarnation = Incarnation(directive.incarnation);
        if incarnation.0 != 0 && Some(incarnation) != kept.incarnation {
            if kept.incarnation.is_some_and(|last| incarnation < last) {
                return Err(Error::Refused(format!("incarnation {incarnation} is older than the one allotted last")));
            }
            kept.incarnation = Some(incarnation);
            kept.opened = false;
        }
        self.keep(&kept)?;
        state.kept = kept;
        state.directed = Directed {
            epoch,
            primary: directive.primary,
            primary_site: directive.primary_site.clone(),
            primary_address: directive.primary_address.clone(),
            lease_deadline_ns: directive.lease_deadline_boot_ns,
        };
        Ok(())
    }

    /// Takes note of what another site knows: its floor and its history. Persisted before this returns, if anything
    /// is new. Blocks.
    pub(crate) fn learn(&self, floor: Epoch, history: &[v1::Opened]) -> Result<bool, Error> {
        let mut state = self.lock();
        let mut kept = state.kept.clone();
        let news = kept.history.merge(opened(history)?)?;
        if !news && floor <= kept.floor {
            return Ok(false);
        }
        kept.floor = kept.floor.max(floor);
        self.keep(&kept)?;
        state.kept = kept;
        Ok(true)
    }

    /// Marks that entries of the present incarnation may exist from now on. Blocks.
    pub(crate) fn mark_opened(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if !state.kept.opened {
            let kept = Kept { opened: true, ..state.kept.clone() };
            self.keep(&kept)?;
            state.kept = kept;
        }
        Ok(())
    }

    pub(crate) fn floor(&self) -> Epoch {
        self.lock().kept.floor
    }

    pub(crate) fn history(&self) -> History {
        self.lock().kept.history.clone()
    }

    /// The epoch in which this site may append at boot time `now_ns`: it was told so, the lease runs, and nobody showed
    /// it a newer epoch.
    pub(crate) fn may_append(&self, now_ns: u64) -> Option<Epoch> {
        let state = self.lock();
        let may = state.directed.primary
            && now_ns < state.directed.lease_deadline_ns
            && state.kept.floor <= state.directed.epoch;
        may.then_some(state.directed.epoch)
    }

    /// End of the lease on the boot clock; all ones: none.
    pub(crate) fn lease_deadline_ns(&self) -> u64 {
        self.lock().directed.lease_deadline_ns
    }

    /// (site, producer address, epoch) of the primary that this site knows; an empty name if none.
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

fn opened(wire: &[v1::Opened]) -> Result<Vec<(Epoch, SiteId)>, Error> {
    let site = |o: &v1::Opened| u8::try_from(o.site).ok().filter(|site| *site != 0);
    let read = |o: &v1::Opened| Some((Epoch(o.epoch), SiteId(site(o)?)));
    wire.iter().map(|o| read(o).ok_or_else(|| Error::Refused(format!("site number {} cannot be", o.site)))).collect()
}

/// The history as a message.
pub(crate) fn opened_to_wire(history: &History) -> Vec<v1::Opened> {
    history.iter().map(|(epoch, site)| v1::Opened { epoch: epoch.0, site: u32::from(site.0) }).collect()
}

/// The stream that this site appends to.
pub(crate) fn own_stream(node: &Node) -> Option<StreamId> {
    let (incarnation, _) = node.governed.incarnation();
    incarnation.map(|incarnation| StreamId { site: node.id(), incarnation })
}

/// Serves the control process on the local socket.
pub(crate) struct Service(pub(crate) Arc<Node>);

#[tonic::async_trait]
impl v1::governor_server::Governor for Service {
    async fn govern(&self, request: Request<v1::Directive>) -> Result<Response<v1::GovernorState>, Status> {
        let directive = request.into_inner();
        if directive.primary
            && self.0.governed.history().verdict(Epoch(directive.epoch), self.0.id()) == Verdict::Unknown
            && !directive.opened.iter().any(|o| o.epoch == directive.epoch && o.site == u32::from(self.0.id().0))
        {
            return Err(Status::failed_precondition(format!(
                "epoch {} was not opened for {}: the directive's history must say so",
                Epoch(directive.epoch),
                self.0.site()
            )));
        }
        let node = self.0.clone();
        let taken = tokio::task::spawn_blocking(move || node.governed.take(&directive)).await;
        taken.map_err(|e| Status::internal(e.to_string()))?.map_err(|e| {
            tracing::warn!(error = %e, "directive refused");
            Status::failed_precondition(e.to_string())
        })?;
        let (primary, _, epoch) = self.0.governed.primary();
        tracing::info!(%epoch, %primary, floor = %self.0.governed.floor(), "directive taken");
        self.0.signals.role.bump();
        Ok(Response::new(state(&self.0)))
    }

    async fn state(&self, _: Request<v1::GovernorStateRequest>) -> Result<Response<v1::GovernorState>, Status> {
        Ok(Response::new(state(&self.0)))
    }
}

fn state(node: &Node) -> v1::GovernorState {
    let (_, _, epoch) = node.governed.primary();
    let waiting = node.governed.waiting();
    v1::GovernorState {
        epoch: epoch.0,
        primary: node.governed.is_told_primary(),
        floor: node.governed.floor().0,
        incarnation: node.governed.incarnation().0.unwrap_or_default().0,
        accepting: node.admission().accepting().is_some(),
        needs_incarnation: waiting.needs_incarnation,
        needs_incarnation_why: if waiting.needs_incarnation { waiting.for_what.clone() } else { String::new() },
        waiting_for: waiting.for_what,
    }
}

#[cfg(test)]
#[path = "governor_tests.rs"]
mod tests;
