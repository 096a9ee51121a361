//! A site's own part: which lease it holds, what its shipper is told, when a lease is given up.
//!
//! Times are this site's boot clock in nanoseconds.

use cfs_model::{Epoch, Incarnation, SiteId, Vector};
use serde::{Deserialize, Serialize};

use crate::split::Standing;
use crate::state::{Rule, State};

/// What the shipper is told, the whole truth.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directive {
    /// The epoch opened last.
    pub epoch: Epoch,
    /// Whose it is, or who coordinates it; `None`: nobody's for now.
    pub primary: Option<SiteId>,
    /// Every data site appends in it.
    pub shared: bool,
    /// This site may append in it, while it holds a lease.
    pub appends: bool,
    /// This site may append until then; 0: it may not; all ones: as long as nobody says otherwise.
    pub lease_deadline_ns: u64,
    /// Drain for this operation; 0: do not.
    pub drain_op: u64,
    /// Drains up to this operation are over.
    pub aborted_op: u64,
    /// Sealed.
    pub floor: Epoch,
    /// Every opened epoch.
    pub opened: Vec<(Epoch, SiteId)>,
    /// Of this site's stream; 0: none allotted.
    pub incarnation: Incarnation,
    /// To be applied before anything is appended.
    pub cut: Vector,
    /// While sealed, older batches are taken up to here.
    pub fetch: Vector,
    /// Who counts for acknowledgements.
    pub rules: Vec<Rule>,
    /// What producers may be promised.
    pub promised: u8,
    /// Closed streams.
    pub closed: Vector,
    /// Sites to exchange nothing with.
    pub held: Vec<SiteId>,
    /// Take part in nothing.
    pub fenced: bool,
    /// Why, for whoever wants to append.
    pub fenced_why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    epoch: Epoch,
    deadline_ns: u64,
}

/// An operator said at this site that another one is to be primary, by force. Kept on disk, so that a restart forgets neither
/// that nor whose word it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Who is to be primary.
    pub target: SiteId,
    /// Who said so.
    pub by: String,
    /// When, by this site's wall clock.
    pub at_ms: u64,
    /// The group that this site was in.
    pub group: u64,
    /// The epoch that it knew of then.
    pub epoch: Epoch,
}

impl Sealed {
    /// Whether the site `here`, which this sealed, may take part again: its group has opened a later epoch for another site,
    /// or it has joined another group, in which it is no primary.
    pub fn is_over(&self, here: SiteId, state: &State) -> bool {
        let later = state.epoch > self.epoch && state.primary.is_some_and(|primary| primary != here);
        state.group != 0 && (state.group != self.group || later)
    }
}

/// Why a site takes part in nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fence {
    /// It takes part.
    #[default]
    None,
    /// A newer generation acts for the cluster, whose group stands so.
    Newer(Standing),
    /// An operator said so here, and the site that is to be primary has not opened an epoch yet.
    SealedFor(Sealed),
}

/// A site's memory of leases, orders and its shipper.
#[derive(Debug)]
pub struct Local {
    here: SiteId,
    grace_ms: u64,
    lease: Option<Held>,
    /// The lease of this epoch and of older ones is given up for good.
    resigned: Epoch,
    drain_op: u64,
    drain_epoch: Epoch,
    floor: Epoch,
    fetch: Vector,
    /// When the shipper's process was proven dead; `None`: it lives, or nobody knows.
    dead_since_ns: Option<u64>,
    fence: Fence,
    removed: bool,
}

impl Local {
    /// A site that holds nothing. A dead shipper has `grace_ms` to be started again.
    pub const fn new(here: SiteId, grace_ms: u64) -> Self {
        Self {
            here,
            grace_ms,
            lease: None,
            resigned: Epoch(0),
            drain_op: 0,
            drain_epoch: Epoch(0),
            floor: Epoch(0),
            fetch: Vector::new(),
            dead_since_ns: None,
            fence: Fence::None,
            removed: false,
        }
    }

    /// Members say that this site is none any more, which it may never read in a log that does not reach it. Where all
    /// data sites take appends it takes none from now on. Returns whether that is news.
    pub const fn set_removed(&mut self, removed: bool) -> bool {
        let news = self.removed != removed;
        self.removed = removed;
        news
    }

    fn takes_part(&self, state: &State) -> bool {
        state.may_append(self.here) && !self.is_fenced() && !(self.removed && state.is_shared())
    }

    /// A dead shipper has so long from now on, unless the cluster says otherwise.
    pub const fn set_grace_ms(&mut self, grace_ms: u64) {
        self.grace_ms = grace_ms;
    }

    /// The leader granted a lease in answer to the report that was sent at `sent_ns`. Late answers change nothing.
    pub fn granted(&mut self, state: &State, epoch: Epoch, lease_ms: u64, drain_op: u64, sent_ns: u64) {
        // An epoch that this site has not applied yet comes again with the next report.
        if epoch != state.epoch || !state.may_append(self.here) || epoch <= self.resigned || self.is_fenced() {
            return;
        }
        if drain_op > state.aborted_op {
            (self.drain_op, self.drain_epoch) = (drain_op.max(self.drain_op), epoch);
        }
        let deadline_ns = sent_ns.saturating_add(lease_ms.saturating_mul(1_000_000));
        match &mut self.lease {
            Some(held) if held.epoch == epoch => held.deadline_ns = held.deadline_ns.max(deadline_ns),
            _ => self.lease = Some(Held { epoch, deadline_ns }),
        }
    }

    /// The shipper that attends now lives.
    pub const fn shipper_lives(&mut self) {
        self.dead_since_ns = None;
    }

    /// The shipper's process is proven dead: a broken connection alone proves nothing.
    pub fn shipper_died(&mut self, now_ns: u64) {
        self.dead_since_ns.get_or_insert(now_ns);
    }

    /// When the lease of a dead shipper is to be given up, if it is not started again by then. In an epoch that all data
    /// sites share nobody takes over for it, and it goes on once it is back.
    pub fn resigns_at_ns(&self, state: &State) -> Option<u64> {
        let mine = state.primary == Some(self.here) && !state.is_shared();
        let since = self.dead_since_ns.filter(|_| mine && self.resigned < state.epoch)?;
        Some(since.saturating_add(state.restart_grace_ms().unwrap_or(self.grace_ms).saturating_mul(1_000_000)))
    }

    /// Gives the lease up for good if it is time. Returns whether it did.
    pub fn resign_if_due(&mut self, state: &State, now_ns: u64) -> bool {
        let due = self.resigns_at_ns(state).is_some_and(|at_ns| now_ns >= at_ns);
        if due {
            self.resigned = state.epoch;
            self.lease = None;
        }
        due
    }

    /// The newest epoch whose lease was given up.
    pub const fn resigned(&self) -> Epoch {
        self.resigned
    }

    /// The leader ordered a seal; the shipper is told by the next directive.
    pub fn seal(&mut self, floor: Epoch) {
        self.floor = self.floor.max(floor);
    }

    /// The leader ordered to drain.
    pub fn drain(&mut self, state: &State, op: u64) {
        if op > state.aborted_op {
            (self.drain_op, self.drain_epoch) = (op.max(self.drain_op), state.epoch);
        }
    }

    /// The leader ordered to apply a cut.
    pub fn fetch(&mut self, cut: Vector) {
        self.fetch = cut;
    }

    /// While there is a reason this site takes part in nothing: until it has joined the newer generation, or the site for
    /// which it was sealed acts.
    pub fn fence(&mut self, why: Fence) {
        self.fence = why;
    }

    /// Why it is fenced.
    pub fn fenced(&self) -> Fence {
        self.fence.clone()
    }

    /// The same, for whoever wants to append.
    fn fenced_why(&self, state: &State) -> String {
        match &self.fence {
            Fence::None => String::new(),
            Fence::Newer(_) => "a newer generation acts for this cluster".to_owned(),
            Fence::SealedFor(sealed) => {
                format!("{} sealed it and wants {} to be primary", sealed.by, state.name_of(sealed.target))
            }
        }
    }

    /// Lets this site take part again if what it was sealed for has come to pass, or its group has come further than the one that
    /// fenced it. Returns whether it does so now.
    pub fn unseal_if_over(&mut self, state: &State) -> bool {
        let over = match &self.fence {
            Fence::None => false,
            // An operator settled the split in favour of this site's own group.
            Fence::Newer(newer) => state.group != 0 && Standing::of(state) > *newer,
            Fence::SealedFor(sealed) => sealed.is_over(self.here, state),
        };
        if over {
            self.fence = Fence::None;
        }
        over
    }

    /// Whether it is fenced.
    pub const fn is_fenced(&self) -> bool {
        !matches!(self.fence, Fence::None)
    }

    /// End of the lease that this site holds in the state's epoch; 0: none; all ones: it outlasts a partition.
    pub fn deadline_ns(&self, state: &State) -> u64 {
        let mine = self.takes_part(state);
        let held = self.lease.filter(|held| mine && held.epoch == state.epoch && held.epoch > self.resigned);
        let goes_on = state.is_shared() && state.goes_on_alone;
        held.map_or(0, |held| if goes_on { u64::MAX } else { held.deadline_ns })
    }

    /// What the shipper is told now.
    pub fn directive(&self, state: &State) -> Directive {
        let changing = state.operation.as_ref().is_some_and(|running| running.change.is_failover());
        let draining = self.drain_epoch == state.epoch && self.drain_op > state.aborted_op;
        Directive {
            epoch: state.epoch,
            primary: state.primary.filter(|_| !changing),
            shared: state.is_shared(),
            appends: self.takes_part(state) && !changing,
            lease_deadline_ns: self.deadline_ns(state),
            drain_op: if draining { self.drain_op } else { 0 },
            aborted_op: state.aborted_op,
            floor: self.floor.max(state.epoch),
            opened: state.opened.iter().map(|(epoch, site)| (*epoch, *site)).collect(),
            incarnation: state.incarnations.get(&self.here).copied().unwrap_or_default(),
            cut: state.cut.clone(),
            fetch: self.fetch.clone(),
            rules: state.rules.clone(),
            promised: state.promised,
            closed: state.closed.clone(),
            held: if state.held.contains(&self.here) {
                state.sites.keys().copied().filter(|site| *site != self.here).collect()
            } else {
                state.held.iter().copied().collect()
            },
            fenced: self.is_fenced(),
            fenced_why: self.fenced_why(state),
        }
    }
}
