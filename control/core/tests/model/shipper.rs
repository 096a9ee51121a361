//! A shipper reduced to what it promises: its floor is on disk before it answers, it acknowledges under an unexpired lease
//! alone, what it was told to drain stays drained, and it appends after a start only once its stream is whole.

use std::collections::{BTreeMap, VecDeque};

use cfs_control_core::local::Directive;
use cfs_control_core::report;
use cfs_model::{Epoch, Incarnation, Level, Lsn, SiteId, StreamId, Vector};

/// What survives the process.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub floor: Epoch,
    pub drained: Option<(u64, Epoch)>,
    pub durable: Vector,
    pub applied: Vector,
    pub opened: BTreeMap<Epoch, SiteId>,
    pub incarnation: Incarnation,
}

/// An entry that waits for its acknowledgement.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    pub epoch: Epoch,
    pub stream: StreamId,
    pub lsn: Lsn,
    pub copies: u8,
}

/// The running process.
#[derive(Debug, Clone, Default)]
pub struct Shipper {
    pub instance: u64,
    pub told: Directive,
    pub told_any: bool,
    pub lease_ns: u64,
    pub hung: bool,
    pub hung_since_ms: u64,
    pub paused: bool,
    /// Its stream is known to be whole, so that it may append.
    pub resumed: bool,
    pub needs_incarnation: bool,
    pub peers: BTreeMap<SiteId, (Vector, Epoch)>,
    pub queue: VecDeque<Waiting>,
    /// Entries acknowledged in this epoch: whether all meet a rule is asked of these.
    pub acked: Vec<Waiting>,
    pub confirmed_rule: u64,
    pub wants_promise: u8,
    pub stale: Option<report::Shipper>,
    /// When each other site last served as a source.
    pub sourced_ms: BTreeMap<SiteId, u64>,
}

/// A source that served nothing for so long is not heard.
const SILENCE_MS: u64 = 1300;

impl Shipper {
    /// Takes a directive; what is to be persisted is on disk when this returns.
    pub fn take(&mut self, disk: &mut Disk, directive: &Directive) {
        if self.told_any && directive.epoch < self.told.epoch {
            return;
        }
        if directive.epoch > self.told.epoch {
            self.queue.retain(|waiting| waiting.epoch >= directive.epoch);
            self.acked.clear();
            self.confirmed_rule = 0;
        }
        disk.floor = disk.floor.max(directive.floor);
        disk.opened.extend(directive.opened.iter().copied());
        if let Some((op, epoch)) = disk.drained
            && (directive.aborted_op >= op || directive.epoch > epoch)
        {
            disk.drained = None;
        }
        self.lease_ns = if directive.appends { directive.lease_deadline_ns } else { 0 };
        if directive.incarnation > disk.incarnation {
            disk.incarnation = directive.incarnation;
            self.needs_incarnation = false;
            self.resumed = true;
        }
        self.told = directive.clone();
        self.told_any = true;
    }

    pub fn stream(here: SiteId, disk: &Disk) -> StreamId {
        StreamId { site: here, incarnation: disk.incarnation }
    }

    /// Whether what was taken may still be acknowledged.
    pub fn may_acknowledge(&self, disk: &Disk, boot_ns: u64) -> bool {
        !self.hung && !self.paused && self.told.appends && self.lease_ns > boot_ns && disk.floor <= self.told.epoch
    }

    pub fn accepting(&self, disk: &Disk, boot_ns: u64) -> bool {
        self.why_not(disk, boot_ns).is_none()
    }

    /// Why it takes no appends.
    pub fn why_not(&self, disk: &Disk, boot_ns: u64) -> Option<String> {
        if self.hung || self.paused {
            return Some("no answer".into());
        }
        if self.told.fenced {
            return Some("it is fenced".into());
        }
        if !self.told.appends {
            return Some("it is not primary".into());
        }
        if disk.floor > self.told.epoch {
            return Some(format!("epoch {} is sealed, its floor is {}", self.told.epoch, disk.floor));
        }
        if self.told.drain_op > 0 || disk.drained.is_some_and(|(_, epoch)| epoch == self.told.epoch) {
            return Some("it drains".into());
        }
        if self.lease_ns <= boot_ns {
            return Some("it holds no lease".into());
        }
        if !disk.applied.covers(&self.told.cut) {
            return Some("it has not applied the cut".into());
        }
        if !self.resumed {
            return Some("its stream may have entries that it lacks".into());
        }
        None
    }

    fn meets(&self, here: SiteId, waiting: &Waiting, members: impl Iterator<Item = SiteId>, copies: u8) -> bool {
        let holds = |site: &SiteId| {
            self.peers.get(site).is_some_and(|(durable, floor)| {
                durable.covers_entry(waiting.stream, waiting.lsn) && *floor <= waiting.epoch
            })
        };
        members.filter(|site| *site != here).filter(holds).count() >= usize::from(copies)
    }

    /// The next entries to acknowledge, in order.
    pub fn acknowledge(&mut self, here: SiteId, disk: &mut Disk, boot_ns: u64) -> Vec<Waiting> {
        let mut out = Vec::new();
        while let Some(waiting) = self.queue.front().copied() {
            let lawful = self.may_acknowledge(disk, boot_ns)
                && waiting.epoch == self.told.epoch
                && disk.durable.covers_entry(waiting.stream, waiting.lsn);
            let promised = self.told.rules.iter().all(|rule| rule.copies > 0)
                || (self.told.promised > 0 && self.told.promised <= waiting.copies);
            if waiting.copies > 0 && !promised {
                self.wants_promise = waiting.copies;
            }
            let met = waiting.copies == 0
                || promised
                    && self.told.rules.iter().all(|rule| {
                        self.meets(here, &waiting, rule.members.iter().copied(), waiting.copies.max(rule.copies))
                    });
            if !lawful || !met {
                break;
            }
            self.queue.pop_front();
            self.acked.push(waiting);
            out.push(waiting);
        }
        if self.told.drain_op > 0 && self.queue.is_empty() && disk.floor <= self.told.epoch {
            disk.drained = Some((self.told.drain_op, self.told.epoch));
        }
        self.confirm(here);
        out
    }

    /// The newest rule that everything acknowledged meets.
    fn confirm(&mut self, here: SiteId) {
        for rule in self.told.rules.iter().filter(|rule| rule.id > self.confirmed_rule).cloned().collect::<Vec<_>>() {
            let all = self.acked.iter().all(|acked| {
                let copies = if rule.copies > 0 { rule.copies } else { acked.copies };
                self.meets(here, acked, rule.members.iter().copied(), copies)
            });
            if !all {
                break;
            }
            self.confirmed_rule = rule.id;
        }
    }

    pub fn report(&self, disk: &Disk, boot_ns: u64, now_ms: u64) -> report::Shipper {
        report::Shipper {
            age_ms: 0,
            partial: false,
            enrolling: String::new(),
            instance: self.instance,
            append_path_age_ms: if self.hung || self.paused { now_ms.saturating_sub(self.hung_since_ms) } else { 5 },
            epoch: self.told.epoch,
            floor: disk.floor,
            lease_deadline_ns: self.lease_ns,
            accepting: self.accepting(disk, boot_ns),
            incarnation: disk.incarnation,
            needs_incarnation: self.needs_incarnation,
            durable: disk.durable.clone(),
            applied: disk.applied.clone(),
            drained_op: disk.drained.map_or(0, |(op, _)| op),
            confirmed_rule: self.confirmed_rule,
            wants_promise: self.wants_promise,
            unshared_bytes: 0,
            read_only: false,
            level: Level::THIS,
            unheard: self
                .sourced_ms
                .iter()
                .filter(|(_, at_ms)| now_ms.saturating_sub(**at_ms) > SILENCE_MS)
                .map(|(site, _)| *site)
                .collect(),
            sync_us: 0,
            rtts_ms: BTreeMap::new(),
            fenced: self.told.fenced,
        }
    }
}
