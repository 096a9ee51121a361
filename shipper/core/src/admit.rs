//! Which appends are admitted to the stream, and at which LSN.
//!
//! The one place that hands out LSNs. Whoever holds this under a lock and queues what it admits before letting go
//! gives the group commit entries in the order of their LSNs.

use std::collections::HashMap;

use bytes::Bytes;
use cfs_model::{Epoch, Lsn, StreamId};

use crate::caps::MAX_PRODUCERS;

/// What is known of one producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// The highest sequence number in the stream.
    pub seq: u64,
    /// Where it is; `ZERO` when an older stream holds it, which is durable here then.
    pub lsn: Lsn,
    /// The epoch in which it was appended.
    pub epoch: Epoch,
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

/// The right to append, and the next LSN.
#[derive(Debug, Default)]
pub struct Admission {
    open: Option<(Epoch, StreamId)>,
    next_lsn: Lsn,
    producers: HashMap<Bytes, Producer>,
    uses: u64,
}

impl Admission {
    /// Starts accepting in `epoch` for `stream` after `end`. `producers` is the table as applied up to there.
    pub fn open(
        &mut self,
        epoch: Epoch,
        stream: StreamId,
        end: Lsn,
        producers: impl IntoIterator<Item = (Bytes, u64, Epoch)>,
    ) {
        self.open = Some((epoch, stream));
        self.next_lsn = end.next();
        self.producers.clear();
        for (name, seq, epoch) in producers {
            self.uses += 1;
            self.producers.insert(name, Producer { seq, lsn: Lsn::ZERO, epoch, session: 0, used: self.uses });
        }
    }

    /// Stops accepting. What was admitted stays admitted.
    pub fn close(&mut self) {
        self.open = None;
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
        let (epoch, _) = self.open.ok_or(Refused::NotAccepting)?;
        self.uses += 1;
        if !self.producers.contains_key(name) {
            self.make_room();
            let fresh = Producer { seq: 0, lsn: Lsn::ZERO, epoch, session, used: self.uses };
            self.producers.insert(name.clone(), fresh);
        }
        let producer = self.producers.get_mut(name).ok_or(Refused::NotAccepting)?;
        producer.session = session;
        producer.used = self.uses;
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
        // A gap is refused only within one stream and epoch: what an older primary acknowledged alone may follow late.
        let same_life = producer.epoch == current && (producer.lsn != Lsn::ZERO || producer.seq == 0);
        if first_seq > producer.seq + 1 && same_life {
            return Err(Refused::Gap { expected: producer.seq + 1 });
        }
        let held = (producer.seq + 1).saturating_sub(first_seq).min(count as u64);
        let fresh = count as u64 - held;
        let first_lsn = self.next_lsn;
        if fresh > 0 {
            self.next_lsn = first_lsn.plus(fresh);
            *producer =
                Producer { seq: end - 1, lsn: Lsn(self.next_lsn.0 - 1), epoch: current, session, used: self.uses };
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
