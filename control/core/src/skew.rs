//! How far another site is away, in wall clock and in time, for people.
//!
//! Every exchange tells the other's wall clock somewhere between question and answer: taken for the middle of both, it is wrong
//! by half the round trip at most. Of the last exchanges the quickest one counts (RFC 5905, §10: the clock filter).

use std::collections::VecDeque;

/// So many of the last exchanges are kept.
const KEPT: usize = 8;
/// What was measured longer ago counts for nothing.
const AGE_MS: u64 = 15_000;

/// Exchanges with one other site.
#[derive(Debug, Clone, Default)]
pub struct Exchanges(VecDeque<Exchange>);

#[derive(Debug, Clone, Copy)]
struct Exchange {
    at_ms: u64,
    round_trip_us: u64,
    ahead_ms: i64,
}

impl Exchanges {
    /// An exchange that ended at `at_ms` on the boot clock and took so long; it began at `sent_wall_ms` on the own wall clock,
    /// and the other's wall clock was told with the answer.
    pub fn note(&mut self, at_ms: u64, round_trip_us: u64, sent_wall_ms: u64, their_wall_ms: u64) {
        let middle_ms = sent_wall_ms.saturating_add(round_trip_us / 2000);
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        let ahead_ms = signed(their_wall_ms) - signed(middle_ms);
        self.0.push_back(Exchange { at_ms, round_trip_us, ahead_ms });
    }

    fn quickest(&self, now_ms: u64) -> Option<&Exchange> {
        let recent = self.0.iter().filter(|one| now_ms.saturating_sub(one.at_ms) <= AGE_MS);
        recent.min_by_key(|one| one.round_trip_us)
    }

    /// How far the other's wall clock is ahead, in ms; `None`: not known now.
    pub fn ahead_ms(&self, now_ms: u64) -> Option<i64> {
        self.quickest(now_ms).map(|one| one.ahead_ms)
    }

    /// The shortest of the last round trips, in µs; `None`: not known now.
    pub fn round_trip_us(&self, now_ms: u64) -> Option<u64> {
        self.quickest(now_ms).map(|one| one.round_trip_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An exchange at `at_ms`, on the own wall clock 1000 ms more, with a clock that is 600 ms ahead: the answer is written
    /// `there_us` after the question.
    fn note(exchanges: &mut Exchanges, at_ms: u64, there_us: u64, back_us: u64) {
        let took_us = there_us + back_us;
        let sent_wall_ms = at_ms + 1000 - took_us / 1000;
        exchanges.note(at_ms, took_us, sent_wall_ms, sent_wall_ms + there_us / 1000 + 600);
    }

    #[test]
    fn the_quickest_exchange_of_late_counts() {
        let mut exchanges = Exchanges::default();
        assert_eq!((exchanges.ahead_ms(0), exchanges.round_trip_us(0)), (None, None));
        note(&mut exchanges, 10_000, 80_000, 80_000);
        assert_eq!((exchanges.ahead_ms(10_000), exchanges.round_trip_us(10_000)), (Some(600), Some(160_000)));
        // Held up on its way back: it says less than the one before.
        note(&mut exchanges, 12_500, 80_000, 900_000);
        assert_eq!(exchanges.ahead_ms(12_500), Some(600));
        // The link is slower from now on: what was measured before is forgotten in time.
        for step in 0..8 {
            note(&mut exchanges, 20_000 + step * 2500, 200_000, 200_000);
        }
        assert_eq!((exchanges.ahead_ms(37_500), exchanges.round_trip_us(37_500)), (Some(600), Some(400_000)));
        assert_eq!(exchanges.ahead_ms(37_500 + AGE_MS + 1), None);
        assert_eq!(exchanges.0.len(), KEPT);
    }
}
