//! The hybrid logical clock of an origin.

use crate::caps::MAX_CLOCK_AHEAD_NS;

/// The clock is too far ahead of the site's own time: some site that it heard of has a clock that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the stream's clock is {} s ahead of this site's wall clock; check the time of all sites (chronyc tracking), then \
     restart the shipper of this one",
    .ahead_ns / 1_000_000_000
)]
pub struct Skew {
    /// By how much, in nanoseconds.
    pub ahead_ns: u64,
}

/// Hands out clocks for stamps: nanoseconds since the Unix epoch, above everything seen, never twice the same.
///
/// Real time is read from the wall clock once and then advances by the boot clock, so that a jump of the wall clock
/// changes nothing while the process lives.
#[derive(Debug, Clone)]
pub struct HybridClock {
    wall_at_start_ns: u64,
    boot_at_start_ns: u64,
    last: u64,
}

impl HybridClock {
    /// Starts above `seen`, the highest clock in journal and store.
    pub const fn new(seen: u64, wall_ns: u64, boot_ns: u64) -> Self {
        Self { wall_at_start_ns: wall_ns, boot_at_start_ns: boot_ns, last: seen }
    }

    /// Takes note of a clock in an entry from elsewhere.
    pub fn absorb(&mut self, seen: u64) {
        self.last = self.last.max(seen);
    }

    /// Clocks for `count` entries: the first is returned, entry `i` has it plus `i`. Nothing is handed out when the
    /// clock is too far ahead.
    pub fn take(&mut self, boot_ns: u64, count: u32) -> Result<u64, Skew> {
        let now = self.wall_at_start_ns.saturating_add(boot_ns.saturating_sub(self.boot_at_start_ns));
        let first = now.max(self.last.saturating_add(1));
        let ahead_ns = first - now;
        if ahead_ns > MAX_CLOCK_AHEAD_NS {
            return Err(Skew { ahead_ns });
        }
        self.last = first.saturating_add(u64::from(count.saturating_sub(1)));
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_follow_the_boot_clock_and_never_repeat() {
        let mut clock = HybridClock::new(0, 1_000, 50);
        assert_eq!(clock.take(50, 10), Ok(1_000));
        assert_eq!(clock.take(50, 1), Ok(1_010), "still above the ten handed out");
        assert_eq!(clock.take(150, 1), Ok(1_100));
        clock.absorb(5_000);
        assert_eq!(clock.take(151, 1), Ok(5_001));
    }

    #[test]
    fn a_clock_far_ahead_is_refused_at_the_origin() {
        let mut clock = HybridClock::new(MAX_CLOCK_AHEAD_NS + 2_000, 1_000, 0);
        assert_eq!(clock.take(0, 1), Err(Skew { ahead_ns: MAX_CLOCK_AHEAD_NS + 1_001 }));
        assert!(clock.take(2_000, 1).is_ok(), "time passed");
    }
}
