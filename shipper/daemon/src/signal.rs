//! "Something moved": wakes whoever waits, carries no data. What moved is read from the shared state.

use tokio::sync::watch;

/// A counter that can be waited for. Bumps that nobody saw collapse into one.
#[derive(Debug)]
pub(crate) struct Signal(watch::Sender<u64>);

impl Default for Signal {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Signal {
    /// Wakes everybody who waits. Never blocks.
    pub(crate) fn bump(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Sees every bump from now on.
    pub(crate) fn subscribe(&self) -> Waiter {
        Waiter(self.0.subscribe())
    }
}

/// One who waits for a [`Signal`].
#[derive(Debug, Clone)]
pub(crate) struct Waiter(watch::Receiver<u64>);

impl Waiter {
    /// Returns at once if the signal was bumped since the last call, otherwise when it is. Cancel-safe. Never returns
    /// once the signal is gone.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
