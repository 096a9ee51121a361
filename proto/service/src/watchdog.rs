//! Signs of life for a service manager that restarts what gives none.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::manager;

/// Gives signs of life, no more often than is asked for. Call it from the work that shows that the process does its duty,
/// never from a timer of its own.
#[derive(Debug)]
pub struct Watchdog {
    /// `None`: nobody asks.
    every_ms: Option<u64>,
    told_at_ms: AtomicU64,
}

impl Watchdog {
    /// As the service manager asks of this process (`WatchdogSec=`): three signs of life in that time.
    pub fn of_environment() -> Self {
        Self::within(sd_notify::watchdog_enabled())
    }

    fn within(limit: Option<Duration>) -> Self {
        let every_ms = limit.map(|limit| u64::try_from(limit.as_millis() / 3).unwrap_or(u64::MAX).max(1));
        Self { every_ms, told_at_ms: AtomicU64::new(0) }
    }

    /// How often a sign of life is due; `None`: nobody asks.
    pub fn interval(&self) -> Option<Duration> {
        self.every_ms.map(Duration::from_millis)
    }

    /// The work goes on, at this time of a clock that never goes back. Cheap enough for each piece of work.
    pub fn alive(&self, now_ms: u64) {
        if self.is_due(now_ms) {
            manager::alive();
        }
    }

    fn is_due(&self, now_ms: u64) -> bool {
        let Some(every_ms) = self.every_ms else { return false };
        let told = self.told_at_ms.load(Ordering::Relaxed);
        let due = told == 0 || now_ms.saturating_sub(told) >= every_ms;
        due && self.told_at_ms.compare_exchange(told, now_ms.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_are_given_three_times_in_the_limit_and_only_while_work_goes_on() {
        let watchdog = Watchdog::within(Some(Duration::from_secs(30)));
        assert!(watchdog.is_due(5), "the first piece of work");
        assert!(!watchdog.is_due(5) && !watchdog.is_due(10_004));
        assert!(watchdog.is_due(10_005));
        assert!(!watchdog.is_due(10_006));
        assert!(watchdog.is_due(90_000), "after a long silence");
    }

    #[test]
    fn nobody_asks() {
        assert!(!Watchdog::within(None).is_due(1));
        assert_eq!(Watchdog::within(None).interval(), None);
    }
}
