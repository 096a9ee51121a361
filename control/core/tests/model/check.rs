//! What must hold whatever happens. Numbers are those of the design's invariants.

use std::collections::{BTreeMap, BTreeSet};

use cfs_control_core::{Command, Kind, Outcome, Report, State};
use cfs_model::{Epoch, Lsn, SiteId, StreamId, Vector};

use super::World;
use super::shipper::Waiting;

#[derive(Debug, Clone, Copy)]
pub struct Acked {
    pub at_ms: u64,
    pub site: SiteId,
    pub entry: Waiting,
}

#[derive(Debug, Default)]
pub struct Checks {
    pub entries: BTreeMap<(StreamId, Lsn), Epoch>,
    pub accepted: BTreeMap<Epoch, SiteId>,
    pub opened: BTreeMap<Epoch, Vector>,
    pub acked: Vec<Acked>,
    pub floors: BTreeMap<SiteId, Epoch>,
    pub epochs: BTreeMap<SiteId, Epoch>,
    pub broken: Vec<String>,
    pub lost: Vec<(SiteId, StreamId, Lsn)>,
    /// A forced recovery suspends 1, 2 and 4 between its two sides.
    pub forced: bool,
}

impl Checks {
    pub fn lost_tail(&mut self, site: SiteId, stream: StreamId, left: Lsn) {
        self.lost.push((site, stream, left));
    }

    pub fn wiped(&mut self, site: SiteId) {
        self.floors.remove(&site);
        self.epochs.remove(&site);
    }
}

impl World {
    fn broken(&mut self, invariant: u8, what: String) {
        let line = format!("INVARIANT {invariant} BROKEN at {}: {what}", self.now_ms);
        if self.checks.broken.len() < 10 {
            self.checks.broken.push(line.clone());
        }
        self.say(line);
    }

    pub fn epoch_of(&self, stream: StreamId, lsn: Lsn) -> Epoch {
        self.checks.entries.get(&(stream, lsn)).copied().unwrap_or_default()
    }

    /// 3: nobody else holds another content at this place.
    pub fn appended(&mut self, site: SiteId, stream: StreamId, lsn: Lsn, epoch: Epoch) {
        let other = self.ids().into_iter().find(|id| *id != site && self.nodes[id].disk.durable.get(stream) >= lsn);
        if let Some(other) = other {
            let (site, other) = (self.name(site), self.name(other));
            self.broken(3, format!("{site} writes entry {lsn} of its stream anew, {other} holds it"));
        }
        self.checks.entries.insert((stream, lsn), epoch);
    }

    /// 2: nothing of an older epoch is acknowledged once a newer one is open, but what is in its cut.
    pub fn saw_ack(&mut self, site: SiteId, entry: Waiting) {
        let newer = self.checks.opened.range(entry.epoch..).find(|(epoch, _)| **epoch > entry.epoch);
        if let Some((epoch, cut)) = newer
            && !cut.covers_entry(entry.stream, entry.lsn)
            && !self.checks.forced
        {
            let epoch = *epoch;
            let name = self.name(site);
            self.broken(
                2,
                format!("{name} acknowledges entry {} of epoch {} after {epoch} has opened", entry.lsn, entry.epoch),
            );
        }
        self.checks.acked.push(Acked { at_ms: self.now_ms, site, entry });
    }

    /// 4: everything acknowledged by copies is in the cut that opens; in a switchover everything acknowledged is.
    pub fn saw_commit(&mut self, state: &State, command: &Command, outcome: &Outcome) {
        if *outcome != Outcome::Done {
            return;
        }
        let Kind::Open { epoch, cut, .. } = &command.kind else { return };
        // A switchover loses nothing of the epoch that it ends; what an earlier failover left behind comes back late.
        let drained = |kind: &str| kind == "switchover" || kind.starts_with("active-active");
        let planned = state.changes.back().filter(|change| drained(&change.kind)).map(|change| change.before);
        let missing = self.checks.acked.iter().find(|acked| {
            (acked.entry.copies > 0 || planned == Some(acked.entry.epoch))
                && acked.entry.epoch < *epoch
                && !cut.covers_entry(acked.entry.stream, acked.entry.lsn)
                // A local copy that its disk lost was promised to nobody else.
                && (acked.entry.copies > 0
                    || !self.checks.lost.iter().any(|(_, stream, _)| *stream == acked.entry.stream))
        });
        if let Some(acked) = missing.filter(|_| !self.checks.forced).copied() {
            let cut = self.vector(cut);
            let name = self.name(acked.site);
            self.broken(4, format!("epoch {epoch} opens with cut {cut}: entry {} of {name}, acknowledged at {} with {} copies, is not in it", acked.entry.lsn, acked.at_ms, acked.entry.copies));
        }
        let before = self.checks.opened.values().next_back().filter(|before| !cut.covers(before));
        if before.is_some() && !self.checks.forced {
            self.broken(4, format!("epoch {epoch} opens without what the epoch before began with"));
        }
        self.checks.opened.insert(*epoch, cut.clone());
    }

    /// 6: no reported floor or epoch goes back.
    pub fn saw_report(&mut self, report: &Report) {
        let Some(shipper) = &report.shipper else { return };
        let known = self.checks.floors.get(&report.site).copied().unwrap_or_default();
        if shipper.floor < known {
            let name = self.name(report.site);
            self.broken(6, format!("{name} reports floor {} after {known}", shipper.floor));
        }
        self.checks.floors.insert(report.site, shipper.floor.max(known));
        let epoch = self.nodes[&report.site].state.epoch;
        let known = self.checks.epochs.get(&report.site).copied().unwrap_or_default();
        if epoch < known {
            let name = self.name(report.site);
            self.broken(6, format!("{name} is in epoch {epoch} after {known}"));
        }
        self.checks.epochs.insert(report.site, epoch.max(known));
    }

    /// 1: one site accepts in an epoch, and two leases never overlap. In a shared epoch every data site may, and its leases
    /// overlap with those of no other epoch.
    pub fn watch(&mut self) {
        let may: Vec<(SiteId, Epoch)> = self
            .ids()
            .into_iter()
            .filter_map(|id| {
                let node = &self.nodes[&id];
                let shipper = node.shipper.as_ref()?;
                let boot_ns = self.boot_ns(id);
                let drained = node.disk.drained.is_some_and(|(_, epoch)| epoch == shipper.told.epoch);
                let taken = shipper.may_acknowledge(&node.disk, boot_ns) && !drained;
                taken.then_some((id, shipper.told.epoch))
            })
            .collect();
        let shared: BTreeSet<Epoch> = self
            .nodes
            .values()
            .flat_map(|node| node.state.opened.iter().filter(|(_, owner)| **owner == SiteId::EVERY))
            .map(|(epoch, _)| *epoch)
            .collect();
        let epochs: BTreeSet<Epoch> = may.iter().map(|(_, epoch)| *epoch).collect();
        let together = epochs.len() == 1 && epochs.is_subset(&shared);
        if may.len() > 1 && !together && !self.checks.forced {
            let who: Vec<String> =
                may.iter().map(|(id, epoch)| format!("{} in epoch {epoch}", self.name(*id))).collect();
            self.broken(1, format!("leases overlap: {}", who.join(", ")));
        }
        for (id, epoch) in may.into_iter().filter(|(_, epoch)| !shared.contains(epoch)) {
            let first = *self.checks.accepted.entry(epoch).or_insert(id);
            if first != id {
                let (first, id) = (self.name(first), self.name(id));
                self.broken(1, format!("{first} and {id} both act in epoch {epoch}"));
            }
        }
    }
}
