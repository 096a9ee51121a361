//! What of the governed state survives a restart, and how a directive changes it.

use cfs_model::{Epoch, Incarnation, SiteId};
use cfs_rpc::v1;
use cfs_shipper_core::history::{History, Verdict};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::directed::{Directed, opened};

/// What survives a restart, because invariants 1, 3 and 6 ask for it. The lease never does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// Nothing of an older epoch is acknowledged; also the highest epoch seen.
    pub(super) floor: Epoch,
    pub(super) history: History,
    /// The incarnation allotted last, and whether entries of it may exist.
    pub(super) incarnation: Option<Incarnation>,
    pub(super) opened: bool,
    /// Nothing more is appended in this epoch.
    #[serde(default)]
    pub(super) drained: Option<Drained>,
    /// The incarnation whose entries were put aside with the journal: it is never gone on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) abandoned: Option<Incarnation>,
}

/// A switchover took the stream to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drained {
    pub(super) op: u64,
    pub(super) epoch: Epoch,
}

/// What is kept once a directive is taken, or why it is refused.
pub(super) fn kept_after(
    before: &Kept,
    own: SiteId,
    directive: &v1::Directive,
    directed: &Directed,
) -> Result<Kept, Error> {
    let mut kept = before.clone();
    let epoch = directed.epoch;
    if directed.primary && epoch < kept.floor {
        return Err(Error::Refused(format!(
            "epoch {epoch} is older than {}, the highest that this site has seen; ask the current primary's site",
            kept.floor
        )));
    }
    kept.floor = kept.floor.max(Epoch(directive.floor)).max(epoch);
    kept.history.merge(opened(&directive.opened)?)?;
    if directed.primary && kept.history.verdict(epoch, own) != Verdict::Opened {
        return Err(Error::Refused(format!(
            "epoch {epoch} was not opened for site number {own}: the directive's history must say so"
        )));
    }
    let incarnation = Incarnation(directive.incarnation);
    if incarnation.0 != 0 && Some(incarnation) != kept.incarnation {
        if kept.incarnation.is_some_and(|last| incarnation < last) {
            return Err(Error::Refused(format!("incarnation {incarnation} is older than the one allotted last")));
        }
        kept.incarnation = Some(incarnation);
        kept.opened = false;
    }
    // Only an abort or a later epoch lets a drained stream go on.
    kept.drained = kept.drained.filter(|drained| drained.op > directed.aborted_op && drained.epoch >= epoch);
    Ok(kept)
}
