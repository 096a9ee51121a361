//! How much of the own stream no other site holds yet.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use cfs_model::{Lsn, StreamId};

/// Marks that are kept; beyond it neighbours are joined.
const MAX_MARKS: usize = 4096;

/// Bytes of own batches by position, as far as they were written by this process.
#[derive(Debug, Default)]
pub(crate) struct Unshared(Mutex<Marks>);

#[derive(Debug, Default)]
struct Marks {
    stream: Option<StreamId>,
    /// (last LSN, bytes) in order.
    marks: VecDeque<(Lsn, u64)>,
}

impl Unshared {
    /// A batch of `bytes` bytes that ends at `end` is durable.
    pub(crate) fn written(&self, stream: StreamId, end: Lsn, bytes: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.stream != Some(stream) {
            *all = Marks { stream: Some(stream), marks: VecDeque::new() };
        }
        all.marks.push_back((end, bytes));
        if all.marks.len() > MAX_MARKS {
            let marks = std::mem::take(&mut all.marks);
            let mut marks = marks.into_iter();
            while let Some((end, bytes)) = marks.next() {
                // Joined to the later one, so that the sum is never too small.
                let (end, bytes) = marks.next().map_or((end, bytes), |(later, more)| (later, bytes + more));
                all.marks.push_back((end, bytes));
            }
        }
    }

    /// Bytes after `shared`, which another site holds; what it holds is forgotten. Never too small, by a little too large.
    pub(crate) fn bytes_after(&self, stream: StreamId, shared: Lsn) -> u64 {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.stream != Some(stream) {
            return 0;
        }
        while all.marks.front().is_some_and(|(end, _)| *end <= shared) {
            all.marks.pop_front();
        }
        all.marks.iter().map(|(_, bytes)| bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use cfs_model::{Incarnation, SiteId};

    use super::*;

    #[test]
    fn bytes_that_nobody_else_holds_are_counted_in_bounded_memory() {
        let stream = StreamId { site: SiteId(1), incarnation: Incarnation(1) };
        let unshared = Unshared::default();
        for lsn in 1..=3 * MAX_MARKS as u64 {
            unshared.written(stream, Lsn(lsn), 10);
        }
        assert!(unshared.0.lock().unwrap().marks.len() <= MAX_MARKS);
        assert_eq!(unshared.bytes_after(stream, Lsn::ZERO), 30 * MAX_MARKS as u64);
        assert_eq!(unshared.bytes_after(stream, Lsn(3 * MAX_MARKS as u64 - 1)), 10);
        assert_eq!(unshared.bytes_after(stream, Lsn(3 * MAX_MARKS as u64)), 0);
        let next = StreamId { incarnation: Incarnation(2), ..stream };
        unshared.written(next, Lsn(1), 7);
        assert_eq!((unshared.bytes_after(stream, Lsn::ZERO), unshared.bytes_after(next, Lsn::ZERO)), (0, 7));
    }
}
