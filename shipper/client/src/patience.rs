//! Whether a producer gets on, and how long it may go on without.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cfs_model::Epoch;
use cfs_rpc::v1::RoleState;
use tokio::time::Instant;

use crate::error::Fatal;
use crate::options::Options;
use crate::shared::Shared;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// After so long without getting on, the reason is told, and so long apart at least.
const TELL_AFTER: Duration = Duration::from_secs(3);

/// How far a producer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    /// A site took hello, and its session goes on.
    in_session: bool,
    /// Entries acknowledged or refused.
    settled: u64,
    /// Entries that wait for that.
    waiting: usize,
}

/// Since when nothing has moved.
struct Stillness {
    since: Option<Instant>,
    settled: u64,
}

impl Stillness {
    /// For how long now nothing has moved that should.
    fn look(&mut self, now: Instant, progress: Progress) -> Duration {
        let moves = progress.settled != self.settled || (progress.in_session && progress.waiting == 0);
        self.settled = progress.settled;
        if moves {
            self.since = None;
            return Duration::ZERO;
        }
        now.duration_since(*self.since.get_or_insert(now))
    }
}

/// Tells why nothing moves, and returns once that has lasted for as long as the options allow.
pub(crate) async fn run_out(shared: Arc<Shared>, options: Options) -> Fatal {
    let limit = options.give_up_after;
    let mut stillness = Stillness { since: Some(Instant::now()), settled: 0 };
    let mut told: Option<(Instant, String)> = None;
    loop {
        tokio::time::sleep(limit.map_or(LOOK, |limit| LOOK.min(limit / 4).max(Duration::from_millis(1)))).await;
        let now = Instant::now();
        let progress = progress(&shared);
        let still = stillness.look(now, progress);
        if still.is_zero() {
            told = None;
        }
        if let Some(limit) = limit
            && still >= limit
        {
            return Fatal::GaveUp { after: limit, why: reason(&shared, progress) };
        }
        if let Some(tell) = &options.on_wait
            && still >= TELL_AFTER
        {
            let why = reason(&shared, progress);
            if told.as_ref().is_none_or(|(at, last)| *last != why && now.duration_since(*at) >= TELL_AFTER) {
                tell(&why);
                told = Some((now, why));
            }
        }
    }
}

fn progress(shared: &Shared) -> Progress {
    let in_flight = shared.lock();
    Progress {
        in_session: shared.in_session.load(Ordering::Relaxed),
        settled: in_flight.settled_entries(),
        waiting: in_flight.waiting(),
    }
}

/// Why nothing moves.
fn reason(shared: &Shared, progress: Progress) -> String {
    if progress.in_session { in_session(&shared.role.borrow(), progress.waiting) } else { shared.interruption() }
}

/// Why a site that took hello acknowledges nothing.
fn in_session(role: &RoleState, waiting: usize) -> String {
    let RoleState { site, primary, epoch, .. } = role;
    if role.accepting {
        let epoch = Epoch(*epoch);
        format!(
            "{site} is primary in epoch {epoch} and acknowledges nothing, {waiting} entries wait: their durability is not reached"
        )
    } else if !role.waiting_for.is_empty() {
        format!("{site} takes no appends, it waits for {}", role.waiting_for)
    } else if primary.is_empty() || primary == site {
        format!("{site} takes no appends and knows no primary")
    } else {
        format!("{site} is not primary, {primary} is")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_or_waits_for_nothing_is_never_still() {
        let began = Instant::now();
        let mut stillness = Stillness { since: Some(began), settled: 0 };
        let mut look = |seconds, in_session, settled, waiting| {
            let progress = Progress { in_session, settled, waiting };
            stillness.look(began + Duration::from_secs(seconds), progress).as_secs()
        };
        assert_eq!(look(2, false, 0, 0), 2, "no site was found yet");
        assert_eq!(look(3, true, 0, 0), 0, "nothing waits");
        assert_eq!(look(4, true, 0, 1), 0, "it has just begun to wait");
        assert_eq!(look(9, true, 0, 1), 5, "a session without an acknowledgement");
        assert_eq!(look(10, true, 7, 5), 0, "acknowledged");
        assert_eq!(look(11, false, 7, 0), 0);
        assert_eq!(look(14, false, 7, 0), 3, "no site takes appends, though nothing waits");
        assert_eq!(look(15, true, 7, 2), 4, "hello alone is no acknowledgement");
    }

    #[test]
    fn the_reason_is_what_the_site_says() {
        let role = |primary: &str, accepting, waiting_for: &str| RoleState {
            site: "site-a".into(),
            primary: primary.into(),
            epoch: 7,
            accepting,
            waiting_for: waiting_for.into(),
            ..RoleState::default()
        };
        let durability = in_session(&role("site-a", true, ""), 3);
        assert!(
            durability.contains("site-a is primary in epoch 7") && durability.contains("3 entries"),
            "{durability}"
        );
        for (role, reason) in [
            (role("site-a", false, "a lease"), "site-a takes no appends, it waits for a lease"),
            (role("", false, ""), "site-a takes no appends and knows no primary"),
            (role("site-b", false, ""), "site-a is not primary, site-b is"),
        ] {
            assert_eq!(in_session(&role, 1), reason);
        }
    }
}
