//! Acknowledgements, serialised with floors and rules.

use cfs_model::{Epoch, Lsn, StreamId};
use cfs_shipper_core::ack::Given;

use super::Governed;
use crate::directed::Directed;

/// The furthest entry of the own stream that was acknowledged, and when, in ms since the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Furthest {
    pub(crate) stream: StreamId,
    pub(crate) lsn: Lsn,
    pub(crate) at_ms: u64,
}

/// Who asks for an acknowledgement, and under what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    pub(crate) session: u64,
    pub(crate) epoch: Epoch,
    pub(crate) stream: StreamId,
    /// Copies at other sites that the session asked for.
    pub(crate) asked: usize,
}

/// The answer to a [`Claim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acknowledgement {
    /// Everything up to the sequence, which is at that LSN, under this lease.
    Given { through_seq: u64, lsn: Lsn, lease_deadline_ns: u64 },
    /// Nothing is due yet.
    Nothing,
    /// So many copies must be promised to the group first.
    Unpromised,
    /// The right to acknowledge in that epoch has ended.
    Ended,
}

impl Governed {
    /// Decides one acknowledgement. `reach` says how far the own stream is acknowledged under the rules; `due` takes what
    /// is owed up to there.
    ///
    /// Floors, rules and this are changed under one lock, so that an acknowledgement is either decided before a seal is
    /// in force, and then lies below the cursors that the seal's report reads, or not at all (invariant 2); and it is
    /// recorded before a report confirms a rule (invariant 4). The lease is compared last, right before the
    /// acknowledgement goes to the transport: a process that slept gives none. What sleeps between there and the producer
    /// carries its deadline, and the producer compares it too.
    pub(crate) fn acknowledge(
        &self,
        claim: Claim,
        wall_ms: u64,
        now_ns: impl Fn() -> u64,
        reach: impl FnOnce(&Directed) -> Option<Lsn>,
        due: impl FnOnce(Lsn) -> Option<(u64, Lsn)>,
    ) -> Acknowledgement {
        let mut state = self.lock();
        if state.may_acknowledge(now_ns()) != Some(claim.epoch) {
            return Acknowledgement::Ended;
        }
        let promised = state.directed.promised;
        if claim.asked > 0 && (promised == 0 || promised > claim.asked) {
            state.wants.insert(claim.session, claim.asked);
            return Acknowledgement::Unpromised;
        }
        state.wants.remove(&claim.session);
        let directed = state.directed.clone();
        let Some((through_seq, lsn)) = reach(&directed).and_then(due) else { return Acknowledgement::Nothing };
        if state.may_acknowledge(now_ns()) != Some(claim.epoch) {
            return Acknowledgement::Ended;
        }
        state.given.record(claim.asked, lsn);
        if lsn > Lsn::ZERO && state.furthest.is_none_or(|f| f.stream != claim.stream || f.lsn < lsn) {
            state.furthest = Some(Furthest { stream: claim.stream, lsn, at_ms: wall_ms });
        }
        Acknowledgement::Given { through_seq, lsn, lease_deadline_ns: directed.lease_deadline_ns }
    }

    /// A producer's session ended.
    pub(crate) fn session_ended(&self, session: u64) {
        self.lock().wants.remove(&session);
    }

    /// The fewest copies that a session waits to be promised; 0: none waits.
    pub(crate) fn wants_promise(&self) -> usize {
        self.lock().wants.values().copied().min().unwrap_or(0)
    }

    /// The own `stream` was opened in `epoch`. `before`: an earlier process or incarnation may have acknowledged in that
    /// epoch, of this stream up to there.
    pub(crate) fn begin_acknowledging(&self, epoch: Epoch, stream: StreamId, before: Option<Lsn>) {
        let mut state = self.lock();
        if state.given_in != Some((epoch, stream)) {
            state.given_in = Some((epoch, stream));
            state.given = Given::after(before);
        }
    }

    /// The highest rule such that everything acknowledged in the present epoch meets it and all earlier ones, as `confirm`
    /// finds; 0 while it is not known what was.
    pub(crate) fn confirmed_rule(&self, confirm: impl FnOnce(&Given, &Directed) -> u64) -> u64 {
        let state = self.lock();
        let known = state.given_in.is_some_and(|(epoch, _)| epoch == state.directed.epoch);
        if known { confirm(&state.given, &state.directed) } else { 0 }
    }

    /// The furthest acknowledged entry of the own stream since the start.
    pub(crate) fn furthest(&self) -> Option<Furthest> {
        self.lock().furthest
    }
}
