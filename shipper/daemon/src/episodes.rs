//! What goes wrong again and again for one reason is one episode, and counts once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// The same thing after a longer pause is another episode.
const PAUSE_NS: u64 = 60_000_000_000;
/// Episodes that are remembered. What comes while there are more counts each time.
const MOST: usize = 256;

/// Episodes that go on, by what they are, and when each was last seen, on the boot clock.
#[derive(Debug, Default)]
pub(crate) struct Episodes(Mutex<HashMap<String, u64>>);

impl Episodes {
    /// Notes that `what` has happened; whether an episode begins with it.
    pub(crate) fn begins(&self, what: String, now_ns: u64) -> bool {
        let mut going_on = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        going_on.retain(|_, last| now_ns.saturating_sub(*last) <= PAUSE_NS);
        if going_on.len() >= MOST && !going_on.contains_key(&what) {
            return true;
        }
        going_on.insert(what, now_ns).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_itself_is_one_episode() {
        let (episodes, second) = (Episodes::default(), 1_000_000_000);
        assert!(episodes.begins("a".into(), 0));
        assert!(!episodes.begins("a".into(), 50 * second) && !episodes.begins("a".into(), 100 * second));
        assert!(episodes.begins("b".into(), 100 * second), "another one");
        assert!(episodes.begins("a".into(), 161 * second), "it had ended");
        for number in 0..MOST {
            episodes.begins(number.to_string(), 161 * second);
        }
        assert!(
            episodes.begins("one too many".into(), 161 * second)
                && episodes.begins("one too many".into(), 161 * second)
        );
    }
}
