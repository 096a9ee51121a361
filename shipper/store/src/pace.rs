//! Long work in small pieces, by a thread that nobody waits for.
//!
//! A thread that only has a lower priority still keeps its processor for a scheduler's slice of some milliseconds when another
//! one wakes, and an append wakes several on its way. One that pauses often is not in the way for longer than a piece takes.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// So long at a stretch.
const PIECE: Duration = Duration::from_micros(300);
/// Pause after each.
const PAUSE: Duration = Duration::from_millis(2);

thread_local! {
    /// When the present piece began; `None`: this thread works at full speed.
    static PIECE_BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs `work` on this thread; what it asks of a store row by row takes about eight times as long as otherwise, in pieces of
/// a third of a millisecond. Transactions stay open over the pauses.
pub fn gently<T>(work: impl FnOnce() -> T) -> T {
    PIECE_BEGAN.set(Some(Instant::now()));
    let done = work();
    PIECE_BEGAN.set(None);
    done
}

/// Between two rows: pauses if it is time.
pub(crate) fn breathe() {
    if PIECE_BEGAN.get().is_some_and(|began| began.elapsed() >= PIECE) {
        thread::sleep(PAUSE);
        PIECE_BEGAN.set(Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these calls paused.
    fn pauses(rows: u32) -> usize {
        let paused = |_: &u32| {
            thread::sleep(Duration::from_micros(100));
            let before = Instant::now();
            breathe();
            before.elapsed() >= PAUSE && PIECE_BEGAN.get().is_some()
        };
        (0..rows).filter(paused).count()
    }

    #[test]
    fn only_gentle_work_pauses() {
        assert_eq!(pauses(50), 0);
        let gentle = gently(|| pauses(50));
        assert!((5..=50).contains(&gentle), "{gentle}");
        assert_eq!(pauses(50), 0, "the next work is as fast as ever");
    }
}
