//! Three sites that write, ship, forget, copy each other and restart, in any order that causality allows.

use std::collections::BTreeMap;

use cfs_model::op::Op;
use cfs_model::{StreamId, Vector};

use super::oracle::Oracle;
use super::pair::Pair;
use super::stream::{self, Stream, stream_id};
use crate::Store;
use crate::apply::{Decoded, Error};
use crate::lost::LostEvent;
use crate::snapshot::{self, Resume, Snapshot};

pub(super) const SITES: usize = 3;

struct Site {
    stores: Pair,
    stream: Stream,
    epoch: u64,
}

/// A `Forget` that waits until every entry written before all had applied `forget` is applied where it is written.
struct Forgetting {
    forget: Vector,
    ends: Vector,
}

/// A snapshot that is being read.
struct Session {
    from: usize,
    to: usize,
    snapshot: Snapshot,
    resume: Resume,
    parts: Vec<Vec<u8>>,
}

pub(super) struct World {
    sites: Vec<Site>,
    journals: BTreeMap<StreamId, Vec<Decoded>>,
    forgetting: Option<Forgetting>,
    session: Option<Session>,
    next_epoch: u64,
    next_incarnation: u64,
    /// Digest roots by cursors: every site that is there must have the same.
    roots: Vec<(Vector, u128)>,
}

impl World {
    pub(super) fn new() -> Self {
        let site = |i| Site { stores: Pair::new(), stream: Stream::new(stream_id(i, 1)), epoch: 1 };
        Self {
            sites: (1..=SITES as u8).map(site).collect(),
            journals: BTreeMap::new(),
            forgetting: None,
            session: None,
            next_epoch: 2,
            next_incarnation: 2,
            roots: Vec::new(),
        }
    }

    fn applied(&self, site: usize) -> Vector {
        self.sites[site].stores.position().applied
    }

    /// A site writes only when it is complete, and has taken back its own entries.
    fn may_write(&self, site: usize) -> bool {
        let being_rebuilt = self.session.as_ref().is_some_and(|session| session.to == site);
        let Site { stores, stream, .. } = &self.sites[site];
        let position = stores.position();
        !being_rebuilt && position.comparable && position.applied.get(stream.id) == stream.last
    }

    /// Writes one batch and applies it where it was written.
    pub(super) fn write(&mut self, site: usize, skew: u64, ops: &[Op]) {
        if !self.may_write(site) {
            return;
        }
        let position = self.sites[site].stores.position();
        let Site { stores, stream, epoch } = &mut self.sites[site];
        let batch = stream.batch(*epoch, position.highest_clock + 1 + skew, &position.applied, ops);
        self.journals.entry(stream.id).or_default().push(batch.clone());
        stores.apply(std::slice::from_ref(&batch)).unwrap();
        self.check_equal_cursors();
    }

    /// The site writes in a new epoch from now on; the others keep theirs until they see an entry of it.
    pub(super) fn raise_epoch(&mut self, site: usize) {
        self.sites[site].epoch = self.next_epoch;
        self.next_epoch += 1;
    }

    /// The site goes on in another stream.
    pub(super) fn reincarnate(&mut self, site: usize) {
        if self.may_write(site) {
            let seq = self.sites[site].stream.seq;
            self.sites[site].stream = Stream::new(stream_id(site as u8 + 1, self.next_incarnation));
            self.sites[site].stream.seq = seq;
            self.next_incarnation += 1;
        }
    }

    /// Offers a site up to `n` batches of a stream in one call. Answers whether any was applied.
    pub(super) fn deliver(&mut self, to: usize, pick: usize, n: usize) -> bool {
        let Some((id, journal)) = self.journals.iter().nth(pick % self.journals.len().max(1)) else { return false };
        let applied = self.applied(to);
        let start = journal.iter().position(|b| b.header.last_lsn() > applied.get(*id)).unwrap_or(journal.len());
        let batches = &journal[start..journal.len().min(start + n)];
        let first = batches.first().map(|batch| batch.header.epoch);
        match self.sites[to].stores.apply(batches) {
            Ok(done) => {
                assert_eq!(done.batches, batches.len());
                let epoch = batches.iter().map(|b| b.header.epoch.0).max().unwrap_or_default();
                let site = &mut self.sites[to];
                site.epoch = site.epoch.max(epoch);
                self.check_equal_cursors();
                first.is_some()
            }
            Err(Error::NotCovered { needs, .. }) => {
                assert_eq!(self.applied(to), applied, "a refusal changes nothing");
                assert!(n > 1 || !applied.covers(&needs));
                n > 1 && self.deliver(to, pick, 1)
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// Invariant 8: offers again what has been applied.
    pub(super) fn repeat(&self, to: usize, pick: usize, n: usize) {
        let Some((id, journal)) = self.journals.iter().nth(pick % self.journals.len().max(1)) else { return };
        let at = self.applied(to).get(*id);
        let old: Vec<Decoded> = journal.iter().filter(|b| b.header.last_lsn() <= at).take(n).cloned().collect();
        let stores = &self.sites[to].stores;
        let before = (stores.position(), stores.disk().digest(), stores.waiting());
        assert_eq!(stores.apply(&old).unwrap(), Default::default());
        assert_eq!((stores.position(), stores.disk().digest(), stores.waiting()), before);
    }

    /// The digest that all sites have after [`World::settle`].
    pub(super) fn root(&self) -> u128 {
        self.sites[0].stores.disk().digest().root
    }

    /// The writes that all sites count as lost after it.
    pub(super) fn lost(&self) -> Vec<LostEvent> {
        self.sites[0].stores.waiting()
    }

    /// Whether nothing hangs in the air after it.
    pub(super) fn is_sound(&self) -> bool {
        self.sites[0].stores.disk().structure(10).unwrap().is_sound()
    }

    /// The directories that all sites find without a way to the root after it.
    pub(super) fn detached(&self) -> Vec<u64> {
        let mut found: Vec<Vec<u64>> =
            self.sites.iter().map(|site| site.stores.disk().structure(10).unwrap().detached).collect();
        found.dedup();
        assert_eq!(found.len(), 1, "each site sees the same: {found:?}");
        found.swap_remove(0)
    }

    pub(super) fn restart(&mut self, site: usize) {
        self.sites[site].stores.restart();
    }

    /// First measures what every site has applied and where all streams end. Later, at a site that has applied those
    /// ends, writes the entry. While a site is being rebuilt nothing is measured.
    pub(super) fn forget(&mut self, site: usize) {
        let complete = self.sites.iter().all(|site| site.stores.position().comparable);
        match &self.forgetting {
            None if self.session.is_none() && complete => {
                let vectors: Vec<Vector> = (0..SITES).map(|i| self.applied(i)).collect();
                let forget = vectors.iter().skip(1).fold(vectors[0].clone(), |all, v| all.min(v));
                let ends = self.ends();
                if !forget.is_empty() {
                    self.forgetting = Some(Forgetting { forget, ends });
                }
            }
            Some(waiting) if self.may_write(site) && self.applied(site).covers(&waiting.ends) => {
                let op = stream::forget(&waiting.forget);
                self.forgetting = None;
                self.write(site, 0, &[stream::chmod(2, 0o600), op, stream::unlink(1, "a", 2, true)]);
            }
            _ => {}
        }
    }

    fn ends(&self) -> Vector {
        self.journals.iter().filter_map(|(id, j)| Some((*id, j.last()?.header.last_lsn()))).collect()
    }

    /// Begins to copy one site to another, reads a part, or installs what was read.
    pub(super) fn copy(&mut self, from: usize, to: usize, bytes: usize) {
        let Some(session) = &mut self.session else {
            if from != to && self.sites[from].stores.position().comparable {
                let snapshot = self.sites[from].stores.disk().snapshot_begin().unwrap();
                self.session = Some(Session { from, to, snapshot, resume: Resume::START, parts: Vec::new() });
            }
            return;
        };
        let stores = &self.sites[session.from].stores;
        match stores.chunk(&session.snapshot, &session.resume, bytes) {
            Ok(chunk) => {
                session.parts.push(chunk.bytes);
                if let Some(next) = chunk.next {
                    session.resume = next;
                    return;
                }
            }
            Err(snapshot::Error::Stale) => {
                self.session = None;
                return;
            }
            Err(other) => panic!("{other}"),
        }
        if let Some(session) = self.session.take() {
            self.sites[session.to].stores = Pair::install(&session.parts);
            assert_eq!(self.applied(session.to), session.snapshot.applied);
        }
    }

    /// Invariant 5: wherever two sites have been at the same cursors, they had the same digest.
    fn check_equal_cursors(&mut self) {
        for site in &self.sites {
            let history = site.stores.disk().digest_history();
            assert_eq!(history, site.stores.memory().digest_history().split_off_len(history.len()));
            if let Some((applied, root)) = history.last() {
                match self.roots.iter().find(|(vector, _)| vector == applied) {
                    Some((_, known)) => assert_eq!(root, known, "invariant 5: equal cursors {applied}, other digest"),
                    None => self.roots.push((applied.clone(), *root)),
                }
            }
        }
    }

    /// Lets everything arrive everywhere, and compares sites with each other and with the definitions.
    pub(super) fn settle(&mut self) {
        while self.session.is_some() {
            self.copy(0, 0, usize::MAX);
        }
        loop {
            let streams = self.journals.len();
            let moved = (0..SITES).flat_map(|to| (0..streams).map(move |pick| (to, pick)));
            if !moved.fold(false, |any, (to, pick)| self.deliver(to, pick, 1) || any) {
                break;
            }
        }
        let ends = self.ends();
        let oracle = Oracle::of(self.journals.values(), &ends);
        let first = self.sites[0].stores.disk().digest();
        let lost = oracle.lost();
        for site in &self.sites {
            let stores = &site.stores;
            let position = stores.position();
            assert_eq!((&position.applied, position.comparable), (&ends, true));
            stores.verify();
            assert_eq!(stores.disk().digest(), first, "invariant 5");
            let waiting = stores.waiting();
            let keys = waiting.iter().map(|e| (e.key.register.clone(), e.key.stream, e.key.lsn)).collect();
            assert_eq!(lost, keys, "invariant 7: the lost writes are those of the definition");
            assert_eq!(waiting, self.sites[0].stores.waiting());
            oracle.check(stores.disk());
            oracle.check(stores.memory());
            assert_eq!(stores.disk().producers(), stores.memory().producers());
            let structure = stores.disk().structure(10).unwrap();
            assert_eq!(structure, stores.memory().structure(10).unwrap());
            assert!(!structure.is_damaged(), "what is derived follows from the registers: {structure:?}");
        }
    }
}

trait Tail {
    /// The last `len` items: the store on disk forgets its history in a restart, the other does not.
    fn split_off_len(self, len: usize) -> Self;
}

impl<T> Tail for Vec<T> {
    fn split_off_len(mut self, len: usize) -> Self {
        self.split_off(self.len().saturating_sub(len))
    }
}
