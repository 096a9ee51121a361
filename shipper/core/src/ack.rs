//! When an append may be acknowledged.

use std::collections::VecDeque;

use cfs_model::Lsn;

/// How far the own stream is acknowledged: what is durable here and at `copies` other sites.
///
/// `others` holds the durable position of each other site that counts; an ack that carries a floor above the current
/// epoch does not. With fewer sites than `copies` nothing is.
pub fn acknowledged(durable_here: Lsn, others: &mut [Lsn], copies: usize) -> Lsn {
    if copies == 0 {
        return durable_here;
    }
    others.sort_unstable_by(|a, b| b.cmp(a));
    others.get(copies - 1).map_or(Lsn::ZERO, |kth| durable_here.min(*kth))
}

/// The acks that one session owes, in the order of LSNs; they leave in that order.
#[derive(Debug, Default)]
pub struct Owed(VecDeque<(u64, Lsn)>);

impl Owed {
    /// Everything up to `seq` is in the stream at `lsn` or before.
    pub fn push(&mut self, seq: u64, lsn: Lsn) {
        match self.0.back_mut() {
            Some(last) if last.1 >= lsn => last.0 = last.0.max(seq),
            _ => self.0.push_back((seq, lsn)),
        }
    }

    /// Takes all that `acknowledged` covers: the highest sequence and its LSN.
    pub fn take(&mut self, acknowledged: Lsn) -> Option<(u64, Lsn)> {
        let covered = self.0.partition_point(|(_, lsn)| *lsn <= acknowledged);
        self.0.drain(..covered).next_back()
    }

    /// Whether no ack is owed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant 4: an ack waits for every copy that its durability mode promises.
    #[test]
    fn the_kth_furthest_site_decides() {
        let others = || [Lsn(3), Lsn(9), Lsn(5)];
        let acked = |copies| acknowledged(Lsn(8), &mut others(), copies);
        assert_eq!([0, 1, 2, 3, 4].map(acked), [Lsn(8), Lsn(8), Lsn(5), Lsn(3), Lsn(0)]);
    }

    #[test]
    fn acks_leave_in_order() {
        let mut owed = Owed::default();
        owed.push(2, Lsn(20));
        owed.push(5, Lsn(23));
        owed.push(4, Lsn(23));
        owed.push(9, Lsn(30));
        assert_eq!(owed.take(Lsn(19)), None);
        assert_eq!(owed.take(Lsn(25)), Some((5, Lsn(23))));
        assert!(!owed.is_empty());
        assert_eq!(owed.take(Lsn(30)), Some((9, Lsn(30))));
        assert!(owed.is_empty());
    }
}
