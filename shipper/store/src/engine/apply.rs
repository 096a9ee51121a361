//! Applying batches: check all, then change.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use bytes::Bytes;
use cfs_model::op::StreamPosition;
use cfs_model::{Incarnation, Lsn, STRUCTURE_REPAIR, SiteId, StreamId, Vector, Version};
use cfs_shipper_core::batch::{ChainHash, Header};
use cfs_shipper_core::merge::{Incoming, effects};
use cfs_shipper_core::payload::{Entries, Entry};

use super::Engine;
use super::forget::{Progress, STEP_SIZE};
use super::head::{Head, Phase, encode_vector, vector_key};
use super::txn::{Scratch, Txn};
use crate::apply::{Applied, Decoded, Error, Repair};
use crate::backend::{Backend, Size, Write};
use crate::store::ProducerState;
use crate::table::{self, Table};

/// A batch that is next in its stream.
struct Next<'a> {
    batch: &'a Decoded,
    /// What its writer had applied of other streams.
    seen: Vector,
}

/// How a batch ended.
enum Step {
    Done,
    /// It forgets more than fits in one transaction: first this must be forgotten, then the batch is applied again.
    Forget(Vector),
}

/// The batches that are new, in order; or why they cannot be applied.
fn plan<'a>(head: &Head, batches: &'a [Decoded]) -> Result<Vec<Next<'a>>, Error> {
    let mut applied = head.applied.clone();
    let mut streams: BTreeMap<StreamId, (ChainHash, Vector)> = BTreeMap::new();
    let mut out = Vec::with_capacity(batches.len());
    for batch in batches {
        let header = &batch.header;
        let (stream, first, last) = (header.stream, header.first_lsn, header.last_lsn());
        let at = applied.get(stream);
        if last <= at {
            continue;
        }
        if first <= at {
            return Err(Error::Overlap { stream, applied: at, first, last });
        }
        if first != at.next() {
            return Err(Error::Gap { stream, applied: at, first });
        }
        let (chain, seen) = streams
            .entry(stream)
            .or_insert_with(|| (head.chain(stream), head.seen.get(&stream).cloned().unwrap_or_default()));
        if *chain != header.chain {
            return Err(Error::Chain { stream, first });
        }
        if let Some(vector) = &header.vector {
            *seen = seen.max(vector);
            seen.set(stream, Lsn::ZERO);
            if !applied.covers(seen) {
                return Err(Error::NotCovered { stream, first, needs: seen.clone(), applied });
            }
        }
        *chain = batch.chain_after;
        applied.set(stream, last);
        out.push(Next { batch, seen: seen.clone() });
    }
    Ok(out)
}

impl<B: Backend> Engine<B> {
    pub(super) fn apply_batches(&self, batches: &[Decoded]) -> Result<Applied, Error> {
        let mut scratch = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let next = {
            let live = self.live();
            if live.head.phase == Phase::Installing {
                return Err(Error::Installing);
            }
            plan(&live.head, batches)?
        };
        let mut total = std::mem::take(&mut scratch.untold);
        match self.apply_in_transactions(&next, &mut scratch, &mut total) {
            Ok(()) => Ok(total),
            Err(error) => {
                scratch.untold = total;
                Err(error)
            }
        }
    }

    /// One transaction, or more when a batch forgets more than fits in one.
    fn apply_in_transactions(
        &self,
        mut rest: &[Next<'_>],
        scratch: &mut Scratch,
        total: &mut Applied,
    ) -> Result<(), Error> {
        let mut forgotten = None;
        while !rest.is_empty() {
            let size = Size {
                rows: rest.iter().map(|n| n.batch.header.count as usize).sum(),
                bytes: rest.iter().map(|n| n.batch.payload.len()).sum(),
            };
            let mut txn = self.begin(size, scratch)?;
            let mut to_forget = None;
            let mut done = 0;
            for next in rest {
                match txn.apply_batch(next, forgotten.as_ref())? {
                    Step::Done => done += 1,
                    Step::Forget(vector) => {
                        to_forget = Some(vector);
                        break;
                    }
                }
            }
            if let Some(vector) = &to_forget {
                txn.head.forgotten = vector.clone();
                txn.head.phase = Phase::Forgetting;
            }
            merge_told(total, self.commit(txn)?);
            rest = &rest[done..];
            if to_forget.is_some() {
                self.forget_in_steps(scratch, total)?;
            }
            forgotten = to_forget;
        }
        Ok(())
    }

    /// Removes what `head.forgotten` lets go, a bounded number of rows in each transaction.
    fn forget_in_steps(&self, scratch: &mut Scratch, total: &mut Applied) -> Result<(), table::Error> {
        let mut progress = Some(Progress::START);
        while let Some(at) = progress {
            let mut txn = self.begin(STEP_SIZE, scratch)?;
            progress = txn.forget_step(at)?;
            merge_told(total, self.commit(txn)?);
        }
        Ok(())
    }
}

fn merge_told(total: &mut Applied, mut more: Applied) {
    total.batches += more.batches;
    total.entries += more.entries;
    total.conflicts.append(&mut more.conflicts);
    total.superseded.append(&mut more.superseded);
    total.repeated.append(&mut more.repeated);
    total.ignored += more.ignored;
    total.forgotten += more.forgotten;
    total.repairs.append(&mut more.repairs);
}

impl<W: Write> Txn<'_, W> {
    fn apply_batch(&mut self, next: &Next<'_>, forgotten: Option<&Vector>) -> Result<Step, Error> {
        let Next { batch, seen } = next;
        let header = &batch.header;
        let stream = header.stream;
        if self.head.seen.get(&stream).unwrap_or(&Vector::new()) != seen {
            self.tables.put(Table::Vectors, &vector_key(stream, header.first_lsn), &encode_vector(seen))?;
            self.head.seen.insert(stream, seen.clone());
        }
        let mut covered = self.head.forgotten.clone();
        let mut last: Option<Entry> = None;
        let mut ignored = 0;
        let mut repairs = Vec::new();
        for entry in Entries::new(batch.payload.clone()) {
            let entry = entry.map_err(|why| Error::Payload { stream, first: header.first_lsn, why })?;
            let index = entry.index;
            if index >= header.count {
                return Err(Error::Count { stream, first: header.first_lsn, found: index + 1, claimed: header.count });
            }
            let version = Version { stamp: header.stamp(index), lsn: header.first_lsn.plus(u64::from(index)) };
            if let Some(last) = last.take().filter(|last| last.producer != entry.producer) {
                self.note_producer(header, &last);
            }
            match entry.decode() {
                Ok(op) => match effects(&op, version) {
                    Ok(effects) => {
                        let incoming = Incoming { version, seen, forgotten: &covered };
                        self.write_effects(&effects, &incoming)?;
                        if let Some(positions) = effects.forget {
                            let target = self.forget_target(header, seen, positions);
                            if let Some(target) = self.forget(target, forgotten)? {
                                return Ok(Step::Forget(target));
                            }
                            covered.clone_from(&self.head.forgotten);
                        }
                        if entry.producer == STRUCTURE_REPAIR {
                            repairs.push(Repair { stream, version, op });
                        }
                    }
                    Err(_) => ignored += 1,
                },
                Err(_) => ignored += 1,
            }
            last = Some(entry);
        }
        let found = last.as_ref().map_or(0, |last| last.index + 1);
        if found != header.count {
            return Err(Error::Count { stream, first: header.first_lsn, found, claimed: header.count });
        }
        if let Some(last) = last {
            self.note_producer(header, &last);
        }
        self.told.applied.ignored += ignored;
        self.told.applied.repairs.append(&mut repairs);
        self.pass(batch);
        Ok(Step::Done)
    }

    /// Moves the cursor past a batch.
    fn pass(&mut self, batch: &Decoded) {
        let Header { stream, count, .. } = batch.header;
        let head = &mut self.head;
        head.applied.set(stream, batch.header.last_lsn());
        head.chains.insert(stream, batch.chain_after);
        head.clock = head.clock.max(batch.header.stamp(count - 1).clock);
        self.moved.insert(stream);
        if head.is_comparable() {
            self.told.boundaries.push((head.applied.clone(), head.sums.root));
        }
        self.told.applied.batches += 1;
        self.told.applied.entries += u64::from(count);
    }

    /// The producer's entry with the latest stamp says where it is; the highest sequence number stays the highest.
    fn note_producer(&mut self, header: &Header, entry: &Entry) {
        let clock = header.stamp(entry.index).clock;
        let now = ProducerState { stream: header.stream, epoch: header.epoch, seq: entry.seq, clock };
        let rank = |s: &ProducerState| (s.epoch, s.clock, s.stream);
        match self.told.producers.get_mut(&entry.producer) {
            Some(held) => {
                let seq = held.seq.max(now.seq);
                *held = if rank(&now) > rank(held) { now } else { *held };
                held.seq = seq;
            }
            // The name shares memory with the whole payload.
            None => drop(self.told.producers.insert(Bytes::copy_from_slice(&entry.producer), now)),
        }
    }

    /// What is forgotten after a `Forget` of `positions`. It cannot reach beyond what its writer had applied.
    fn forget_target(&self, header: &Header, seen: &Vector, positions: &[StreamPosition]) -> Vector {
        let mut past = seen.clone();
        past.set(header.stream, Lsn(header.first_lsn.0 - 1));
        let asked: Vector = positions
            .iter()
            .filter_map(|p| {
                let site = SiteId(u8::try_from(p.site).ok()?);
                Some((StreamId { site, incarnation: Incarnation(p.incarnation) }, Lsn(p.lsn)))
            })
            .collect();
        self.head.forgotten.max(&asked.min(&past))
    }

    /// Forgets here and now, or returns the target if that is too much for one transaction and has not been done.
    fn forget(&mut self, target: Vector, done: Option<&Vector>) -> Result<Option<Vector>, Error> {
        if done != Some(&target) {
            if !self.forgets_at_once()? {
                return Ok(Some(target));
            }
            self.head.forgotten = target;
            let mut progress = Some(Progress::START);
            while let Some(at) = progress {
                progress = self.forget_step(at)?;
            }
        }
        self.head.phase = Phase::Ready;
        Ok(None)
    }
}
