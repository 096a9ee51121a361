//! Which appends are admitted to the stream, and at which LSN.
//!
//! The one place that hands out LSNs. Whoever holds this under a lock and queues what it admits before letting go
//! gives the group commit entries in the order of their LSNs.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cfs_model::{Epoch, Lsn, StreamId, Vector};

use crate::caps::MAX_PRODUCERS;

/// What is known of one producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// The highest sequence number in the stream.
    pub seq: u64,
    /// Where it is, at the latest; `ZERO` when an older stream holds it, which was applied here at the opening.
    pub lsn: Lsn,
    /// Whether it was appended to the present stream in the present epoch.
    seen: bool,
    /// The session that speaks for it; later sessions end earlier ones. 0: none.
    session: u64,
    /// Order of use, to forget the one idle for longest.
    used: u64,
}

/// Why nothing was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// This site takes no appends now.
    NotAccepting,
    /// The epoch is not the one in which this site accepts.
    Fenced(Epoch),
    /// A sequence number is missing in between.
    Gap {
        /// The sequence number that comes next.
        expected: u64,
    },
    /// A later session of this producer took over.
    Superseded,
    /// Sequence numbers start at 1 and end below the largest number.
    BadSequence,
}

/// What was admitted of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// So many entries at the front are in the stream already (invariant 8).
    pub held: usize,
    /// LSN of the first entry after those, if any is left.
    pub first_lsn: Lsn,
    /// The LSN that the message's last entry has, to be waited for.
    pub last_lsn: Lsn,
}

/// What a site knows of a producer when it begins to accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Its name.
    pub name: Bytes,
    /// The highest sequence number applied.
    pub seq: u64,
    /// The stream that its latest entry is in.
    pub stream: StreamId,
    /// The epoch of its latest entry.
    pub epoch: Epoch,
}

/// The right to append, and the next LSN.
#[derive(Debug, Default)]
pub struct Admission {
    open: Option<(Epoch, StreamId)>,
    /// Counts openings, and what was taken back: a session of an earlier number is void.
    opening: u64,
    /// The stream that LSNs were handed out for last.
    stream: Option<StreamId>,
    /// What was applied here when it was opened, and the own stream's end.
    base: Arc<Vector>,
    next_lsn: Lsn,
    producers: HashMap<Bytes, Producer>,
    uses: u64,
    /// Other sites append in the same epoch.
    shared: bool,
}

impl Admission {
    /// Starts accepting in `epoch` for `stream` after its position in `base`, which is all that is applied here.
    /// `producers` is the table as applied up to there. Everything that was handed out before is [settled](Self::unsettled).
    pub fn open(
        &mut self,
        epoch: Epoch,
        stream: StreamId,
        base: Vector,
        producers: impl IntoIterator<Item = Remembered>,
    ) {
        let end = base.get(stream);
        self.open = Some((epoch, stream));
        self.opening += 1;
        self.stream = Some(stream);
        self.next_lsn = end.next();
        self.base = Arc::new(base);
        self.shared = false;
        self.producers.clear();
        for known in producers {
            self.uses += 1;
            // Where exactly it is in the own stream is not remembered; its end is at or after it.
            let lsn = if known.stream == stream { end } else { Lsn::ZERO };
            let seen = known.stream == stream && known.epoch == epoch;
            let producer = Producer { seq: known.seq, lsn, seen, session: 0, used: self.uses };
            self.producers.insert(known.name, producer);
        }
    }

    /// Other sites append in the epoch that was opened: a producer may come from one of them, and what that acknowledged
    /// may follow late.
    pub const fn share(&mut self) {
        self.shared = true;
    }

    /// What is `applied` here by now holds this producer's entries up to `seq`, some in other streams. From the next session
    /// on, a site counts for an acknowledgement only if it holds that too.
    pub fn learn(&mut self, name: &Bytes, seq: u64, applied: &Vector) {
        let known = self.producers.get(name).copied();
        if !self.shared || self.open.is_none() || known.is_some_and(|known| known.seq >= seq) {
            return;
        }
        if known.is_none() {
            self.make_room();
        }
        self.uses += 1;
        let (lsn, session) = known.map_or((Lsn::ZERO, 0), |known| (known.lsn, known.session));
        self.producers.insert(name.clone(), Producer { seq, lsn, seen: false, session, used: self.uses });
        self.base = Arc::new(self.base.max(applied));
    }

    /// Stops accepting. What was admitted stays admitted.
    pub const fn close(&mut self) {
        self.open = None;
    }

    /// Number of the present opening; sessions of an earlier one are void.
    pub const fn opening(&self) -> u64 {
        self.opening
    }

    /// What was applied here at the opening, and the end that the own stream had.
    pub fn base(&self) -> Arc<Vector> {
        self.base.clone()
    }

    /// The stream of which LSNs were handed out last, and the last of them: until that is durable or
    /// [taken back](Self::take_back), the stream must not be opened again.
    pub fn unsettled(&self) -> Option<(StreamId, Lsn)> {
        Some((self.stream?, self.last_lsn()))
    }

    /// Everything of `stream` after `end` was dropped unwritten. Its LSNs may be handed out again, so every session that
    /// waits for one of them is void. Closed before.
    pub fn take_back(&mut self, stream: StreamId, end: Lsn) {
        if self.stream == Some(stream) && self.open.is_none() {
            self.next_lsn = end.next();
            self.opening += 1;
        }
    }

    /// The epoch and stream in which this site accepts.
    pub const fn accepting(&self) -> Option<(Epoch, StreamId)> {
        self.open
    }

    /// Last LSN handed out.
    pub const fn last_lsn(&self) -> Lsn {
        Lsn(self.next_lsn.0.saturating_sub(1))
    }

    /// A session says whom it speaks for. Returns what the stream holds of that producer.
    pub fn hello(&mut self, name: &Bytes, session: u64) -> Result<Producer, Refused> {
        self.open.ok_or(Refused::NotAccepting)?;
        self.uses += 1;
        if !self.producers.contains_key(name) {
            self.make_room();
            let fresh = Producer { seq: 0, lsn: Lsn::ZERO, seen: false, session, used: self.uses };
            self.producers.insert(name.clone(), fresh);
        }
        let producer = self.producers.get_mut(name).ok_or(Refused::NotAccepting)?;
        producer.session = session;
        producer.used = self.uses;
        // It may have been acknowledged more elsewhere since it was here.
        producer.seen &= !self.shared;
        Ok(*producer)
    }

    /// Admits `count` entries with sequence numbers from `first_seq`, and gives them LSNs.
    pub fn entries(
        &mut self,
        name: &Bytes,
        session: u64,
        epoch: Epoch,
        first_seq: u64,
        count: usize,
    ) -> Result<Admitted, Refused> {
        let (current, _) = self.open.ok_or(Refused::NotAccepting)?;
        if epoch != current {
            return Err(Refused::Fenced(current));
        }
        let end = first_seq.checked_add(count as u64).filter(|_| first_seq > 0).ok_or(Refused::BadSequence)?;
        self.uses += 1;
        let producer = self.producers.get_mut(name).filter(|p| p.session == session).ok_or(Refused::Superseded)?;
        // A gap is refused only within one stream and epoch, and where the epoch is shared within one session: what another
        // site acknowledged alone may follow late, and an unknown producer goes on after what it was acknowledged elsewhere.
        if producer.seen && first_seq > producer.seq + 1 {
            return Err(Refused::Gap { expected: producer.seq + 1 });
        }
        let held = (producer.seq + 1).saturating_sub(first_seq).min(count as u64);
        let fresh = count as u64 - held;
        let first_lsn = self.next_lsn;
        if fresh > 0 {
            self.next_lsn = first_lsn.plus(fresh);
            *producer = Producer { seq: end - 1, lsn: Lsn(self.next_lsn.0 - 1), seen: true, session, used: self.uses };
        }
        Ok(Admitted { held: held as usize, first_lsn, last_lsn: producer.lsn })
    }

    fn make_room(&mut self) {
        if self.producers.len() >= MAX_PRODUCERS {
            let idle = self.producers.iter().min_by_key(|(_, p)| p.used).map(|(name, _)| name.clone());
            if let Some(name) = idle {
                self.producers.remove(&name);
            }
        }
    }
}

#[cfg(test)]
#[path = "admit_tests.rs"]
mod tests;
