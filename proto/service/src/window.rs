//! How fast a counter grew of late. Pure.

use std::collections::VecDeque;

/// Values of a counter over a span of time.
#[derive(Debug)]
pub struct Window {
    span_ms: u64,
    step_ms: u64,
    /// (when, value), the oldest first: that of the span's beginning, and those since.
    seen: VecDeque<(u64, f64)>,
}

impl Window {
    /// Over the last `span_ms`, with a value every `step_ms` at most: `span_ms / step_ms + 2` of them are kept.
    pub const fn new(span_ms: u64, step_ms: u64) -> Self {
        Self { span_ms, step_ms, seen: VecDeque::new() }
    }

    /// Takes note of the counter's value.
    pub fn note(&mut self, now_ms: u64, value: f64) {
        if self.seen.back().is_some_and(|(at, _)| now_ms < at + self.step_ms) {
            return;
        }
        self.seen.push_back((now_ms, value));
        while self.seen.get(1).is_some_and(|(at, _)| at + self.span_ms <= now_ms) {
            self.seen.pop_front();
        }
    }

    /// By how much it grew within the span, or since the first note if that is later. `None` before that.
    pub fn growth(&self, now_ms: u64, value: f64) -> Option<f64> {
        Some((value - self.base(now_ms)?.1).max(0.0))
    }

    /// The same for each second; `None` in the first second, which tells nothing.
    pub fn per_second(&self, now_ms: u64, value: f64) -> Option<f64> {
        let elapsed_ms = now_ms.saturating_sub(self.base(now_ms)?.0);
        (elapsed_ms >= 1000).then_some(self.growth(now_ms, value)? * 1000.0 / elapsed_ms as f64)
    }

    /// The value that growth counts from.
    fn base(&self, now_ms: u64) -> Option<(u64, f64)> {
        let old = self.seen.iter().rev().find(|(at, _)| at + self.span_ms <= now_ms);
        old.or(self.seen.front()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_the_span() {
        let mut window = Window::new(10_000, 1_000);
        assert_eq!(window.growth(0, 5.0), None);
        for second in 0..100u64 {
            window.note(second * 1000, second as f64 * 3.0);
            assert!(window.seen.len() <= 12, "{}", window.seen.len());
        }
        assert_eq!(window.growth(99_000, 297.0), Some(30.0));
        assert_eq!(window.per_second(99_000, 297.0), Some(3.0));
        // Nobody looked for a while: it is the time since the last look that counts.
        assert_eq!(window.growth(200_000, 400.0), Some(103.0));
        assert_eq!(window.per_second(200_000, 398.0), Some(1.0));
    }

    #[test]
    fn a_young_counter_is_counted_from_its_start() {
        let mut window = Window::new(300_000, 10_000);
        window.note(5_000, 0.0);
        window.note(5_100, 7.0);
        assert_eq!((window.growth(5_900, 2.0), window.per_second(5_900, 2.0)), (Some(2.0), None));
        assert_eq!(window.per_second(9_000, 2.0), Some(0.5));
        // A counter that begins again has not shrunk.
        assert_eq!(window.growth(9_000, -1.0), Some(0.0));
    }
}
