//! How far a site's wall clock is from the leader's, for people.
//!
//! A report that was held up on its way, as behind a cut, seems to come from a clock that is behind. The boot clocks show it:
//! they keep their distance, so that a report whose boot clock seems to have fallen back has waited somewhere.

/// A report that took so much longer than another tells nothing of the clock.
const HELD_UP_MS: i64 = 50;
/// Boot clocks of two machines drift apart by less than one in so many.
const DRIFT: u64 = 500;
/// What was measured longer ago counts for nothing.
const AGE_MS: u64 = 10_000;

/// What a report tells of a site's clocks.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// The control process that sent it.
    pub instance: u64,
    /// Its boot clock.
    pub boot_ms: u64,
    /// Its wall clock, since 1970.
    pub wall_ms: i64,
}

/// A measurement that goes on.
#[derive(Debug, Clone, Copy)]
pub struct Skew {
    instance: u64,
    /// The smallest distance between the boot clocks: of the report that was quickest.
    distance_ms: i64,
    /// When the last report came, on the own boot clock.
    at_ms: u64,
    /// The skew, and when it was measured.
    measured: Option<(i64, u64)>,
}

impl Skew {
    /// The first report of a site. It may have been held up: it measures nothing by itself.
    pub fn new(report: Clocks, boot_ms: u64) -> Self {
        Self {
            instance: report.instance,
            distance_ms: distance_ms(boot_ms, report.boot_ms),
            at_ms: boot_ms,
            measured: None,
        }
    }

    /// Another report, taken when the own clocks showed this.
    pub fn heard(&mut self, report: Clocks, boot_ms: u64, wall_ms: i64) {
        if report.instance != self.instance {
            *self = Self::new(report, boot_ms);
            return;
        }
        let drift_ms = i64::try_from(boot_ms.saturating_sub(self.at_ms) / DRIFT + 1).unwrap_or(i64::MAX);
        let distance_ms = distance_ms(boot_ms, report.boot_ms);
        let late_ms = distance_ms.saturating_sub(self.distance_ms);
        self.at_ms = boot_ms;
        self.distance_ms = distance_ms.min(self.distance_ms.saturating_add(drift_ms));
        if late_ms < -HELD_UP_MS {
            // All before it were held up.
            self.measured = None;
        } else if late_ms <= HELD_UP_MS.saturating_add(drift_ms) {
            self.measured = Some((report.wall_ms.saturating_sub(wall_ms), boot_ms));
        }
    }

    /// How far the site's clock is ahead, in ms; `None`: not known now.
    pub fn ms(&self, boot_ms: u64) -> Option<i64> {
        self.measured.filter(|(_, at_ms)| boot_ms.saturating_sub(*at_ms) <= AGE_MS).map(|(skew_ms, _)| skew_ms)
    }
}

fn distance_ms(own_ms: u64, their_ms: u64) -> i64 {
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    signed(own_ms) - signed(their_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The own clocks at `sent + took`, of a site whose boot clock began 7 s later and whose wall clock is 3 ms ahead.
    fn hear(skew: &mut Option<Skew>, sent: u64, took: u64) -> Option<i64> {
        hear_of(skew, 1, sent, took)
    }

    fn hear_of(skew: &mut Option<Skew>, instance: u64, sent: u64, took: u64) -> Option<i64> {
        let wall = |boot_ms: u64| 1_000_000 + i64::try_from(boot_ms).expect("small");
        let report = Clocks { instance, boot_ms: sent - 7_000, wall_ms: wall(sent) + 3 };
        let now = sent + took;
        match skew {
            None => *skew = Some(Skew::new(report, now)),
            Some(skew) => skew.heard(report, now, wall(now)),
        }
        skew.and_then(|skew| skew.ms(now))
    }

    #[test]
    fn a_report_that_was_held_up_is_no_skew() {
        let mut skew = None;
        assert_eq!(hear(&mut skew, 10_000, 1), None, "one alone may have been held up");
        assert_eq!(hear(&mut skew, 10_250, 1), Some(2));
        assert_eq!(hear(&mut skew, 10_500, 6_000), Some(2), "it came through when a cut was healed");
        assert_eq!(hear(&mut skew, 16_600, 2), Some(1));
    }

    #[test]
    fn reports_that_were_all_held_up_measure_nothing_until_one_was_not() {
        let mut skew = None;
        for (sent, took) in [(10_000, 6_000), (11_000, 5_001), (12_000, 4_002), (16_100, 1)] {
            assert_eq!(hear(&mut skew, sent, took), None, "{sent}");
        }
        assert_eq!(hear(&mut skew, 16_400, 1), Some(2));
    }

    #[test]
    fn another_process_is_measured_anew_and_an_old_measurement_is_over() {
        let mut skew = None;
        hear(&mut skew, 10_000, 1);
        assert_eq!(hear(&mut skew, 10_250, 1), Some(2));
        assert_eq!(skew.and_then(|skew| skew.ms(10_251 + AGE_MS + 1)), None);
        assert_eq!(hear_of(&mut skew, 2, 11_000, 1), None);
        assert_eq!(hear_of(&mut skew, 2, 11_250, 1), Some(2));
    }

    #[test]
    fn drifting_boot_clocks_stay_measured() {
        let mut skew = Skew::new(Clocks { instance: 1, boot_ms: 0, wall_ms: 0 }, 0);
        // 0.1% slower, for a day.
        for step in 1..86_400 {
            let (own, their) = (step * 1_000, step * 999);
            let wall_ms = i64::try_from(own).expect("small");
            skew.heard(Clocks { instance: 1, boot_ms: their, wall_ms: wall_ms + 400 }, own, wall_ms);
            assert_eq!(skew.ms(own), Some(400), "{step}");
        }
    }
}
