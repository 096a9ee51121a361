//! What the leader is told of a site.

use std::collections::{BTreeMap, BTreeSet};

use cfs_model::{Epoch, Incarnation, Level, SiteId, Vector};

use crate::state::NodeId;

/// A site's report, as its control process sent it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Whose.
    pub site: SiteId,
    /// Under which node id.
    pub node: NodeId,
    /// Of the control process; drawn at its start.
    pub instance: u64,
    /// Counts up within an instance.
    pub sequence: u64,
    /// What its shipper said last; `None`: no session with it.
    pub shipper: Option<Shipper>,
    /// The lease of this epoch was given up for good.
    pub resigned: Epoch,
    /// What its control process acts as.
    pub level: Level,
}

impl Report {
    /// What the site acts as: the older of its two processes decides. `None`: a data site's shipper was not heard.
    pub fn level(&self, witness: bool) -> Option<Level> {
        match &self.shipper {
            Some(shipper) => Some(self.level.min(shipper.level)),
            None => witness.then_some(self.level),
        }
    }
}

/// A shipper says something several times a second: one that has said nothing for so long, while its session lasts, hangs.
pub const SHIPPER_HANGS_MS: u64 = 3_000;

/// What a shipper said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shipper {
    /// So old it was when its site reported it.
    pub age_ms: u64,
    /// Drawn at the start of its process.
    pub instance: u64,
    /// Since the append path last proved that it works, at the time of the report.
    pub append_path_age_ms: u64,
    /// The epoch that it was told last.
    pub epoch: Epoch,
    /// Nothing older is acknowledged by it.
    pub floor: Epoch,
    /// The lease as it holds it, on its own boot clock; 0: none. Only compared with itself.
    pub lease_deadline_ns: u64,
    /// Whether it takes appends.
    pub accepting: bool,
    /// The incarnation of its stream.
    pub incarnation: Incarnation,
    /// Its stream cannot be continued.
    pub needs_incarnation: bool,
    /// What it holds on stable storage.
    pub durable: Vector,
    /// What its store has committed.
    pub applied: Vector,
    /// The operation for which it has drained; 0: none.
    pub drained_op: u64,
    /// Everything that it acknowledged meets this rule.
    pub confirmed_rule: u64,
    /// Copies that a producer wants to be promised; 0: none.
    pub wants_promise: u8,
    /// Its store is being copied from another site's: it counts for nothing.
    pub partial: bool,
    /// It is on its way to hold what the others hold, in the shipper's words; empty: it is through.
    pub enrolling: String,
    /// Bytes of its own stream that no other site was known to hold; 0 also where that is not known.
    pub unshared_bytes: u64,
    /// It takes no appends for want of disk.
    pub read_only: bool,
    /// What it acts as.
    pub level: Level,
    /// Sites whose shippers it does not hear: it can pull nothing from them.
    pub unheard: BTreeSet<SiteId>,
    /// What a group of entries lately took to its journal's disk, in microseconds; 0: nothing was written yet.
    pub sync_us: u64,
    /// Its round trips to other sites' shippers, in ms, as far as it has measured any.
    pub rtts_ms: BTreeMap<SiteId, u64>,
    /// It takes part in nothing, as its control process told it: an epoch opened for it would have no writer.
    pub fenced: bool,
}

impl Shipper {
    /// Whether its process is there and says nothing any more. For plans and for people: who is failed over, and when, does
    /// not depend on it.
    pub const fn hangs(&self) -> bool {
        self.age_ms > SHIPPER_HANGS_MS
    }
}

/// What an order asks of a site during a change of primary. Each may be given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Persist the floor, then say what is durable.
    Seal {
        /// The floor.
        floor: Epoch,
    },
    /// Take no more appends; say what is durable once everything taken is.
    Drain,
    /// Seal at `floor` unless it is 0, apply `cut`, then run the hook that may veto if `hook`.
    CatchUp {
        /// The floor.
        floor: Epoch,
        /// What to apply.
        cut: Vector,
        /// Whether the hook runs.
        hook: bool,
    },
}

impl Order {
    /// A word for it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Seal { .. } => "seal",
            Self::Drain => "drain",
            Self::CatchUp { .. } => "catch up",
        }
    }
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done; this is durable there, under this floor.
    Done {
        /// Its floor, read before `durable`.
        floor: Epoch,
        /// What is durable.
        durable: Vector,
    },
    /// Not done.
    Failed(String),
    /// The hook said no.
    Vetoed(String),
}
