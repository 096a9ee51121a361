//! States that are told to the service manager. Telling never fails and never waits: one that does not listen is none.

use sd_notify::NotifyState;

/// The process serves. `status` is a line for people.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The process ends.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// The process reads its configuration again; [`ready`] ends that.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// A line for people: what the process does.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// The process is alive; see [`crate::Watchdog`].
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
