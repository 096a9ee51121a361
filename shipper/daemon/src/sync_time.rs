//! What the journal's disk takes for a group of entries, lately: a switchover waits for it several times, and its plan says
//! for how long.

use std::sync::atomic::{AtomicU64, Ordering};

/// Each new time counts for one part in so many.
const WEIGHT: u64 = 8;

/// A time that follows what is measured, in microseconds; 0 before the first.
#[derive(Debug, Default)]
pub(crate) struct SyncTime(AtomicU64);

impl SyncTime {
    /// A group took so long.
    pub(crate) fn took(&self, us: u64) {
        let next = |was: u64| match was {
            0 => us.max(1),
            _ => ((was * (WEIGHT - 1)).saturating_add(us) / WEIGHT).max(1),
        };
        // The two threads that write are rarely busy at the same time; a lost time would not matter.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |was| Some(next(was.min(u64::MAX / WEIGHT))));
    }

    pub(crate) fn us(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_is_measured_and_forgets_a_single_slow_one() {
        let time = SyncTime::default();
        assert_eq!(time.us(), 0);
        time.took(2_000);
        assert_eq!(time.us(), 2_000);
        time.took(200_000);
        assert!(time.us() < 30_000);
        (0..40).for_each(|_| time.took(2_000));
        assert!(time.us() < 3_000, "{}", time.us());
        (0..40).for_each(|_| time.took(50_000));
        assert!(time.us() > 45_000, "{}", time.us());
        time.took(u64::MAX);
        time.took(0);
        assert!(time.us() > 0, "a time that is known stays known");
    }
}
