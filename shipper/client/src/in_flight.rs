//! The entries between the caller and the journal: numbered, sent, resent, acknowledged or refused.
//!
//! Pure: no I/O, no clock. Callers wait for *tickets*, which never change; the shipper counts *sequence numbers*, which
//! move up when an entry before them is refused. Nothing else keeps a price for each entry: a caller that waits for the
//! last of a million registers once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use cfs_shipper_core::caps::{MAX_APPEND_BYTES, MAX_APPEND_ENTRIES};

use crate::error::{Error, Fatal};
use crate::producer::Ack;

/// Refusals that are kept for callers who have not looked yet.
pub(crate) const MAX_KEPT_REFUSALS: usize = 4096;
/// What an entry takes in a message beside its bytes: tag and length.
const FRAMING_BYTES: usize = 8;

pub(crate) struct Entry {
    ticket: u64,
    op: Bytes,
}

/// Room that became free.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Freed {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
}

/// What is to be woken and dropped once the lock is released.
#[derive(Default)]
#[must_use]
pub(crate) struct Settled {
    pub(crate) freed: Freed,
    pub(crate) wakers: Vec<Waker>,
    /// Freed outside the lock.
    pub(crate) dropped: Vec<Entry>,
}

/// What the journal says when a session starts does not fit what this process did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// It holds entries that this process never sent.
    NeverSent { held: u64, sent: u64 },
}

pub(crate) struct InFlight {
    /// Not acknowledged, oldest first; consecutive sequence numbers from `first_seq`.
    entries: VecDeque<Entry>,
    first_seq: u64,
    /// How many of `entries` the journal holds or were sent in this session.
    sent: usize,
    /// Highest sequence number that ever left this process, or that the journal held at the start.
    ever_sent: u64,
    /// Highest ticket that left this process.
    ever_sent_ticket: u64,
    /// What `ever_sent` and `ever_sent_ticket` were when the session began: an earlier site may hold that much, whatever
    /// this one takes.
    sent_before: (u64, u64),
    /// Highest sequence number acknowledged: entries up to there need not be sent even if they come later.
    acknowledged: u64,
    /// Highest ticket that was ever put into a message.
    gathered: u64,
    /// How often an entry was put into a message once more.
    resent: u64,
    next_ticket: u64,
    /// By ticket, until whoever waits for it looks.
    refused: BTreeMap<u64, Error>,
    /// Refusals that nobody waits for, until the next flush.
    unheeded: Vec<Error>,
    /// Tickets in flight that nobody waits for any more: first to last, merged.
    abandoned: BTreeMap<u64, u64>,
    /// By last ticket and a number of the waiter's own.
    waiting: BTreeMap<(u64, u64), Waker>,
    waiters: u64,
    last_ack: Option<Ack>,
    failure: Option<Arc<Fatal>>,
}

impl InFlight {
    pub(crate) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            first_seq: 1,
            sent: 0,
            ever_sent: 0,
            ever_sent_ticket: 0,
            sent_before: (0, 0),
            acknowledged: 0,
            gathered: 0,
            resent: 0,
            next_ticket: 1,
            refused: BTreeMap::new(),
            unheeded: Vec::new(),
            abandoned: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiters: 0,
            last_ack: None,
            failure: None,
        }
    }

    /// The first session began: the journal holds `held`, and this process numbers from `first_seq` on.
    pub(crate) fn begin(&mut self, held: u64, first_seq: u64) {
        self.first_seq = first_seq;
        self.ever_sent = held.max(first_seq - 1);
        self.acknowledged = first_seq - 1;
    }

    pub(crate) fn failure(&self) -> Option<&Arc<Fatal>> {
        self.failure.as_ref()
    }

    pub(crate) const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(crate) const fn resent(&self) -> u64 {
        self.resent
    }

    pub(crate) fn last_ticket(&self) -> u64 {
        self.next_ticket - 1
    }

    /// Takes an entry; its ticket. The caller has reserved room for it.
    pub(crate) fn push(&mut self, op: Bytes) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.entries.push_back(Entry { ticket, op });
        ticket
    }

    /// Entries that wait to be acknowledged.
    pub(crate) fn waiting(&self) -> usize {
        self.entries.len()
    }

    /// Entries of which it is known what became of them.
    pub(crate) fn settled_entries(&self) -> u64 {
        self.last_ticket() - self.entries.len() as u64
    }

    /// Whether anything that was sent waits to be acknowledged.
    pub(crate) const fn has_sent(&self) -> bool {
        self.sent > 0
    }

    /// Whether anything waits to be sent.
    #[cfg(test)]
    fn has_unsent(&self) -> bool {
        self.sent < self.entries.len()
    }

    /// The next message: first sequence number and entries, within the bounds of one message.
    pub(crate) fn gather(&mut self) -> Option<(u64, Vec<Bytes>)> {
        let first = self.sent;
        let mut bytes = 0;
        let count = self
            .entries
            .range(first..)
            .take(MAX_APPEND_ENTRIES)
            .take_while(|entry| {
                bytes += entry.op.len() + FRAMING_BYTES;
                bytes <= MAX_APPEND_BYTES
            })
            .count();
        if count == 0 {
            return None;
        }
        let ops = self.entries.range(first..first + count).map(|entry| entry.op.clone()).collect();
        self.sent += count;
        self.ever_sent = self.ever_sent.max(self.first_seq + self.sent as u64 - 1);
        let last = self.entries[self.sent - 1].ticket;
        self.ever_sent_ticket = self.ever_sent_ticket.max(last);
        let again = self.entries.range(first..first + count).take_while(|entry| entry.ticket <= self.gathered).count();
        self.resent += again as u64;
        self.gathered = self.gathered.max(last);
        Some((self.first_seq + first as u64, ops))
    }

    /// A session began and the journal holds `held`: the rest is to be sent again. If that is less than was acknowledged
    /// in an older epoch, the next is the first that was not acknowledged: the others follow with the site that has them.
    pub(crate) fn resume(&mut self, held: u64) -> Result<(), Mismatch> {
        if held > self.ever_sent {
            return Err(Mismatch::NeverSent { held, sent: self.ever_sent });
        }
        let held_here = (held + 1).saturating_sub(self.first_seq);
        self.sent = usize::try_from(held_here).unwrap_or(usize::MAX).min(self.entries.len());
        self.sent_before = (self.ever_sent, self.ever_sent_ticket);
        Ok(())
    }

    /// Entries that came after the journal had them already need not be sent: settles those.
    pub(crate) fn skip_held(&mut self) -> Settled {
        match (&self.last_ack, self.first_seq <= self.acknowledged && !self.entries.is_empty()) {
            (Some(ack), true) => {
                let ack = Ack { seq: self.acknowledged, ..ack.clone() };
                self.settle(ack)
            }
            _ => Settled::default(),
        }
    }

    /// Everything up to `ack.seq` is as durable as asked.
    pub(crate) fn settle(&mut self, ack: Ack) -> Settled {
        let count = (ack.seq + 1).saturating_sub(self.first_seq);
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.entries.len());
        // A new primary may begin with an ack for less than an older one gave.
        if ack.seq >= self.acknowledged || self.last_ack.is_none() {
            self.last_ack = Some(ack.clone());
        }
        self.acknowledged = self.acknowledged.max(ack.seq);
        let dropped: Vec<Entry> = self.entries.drain(..count).collect();
        self.first_seq += count as u64;
        self.sent = self.sent.saturating_sub(count);
        let freed = Freed { entries: count, bytes: dropped.iter().map(|entry| entry.op.len()).sum() };
        Settled { freed, dropped, wakers: self.wake_settled() }
    }

    /// Nothing from this sequence number on was appended in this session.
    pub(crate) fn not_taken(&mut self, seq: u64) {
        let Some(before) = seq.checked_sub(self.first_seq).and_then(|count| usize::try_from(count).ok()) else {
            return;
        };
        self.sent = self.sent.min(before);
        let (sent_before, ticket_before) = self.sent_before;
        self.ever_sent = self.ever_sent.min((seq - 1).max(sent_before));
        let last = before.checked_sub(1).and_then(|at| self.entries.get(at)).map(|entry| entry.ticket);
        let last = last.unwrap_or_else(|| self.settled());
        self.ever_sent_ticket = self.ever_sent_ticket.min(last.max(ticket_before));
    }

    /// The entry with this sequence number will never be taken: it leaves, and those after it move up. `None` if it is
    /// none of ours.
    pub(crate) fn refuse(&mut self, seq: u64, why: String) -> Option<Settled> {
        let at = usize::try_from(seq.checked_sub(self.first_seq)?).ok()?;
        // Its number is free again.
        self.not_taken(seq);
        let Entry { ticket, op } = self.entries.remove(at)?;
        let freed = Freed { entries: 1, bytes: op.len() };
        self.sent = self.sent.min(at);
        let error = Error::Invalid { why, entry: op };
        if self.is_abandoned(ticket) {
            self.unheeded.push(error);
        } else {
            self.refused.insert(ticket, error);
        }
        let mut wakers = self.wake_settled();
        let of_ticket = self.waiting.range((ticket, 0)..=(ticket, u64::MAX));
        wakers.extend(of_ticket.map(|(_, waker)| waker.clone()));
        Some(Settled { freed, wakers, dropped: Vec::new() })
    }

    /// Refusals that nobody looked at.
    pub(crate) fn unheeded(&self) -> usize {
        self.unheeded.len()
    }

    /// Ends everything: whoever waits learns why.
    pub(crate) fn fail(&mut self, why: Arc<Fatal>) -> Settled {
        self.failure.get_or_insert(why);
        let wakers = std::mem::take(&mut self.waiting).into_values().collect();
        Settled { wakers, ..Settled::default() }
    }

    /// What became of the tickets from `first` to `last`; `None`: not known yet. `Ok(None)`: there were none, or the
    /// last ack is that of an earlier life.
    pub(crate) fn outcome(&mut self, first: u64, last: u64) -> Option<Result<Option<Ack>, Error>> {
        let alone = first == last && self.refused.contains_key(&first);
        if self.settled() >= last || alone {
            let refused = self.refused.range(first..=last).next().map(|(ticket, _)| *ticket);
            if let Some(error) = refused.and_then(|ticket| self.refused.remove(&ticket)) {
                return Some(Err(error));
            }
            return Some(Ok(self.last_ack.clone()));
        }
        let why = self.failure.clone()?;
        let sent = self.settled().max(first.saturating_sub(1)) < self.ever_sent_ticket;
        Some(Err(if sent { Error::Unknown(why) } else { Error::NotAppended(why) }))
    }

    /// Whether everything up to `last` is settled; a refusal that nobody looked at comes first.
    pub(crate) fn flushed(&mut self, last: u64) -> Option<Result<Option<Ack>, Error>> {
        if self.settled() < last {
            return self.failure.clone().map(|why| Err(Error::Unknown(why)));
        }
        Some(match self.unheeded.is_empty() {
            true => Ok(self.last_ack.clone()),
            false => Err(self.unheeded.remove(0)),
        })
    }

    /// Wakes `waker` once the outcome of `last` is known. `waiter` is 0 at first and names the waiter from then on.
    pub(crate) fn wait(&mut self, last: u64, waiter: &mut u64, waker: &Waker) {
        if *waiter == 0 {
            self.waiters += 1;
            *waiter = self.waiters;
        }
        self.waiting.entry((last, *waiter)).and_modify(|held| held.clone_from(waker)).or_insert_with(|| waker.clone());
    }

    pub(crate) fn forget_waiter(&mut self, last: u64, waiter: u64) {
        self.waiting.remove(&(last, waiter));
    }

    /// Nobody will look at the outcome of these tickets: a flush reports what is refused of them.
    pub(crate) fn abandon(&mut self, first: u64, last: u64) {
        while let Some(ticket) = self.refused.range(first..=last).next().map(|(ticket, _)| *ticket) {
            self.unheeded.extend(self.refused.remove(&ticket));
        }
        let settled = self.settled();
        while self.abandoned.first_key_value().is_some_and(|(_, end)| *end <= settled) {
            self.abandoned.pop_first();
        }
        if last > settled {
            match self.abandoned.range_mut(..first).next_back() {
                Some((_, end)) if *end + 1 == first => *end = last,
                _ => {
                    self.abandoned.insert(first, last);
                }
            }
        }
    }

    fn is_abandoned(&self, ticket: u64) -> bool {
        self.abandoned.range(..=ticket).next_back().is_some_and(|(_, end)| *end >= ticket)
    }

    /// Every ticket up to this one was acknowledged or refused.
    fn settled(&self) -> u64 {
        self.entries.front().map_or(self.next_ticket, |entry| entry.ticket) - 1
    }

    fn wake_settled(&mut self) -> Vec<Waker> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let still = self.waiting.split_off(&(self.settled() + 1, 0));
        std::mem::replace(&mut self.waiting, still).into_values().collect()
    }
}

#[cfg(test)]
#[path = "in_flight_tests.rs"]
mod tests;
