//! Entries that came late (invariant 7): written in an older epoch, and unknown to whoever wrote the first entry of a newer
//! one. Journal and store alone decide what is late, so every site finds the same, in whatever order batches come.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cfs_audit::{Error, Event, Kind, Severity, Stamp};
use cfs_model::{Epoch, Lsn, SiteId, StreamId, Vector};
use cfs_rpc::private_file;
use cfs_shipper_core::batch::{Batch, Header};
use cfs_shipper_core::caps::MAX_FRAME_BYTES;
use serde::{Deserialize, Serialize};

use crate::node::Node;

const FILE: &str = "epochs.json";
/// Epochs that are remembered: the newest.
const MAX_EPOCHS: usize = 512;
/// Of those, so many are looked at again after a start.
const AT_START: usize = 64;

/// An epoch, and a site that appended in it. In most epochs that is one site.
pub(super) type Begin = (Epoch, SiteId);

/// What the writer of a site's first entry in an epoch had applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Began {
    epoch: u64,
    /// The writer; 0: not remembered.
    #[serde(default)]
    site: u8,
    /// (site, incarnation, LSN).
    seen: Vec<(u8, u64, u64)>,
}

/// The epochs whose first entries were applied here, or are about to be.
#[derive(Debug)]
pub(super) struct Epochs {
    dir: PathBuf,
    began: Mutex<BTreeMap<Begin, Vector>>,
}

impl Epochs {
    /// As `dir` remembers them. Blocks. A file that does not read is as if there was none.
    pub(super) fn load(dir: &Path) -> Self {
        let read = private_file::read(&dir.join(FILE)).ok();
        let began: Vec<Began> = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let began = began.into_iter().map(|began| {
            let stream = |(site, incarnation, lsn)| {
                let stream = StreamId { site: SiteId(site), incarnation: cfs_model::Incarnation(incarnation) };
                (stream, Lsn(lsn))
            };
            ((Epoch(began.epoch), SiteId(began.site)), began.seen.into_iter().map(stream).collect())
        });
        Self { dir: dir.to_owned(), began: Mutex::new(began.collect()) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Begin, Vector>> {
        self.began.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the epochs that begin in these batches, which are about to be applied; returns them. What is new is
    /// remembered on return, unless there is no room: then it is after the next epoch. Blocks.
    pub(super) fn about_to_apply(&self, node: &Node, batches: &[Batch]) -> Vec<Begin> {
        let mut began = self.lock();
        let mut fresh = Vec::new();
        for header in batches.iter().map(Batch::header) {
            let begin = (header.epoch, header.stream.site);
            if began.contains_key(&begin) {
                continue;
            }
            let mut seen = node.store.vector_in_effect(header.stream);
            if let Some(vector) = &header.vector {
                seen = seen.max(vector);
            }
            seen.set(header.stream, Lsn(header.first_lsn.0 - 1));
            began.insert(begin, seen);
            fresh.push(begin);
        }
        if fresh.is_empty() {
            return fresh;
        }
        while began.len() > MAX_EPOCHS {
            began.pop_first();
        }
        let all: Vec<Began> = began
            .iter()
            .map(|((epoch, site), seen)| {
                let seen = seen.iter().map(|(stream, lsn)| (stream.site.0, stream.incarnation.0, lsn.0)).collect();
                Began { epoch: epoch.0, site: site.0, seen }
            })
            .collect();
        let remembered = serde_json::to_vec(&all)
            .map_err(std::io::Error::other)
            .and_then(|bytes| private_file::replace(&self.dir, FILE, &bytes));
        if let Err(error) = remembered {
            tracing::warn!(%error, "the epochs that began cannot be remembered for the audit trail");
        }
        fresh
    }

    /// The first epoch above that of a batch whose first writer did not know it; `None` if it is not late, as far as is
    /// known by now.
    fn missed_by(&self, header: &Header) -> Option<Epoch> {
        let began = self.lock();
        let mut later = began.range((header.epoch, SiteId(u8::MAX))..).filter(|((epoch, _), _)| *epoch > header.epoch);
        later.find(|(_, seen)| seen.get(header.stream) < header.last_lsn()).map(|((epoch, _), _)| *epoch)
    }

    /// The batches among these that are late.
    pub(super) fn late<'a>(&self, node: &Node, batches: impl IntoIterator<Item = &'a Batch>) -> Vec<Event> {
        let headers = batches.into_iter().map(Batch::header);
        headers.filter_map(|header| Some(event(node, header, self.missed_by(header)?))).collect()
    }

    /// Hands over, some at a time, what was applied before an epoch began here, and its first writer did not know. Reads the
    /// journal; blocks.
    pub(super) fn before(
        &self,
        node: &Node,
        begin: Begin,
        then: &mut dyn FnMut(Vec<Event>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let epoch = begin.0;
        let Some(seen) = self.lock().get(&begin).cloned() else { return Ok(()) };
        let applied = node.store.position().applied;
        for (stream, end) in applied.iter().filter(|(stream, end)| seen.get(*stream) < *end) {
            // What retention has removed is older than any crash that this is for.
            let Ok(mut reader) = node.journal.reader(stream, seen.get(stream)) else { continue };
            while let Ok(batches) = reader.next(MAX_FRAME_BYTES) {
                let older = |batch: &&Batch| batch.header().epoch < epoch && batch.header().last_lsn() <= end;
                let of_interest: Vec<&Batch> = batches.iter().take_while(older).collect();
                let is_last = batches.is_empty() || of_interest.len() < batches.len();
                then(self.late(node, of_interest))?;
                if is_last {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The epochs to look at again after a start.
    pub(super) fn newest(&self) -> Vec<Begin> {
        self.lock().keys().rev().take(AT_START).copied().collect()
    }
}

/// The entries of one batch came late.
fn event(node: &Node, header: &Header, missed_by: Epoch) -> Event {
    let (stream, first, last) = (header.stream, header.first_lsn, header.last_lsn());
    let site = node.site_name(stream.site);
    let text = format!(
        "entries {first} to {last} of stream {stream}, written by {site} in epoch {}, came late: whoever wrote first in \
         epoch {missed_by} did not have them",
        header.epoch
    );
    let mut event = Event::new(Kind::Late, Severity::Warning, text).site(site);
    event.event = format!("late-{stream}-{first}");
    event.epoch = Some(header.epoch.0);
    let stamp = header.stamp(0);
    event.stamp = Some(Stamp {
        epoch: stamp.epoch.0,
        clock: stamp.clock,
        site: stamp.site.0,
        incarnation: stamp.incarnation.0,
        lsn: first.0,
    });
    event.with("first_lsn", first.0).with("last_lsn", last.0).with("missed_by_epoch", missed_by.0)
}
