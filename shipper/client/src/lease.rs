//! Until when an acknowledgement can be believed.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cfs_rpc::clock::Clock;
use cfs_rpc::v1::AppendAck;

/// What a lease deadline says when there is none.
const NO_DEADLINE: u64 = u64::MAX;

/// Whether an acknowledgement still counts when it arrives.
pub(crate) struct Lease<'a> {
    clock: &'a dyn Clock,
    /// Over the network the shipper's clock cannot be read: an acknowledgement left later than what it acknowledges
    /// was sent, so a lease that had so much left then ends no earlier. When each message's last entry was sent.
    sent: Option<Mutex<VecDeque<(u64, Duration)>>>,
    began: Duration,
}

impl<'a> Lease<'a> {
    pub(crate) fn new(clock: &'a dyn Clock, local: bool) -> Self {
        Self { clock, sent: (!local).then(Mutex::default), began: clock.boot() }
    }

    pub(crate) fn sent(&self, last_seq: u64) {
        if let Some(sent) = &self.sent {
            sent.lock().unwrap_or_else(PoisonError::into_inner).push_back((last_seq, self.clock.boot()));
        }
    }

    pub(crate) fn is_over(&self, ack: &AppendAck) -> bool {
        if ack.lease_deadline_boot_ns == NO_DEADLINE {
            return false;
        }
        let now = self.clock.boot();
        let Some(sent) = &self.sent else { return now > Duration::from_nanos(ack.lease_deadline_boot_ns) };
        let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left_after = self.began;
        // The message that holds `through_seq` may be acknowledged in part: it stays.
        while let Some((last_seq, at)) = sent.front().copied() {
            if last_seq > ack.through_seq {
                break;
            }
            left_after = at;
            sent.pop_front();
        }
        now > left_after + Duration::from_nanos(ack.lease_left_ns)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::SystemTime;

    use super::*;

    #[derive(Default)]
    struct Manual(AtomicU64);

    impl Clock for Manual {
        fn boot(&self) -> Duration {
            Duration::from_nanos(self.0.load(Ordering::Relaxed))
        }
        fn wall(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }
    }

    fn ack(through_seq: u64, deadline: u64, left: u64) -> AppendAck {
        AppendAck { through_seq, lease_deadline_boot_ns: deadline, lease_left_ns: left, ..AppendAck::default() }
    }

    #[test]
    fn on_one_machine_the_deadline_itself_counts() {
        let clock = Manual::default();
        let lease = Lease::new(&clock, true);
        clock.0.store(100, Ordering::Relaxed);
        assert!(!lease.is_over(&ack(1, 100, 0)));
        assert!(lease.is_over(&ack(1, 99, 1000)));
        assert!(!lease.is_over(&ack(1, NO_DEADLINE, 0)));
    }

    /// An acknowledgement that lay in the network for longer than its lease had left must not count.
    #[test]
    fn over_the_network_time_counts_from_when_the_entry_was_sent() {
        let clock = Manual::default();
        let lease = Lease::new(&clock, false);
        clock.0.store(100, Ordering::Relaxed);
        lease.sent(5);
        clock.0.store(200, Ordering::Relaxed);
        lease.sent(9);
        clock.0.store(250, Ordering::Relaxed);
        assert!(lease.is_over(&ack(4, 0, 200)), "5 was not acknowledged yet: only hello is known to be before");
        assert!(!lease.is_over(&ack(5, 0, 150)));
        assert!(!lease.is_over(&ack(9, 0, 50)));
        assert!(lease.is_over(&ack(9, 0, 0)));
        assert!(!lease.is_over(&ack(9, NO_DEADLINE, 0)));
    }
}
