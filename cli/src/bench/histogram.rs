//! A histogram of durations in bounded memory.

use std::time::Duration;

/// Values below this have a bucket of their own; above, each doubling has half as many buckets, so that a value is off
/// by less than one part in 32.
const STEPS: usize = 64;
const STEP_BITS: u32 = STEPS.ilog2();
/// Doublings above the first bucket group; reaches past 19 hours in microseconds.
const DOUBLINGS: usize = 31;

/// Durations, counted in buckets of growing width; one microsecond at the least.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; STEPS * (DOUBLINGS + 1)], total: 0, max_us: 0 }
    }
}

impl Histogram {
    /// Counts a duration `times` times.
    pub fn record(&mut self, duration: Duration, times: u64) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let last = self.counts.len() - 1;
        self.counts[bucket(us).min(last)] += times;
        self.total += times;
        self.max_us = self.max_us.max(us);
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max_us = self.max_us.max(other.max_us);
    }

    /// How many durations were counted.
    pub const fn count(&self) -> u64 {
        self.total
    }

    /// The duration in ms that a share `quantile` of all durations did not exceed; `None` if nothing was counted.
    pub fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        if self.total == 0 {
            return None;
        }
        let wanted = (self.total as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        let us = reached.map_or(self.max_us, |bucket| upper_end(bucket).min(self.max_us));
        Some(us as f64 / 1000.0)
    }

    /// The longest duration in ms; `None` if nothing was counted.
    pub fn max_ms(&self) -> Option<f64> {
        (self.total > 0).then(|| self.max_us as f64 / 1000.0)
    }
}

fn bucket(us: u64) -> usize {
    let doubling = (u64::BITS - us.leading_zeros()).saturating_sub(STEP_BITS);
    if doubling == 0 {
        return us as usize;
    }
    // The value's six highest bits tell the step; the first of them is set.
    let step = (us >> doubling) as usize - STEPS / 2;
    STEPS + (doubling as usize - 1) * (STEPS / 2) + step
}

/// The largest value in a bucket.
fn upper_end(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let doubling = (bucket - STEPS) / (STEPS / 2) + 1;
    let step = (bucket - STEPS) % (STEPS / 2) + STEPS / 2;
    ((step as u64 + 1) << doubling) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bucket_holds_its_values_closely(us in 0..1u64 << 36) {
            let end = upper_end(bucket(us));
            prop_assert!(end >= us && end - us <= us / (STEPS as u64 / 2), "{us} in the bucket up to {end}");
            prop_assert!(bucket(us) < STEPS * (DOUBLINGS + 1));
            prop_assert!(bucket(us) <= bucket(us + 1));
        }
    }

    #[test]
    fn quantiles_are_those_of_what_was_counted() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile_ms(0.5), histogram.max_ms()), (None, None));
        histogram.record(Duration::from_micros(50), 98);
        let mut slow = Histogram::default();
        slow.record(Duration::from_millis(20), 1);
        slow.record(Duration::from_secs(3), 1);
        histogram.merge(&slow);
        assert_eq!(histogram.count(), 100);
        assert_eq!(histogram.quantile_ms(0.5), Some(0.05));
        let p99 = histogram.quantile_ms(0.99).unwrap_or_default();
        assert!((20.0..20.7).contains(&p99), "{p99}");
        assert_eq!(histogram.max_ms(), Some(3000.0));
        assert_eq!(histogram.quantile_ms(1.0), Some(3000.0));
    }
}
