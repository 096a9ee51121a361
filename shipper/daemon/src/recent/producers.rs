//! How much each producer appends. Pure.

use std::collections::HashMap;

use bytes::Bytes;
use cfs_service::Window;

use super::{RATE_SPAN_MS, rate};

/// As many as may be connected; of more, those that were silent for longest are forgotten.
const MAX_PRODUCERS: usize = 1024;
/// The busiest that are told.
const MAX_TOLD: usize = 32;
/// One that appends nothing for so long is forgotten.
const SILENT_MS: u64 = 10 * 60_000;

/// Producers that appended lately.
#[derive(Debug, Default)]
pub(super) struct Producers(HashMap<Bytes, Producer>);

#[derive(Debug)]
struct Producer {
    entries: u64,
    /// When it last appended.
    at_ms: u64,
    window: Window,
}

impl Producers {
    /// Entries of a producer were admitted, those apart that were held already.
    pub(super) fn admitted(&mut self, name: &Bytes, entries: u64, now_ms: u64) {
        if entries == 0 {
            return;
        }
        if let Some(producer) = self.0.get_mut(name) {
            producer.entries += entries;
            producer.at_ms = now_ms;
            return;
        }
        if self.0.len() >= MAX_PRODUCERS {
            let longest = self.0.iter().min_by_key(|(_, producer)| producer.at_ms).map(|(name, _)| name.clone());
            if let Some(longest) = longest {
                self.0.remove(&longest);
            }
        }
        let mut window = rate();
        // Before, it appended nothing.
        window.note(now_ms.saturating_sub(RATE_SPAN_MS), 0.0);
        self.0.insert(name.clone(), Producer { entries, at_ms: now_ms, window });
    }

    pub(super) fn look(&mut self, now_ms: u64) {
        self.0.retain(|_, producer| producer.at_ms + SILENT_MS > now_ms);
        for producer in self.0.values_mut() {
            producer.window.note(now_ms, producer.entries as f64);
        }
    }

    /// Names and entries a second, the busiest first, then those that appended last.
    pub(super) fn busiest(&self, now_ms: u64) -> Vec<(String, f64)> {
        let rate = |(name, producer): (&Bytes, &Producer)| {
            let rate = producer.window.per_second(now_ms, producer.entries as f64)?;
            Some((String::from_utf8_lossy(name).into_owned(), rate, producer.at_ms))
        };
        let mut all: Vec<_> = self.0.iter().filter_map(rate).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.2.cmp(&a.2)).then(a.0.cmp(&b.0)));
        all.truncate(MAX_TOLD);
        all.into_iter().map(|(name, rate, _)| (name, rate)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> Bytes {
        Bytes::from(format!("p{number:05}"))
    }

    #[test]
    fn the_busiest_come_first_and_no_more_than_some() {
        let mut producers = Producers::default();
        for number in 0..40 {
            producers.admitted(&name(number), number + 1, 0);
        }
        assert!(producers.busiest(500).is_empty(), "the first half second tells nothing");
        producers.look(2_000);
        let told = producers.busiest(2_000);
        assert_eq!((told.len(), told[0].clone(), told[1].1), (MAX_TOLD, ("p00039".into(), 20.0), 19.5));
        // What was appended counts for ten seconds.
        for second in 3..=13 {
            producers.look(second * 1000);
        }
        assert!(producers.busiest(13_000).iter().all(|(_, rate)| *rate == 0.0));
        producers.look(SILENT_MS);
        assert!(producers.busiest(SILENT_MS).is_empty(), "they are forgotten");
    }

    #[test]
    fn many_producers_take_the_room_of_some() {
        let mut producers = Producers::default();
        for number in 0..10_000 {
            producers.admitted(&name(number), 1, number);
            producers.admitted(&name(0), 1, number);
            assert!(producers.0.len() <= MAX_PRODUCERS);
        }
        assert!(producers.0.contains_key(&name(0)), "one that goes on appending stays");
        assert!(!producers.0.contains_key(&name(1)) && producers.0.contains_key(&name(9_999)));
        producers.admitted(&name(20_000), 0, 10_000);
        assert!(!producers.0.contains_key(&name(20_000)), "it appended nothing new");
    }
}
