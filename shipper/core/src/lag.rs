//! How far behind a reader of a stream is, in time.

use std::collections::VecDeque;

use cfs_model::Lsn;

use crate::caps::MAX_LAG_MARKS;

/// Marks are at least this many times closer together than they are old.
const COARSENESS: u64 = 16;

/// Remembers when positions of one stream became known: to the millisecond lately, coarser the longer ago, so that it
/// covers any time in bounded memory.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// (first position that became known at that time or later, boot time in ms), in order.
    marks: VecDeque<(Lsn, u64)>,
    end: Lsn,
}

impl Timeline {
    /// A timeline that knows nothing before `end`, which became known at `now_ms`.
    pub const fn new(end: Lsn) -> Self {
        Self { marks: VecDeque::new(), end }
    }

    /// The stream is now known to reach `end`.
    pub fn advance(&mut self, end: Lsn, now_ms: u64) {
        if end <= self.end {
            return;
        }
        if self.marks.back().is_none_or(|(_, at)| now_ms > *at) {
            self.marks.push_back((self.end.next(), now_ms));
        }
        self.end = end;
        if self.marks.len() > MAX_LAG_MARKS {
            self.thin_out(now_ms);
        }
    }

    /// The stream reaches `end` alone after all: nobody says any more that there is more of it.
    pub fn retreat(&mut self, end: Lsn) {
        if end >= self.end {
            return;
        }
        while self.marks.back().is_some_and(|(first, _)| *first > end) {
            self.marks.pop_back();
        }
        self.end = end;
    }

    /// Drops marks whose neighbours are closer together than a sixteenth of their age.
    fn thin_out(&mut self, now_ms: u64) {
        let marks = std::mem::take(&mut self.marks);
        for (index, mark) in marks.iter().enumerate() {
            let close = self
                .marks
                .back()
                .zip(marks.get(index + 1))
                .is_some_and(|(before, after)| (after.1 - before.1) * COARSENESS < now_ms.saturating_sub(after.1));
            if !close {
                self.marks.push_back(*mark);
            }
        }
    }

    /// Where the stream ends.
    pub const fn end(&self) -> Lsn {
        self.end
    }

    /// Age in ms of the oldest entry after `applied`; 0 if there is none. Never too small, and too large by a sixteenth at
    /// most. Entries known before this
    /// timeline began count from its first mark.
    pub fn age_ms(&self, applied: Lsn, now_ms: u64) -> u64 {
        if applied >= self.end {
            return 0;
        }
        let next = applied.next();
        let upto = self.marks.partition_point(|(first, _)| *first <= next);
        let mark = self.marks.get(upto.saturating_sub(1));
        mark.map_or(0, |(_, at)| now_ms.saturating_sub(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_that_of_the_oldest_entry_not_applied() {
        let mut line = Timeline::new(Lsn(0));
        line.advance(Lsn(10), 100);
        line.advance(Lsn(20), 200);
        assert_eq!(line.age_ms(Lsn(20), 900), 0, "caught up, however long ago");
        assert_eq!(line.age_ms(Lsn(10), 900), 700);
        assert_eq!(line.age_ms(Lsn(9), 900), 800);
        line.advance(Lsn(21), 1000);
        assert_eq!(line.age_ms(Lsn(20), 1001), 1);
    }

    #[test]
    fn what_nobody_claims_any_more_is_not_waited_for() {
        let mut line = Timeline::new(Lsn(0));
        line.advance(Lsn(10), 100);
        line.advance(Lsn(20), 200);
        line.retreat(Lsn(25));
        assert_eq!(line.end(), Lsn(20));
        line.retreat(Lsn(10));
        assert_eq!((line.end(), line.age_ms(Lsn(10), 900), line.age_ms(Lsn(9), 900)), (Lsn(10), 0, 800));
        line.advance(Lsn(12), 300);
        assert_eq!(line.age_ms(Lsn(10), 900), 600, "known anew, from now on");
        line.retreat(Lsn(11));
        assert_eq!((line.age_ms(Lsn(11), 900), line.age_ms(Lsn(10), 900)), (0, 600));
    }

    #[test]
    fn memory_is_bounded_and_age_never_too_small() {
        let mut line = Timeline::new(Lsn(0));
        for i in 1..100_000u64 {
            line.advance(Lsn(i), i * 3);
            assert!(line.marks.len() <= MAX_LAG_MARKS);
        }
        let now_ms = 300_000;
        for applied in [0u64, 1, 17, 50_000, 90_000, 99_700, 99_998] {
            let exact = now_ms - (applied + 1) * 3;
            let age = line.age_ms(Lsn(applied), now_ms);
            assert!(age >= exact && age <= exact + exact / COARSENESS + 3, "{applied}: {age}, exactly {exact}");
        }
    }
}
