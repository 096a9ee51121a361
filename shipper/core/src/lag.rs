//! How far behind a reader of a stream is, in time.

use std::collections::VecDeque;

use cfs_model::Lsn;

use crate::caps::MAX_LAG_MARKS;

/// Remembers when positions of one stream became known, with a resolution that halves as it fills, so that it covers
/// any time in bounded memory.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// (first position that became known at that time or later, boot time in ms), in order.
    marks: VecDeque<(Lsn, u64)>,
    end: Lsn,
    resolution_ms: u64,
}

impl Timeline {
    /// A timeline that knows nothing before `end`, which became known at `now_ms`.
    pub const fn new(end: Lsn) -> Self {
        Self { marks: VecDeque::new(), end, resolution_ms: 1 }
    }

    /// The stream is now known to reach `end`.
    pub fn advance(&mut self, end: Lsn, now_ms: u64) {
        if end <= self.end {
            return;
        }
        if self.marks.back().is_none_or(|(_, at)| now_ms.saturating_sub(*at) >= self.resolution_ms) {
            self.marks.push_back((self.end.next(), now_ms));
        }
        self.end = end;
        if self.marks.len() > MAX_LAG_MARKS {
            let mut index = 0;
            self.marks.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.resolution_ms = self.resolution_ms.saturating_mul(2);
        }
    }

    /// Where the stream ends.
    pub const fn end(&self) -> Lsn {
        self.end
    }

    /// Age in ms of the oldest entry after `applied`; 0 if there is none. Never too small; too large by at most the
    /// resolution. Entries known before this timeline began count from its first mark.
    pub fn age_ms(&self, applied: Lsn, now_ms: u64) -> u64 {
        if applied >= self.end {
            return 0;
        }
        let next = applied.next();
        let upto = self.marks.partition_point(|(first, _)| *first <= next);
        let mark = self.marks.get(upto.saturating_sub(1));
        mark.map_or(0, |(_, at)| now_ms.saturating_sub(*at))
    }

    /// Drops what every reader has applied.
    pub fn forget_through(&mut self, applied: Lsn) {
        while self.marks.len() > 1 && self.marks[1].0 <= applied.next() {
            self.marks.pop_front();
        }
        if applied >= self.end {
            self.marks.clear();
            self.resolution_ms = 1;
        }
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
        line.forget_through(Lsn(10));
        assert_eq!(line.age_ms(Lsn(10), 900), 700);
        line.forget_through(Lsn(20));
        line.advance(Lsn(21), 1000);
        assert_eq!(line.age_ms(Lsn(20), 1001), 1);
    }

    #[test]
    fn memory_is_bounded_and_age_never_too_small() {
        let mut line = Timeline::new(Lsn(0));
        for i in 1..100_000u64 {
            line.advance(Lsn(i), i * 3);
            assert!(line.marks.len() <= MAX_LAG_MARKS);
        }
        for applied in [0u64, 1, 17, 50_000, 99_998] {
            let exact = 300_000 - (applied + 1) * 3;
            let age = line.age_ms(Lsn(applied), 300_000);
            assert!(age >= exact && age <= exact + 2 * line.resolution_ms, "{applied}: {age}, exactly {exact}");
        }
    }
}
