//! One direction between two sites.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::dev::faults::Fault;

/// Bytes from one site to another, on all connections, whoever dialled them.
pub(super) struct Link {
    fault: watch::Sender<Fault>,
    /// When the line is free again, if it has a bandwidth.
    free_at: Mutex<Instant>,
}

impl Link {
    pub(super) fn new() -> Self {
        Self { fault: watch::Sender::new(Fault::default()), free_at: Mutex::new(Instant::now()) }
    }

    /// In force when this returns: what was not passed on by then obeys it.
    pub(super) fn set(&self, fault: Fault) {
        self.fault.send_if_modified(|current| std::mem::replace(current, fault) != fault);
    }

    pub(super) fn watch(&self) -> watch::Receiver<Fault> {
        self.fault.subscribe()
    }

    /// Takes the next free place on the line for so many bytes: they may go from the moment that is returned.
    pub(super) fn reserve(&self, bytes: usize, per_second: u64) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = (*free_at).max(Instant::now());
        *free_at = slot + Duration::from_secs_f64(bytes as f64 / per_second.max(1) as f64);
        slot
    }

    /// Waits as long as something takes that is sent now.
    pub(super) async fn pass(&self) {
        let sent = Instant::now();
        let mut watch = self.watch();
        loop {
            let fault = *watch.borrow_and_update();
            let due = sent + Duration::from_millis(fault.delay_ms);
            tokio::select! {
                () = tokio::time::sleep_until(due), if !fault.cut => return,
                // The sender lives in `self`.
                _ = watch.changed() => {}
            }
        }
    }
}

/// Waits until a connection could be made: both directions pass, which takes a round trip.
pub(super) async fn round_trip(there: &Link, back: &Link) {
    there.pass().await;
    back.pass().await;
    // A cut may have come meanwhile in the direction that passed first.
    while there.fault.borrow().cut {
        sleep(Duration::from_millis(10)).await;
    }
}
