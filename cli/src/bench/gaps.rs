//! How long nothing was acknowledged, and by whom what was.

use std::time::{Duration, Instant};

use serde::Serialize;

/// Shorter gaps are not listed.
const LISTED: Duration = Duration::from_millis(100);
/// Gaps that are listed.
const MAX_LISTED: usize = 1000;

/// Who acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The site.
    pub site: String,
    /// Its epoch.
    pub epoch: u64,
}

/// A time in which nothing was acknowledged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gap {
    /// When it began: the last acknowledgement before it, in ms since 1970.
    pub began_unix_ms: u64,
    /// How long it was.
    pub ms: f64,
    /// Who gave the last acknowledgement before it.
    pub from: Place,
    /// Who gave the first one after it; null: none came.
    pub to: Option<Place>,
}

/// A site that acknowledged in one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Primary {
    /// The site and its epoch.
    #[serde(flatten)]
    pub place: Place,
    /// First acknowledgement, in ms since 1970.
    pub first_ack_unix_ms: u64,
    /// Last acknowledgement.
    pub last_ack_unix_ms: u64,
}

/// Watches acknowledgements.
#[derive(Debug)]
pub struct Gaps {
    /// A moment by both clocks.
    base: (Instant, u64),
    last: Option<(Instant, Place)>,
    /// The longest one.
    pub longest: Option<Gap>,
    /// Those over 100 ms, the first 1000 of them.
    pub listed: Vec<Gap>,
    /// Who acknowledged, in the order of first acknowledgements.
    pub primaries: Vec<Primary>,
}

impl Gaps {
    /// `now` is `unix_ms` since 1970.
    pub const fn new(now: Instant, unix_ms: u64) -> Self {
        Self { base: (now, unix_ms), last: None, longest: None, listed: Vec::new(), primaries: Vec::new() }
    }

    /// A moment in ms since 1970.
    pub fn unix_ms(&self, at: Instant) -> u64 {
        let (base, unix_ms) = self.base;
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        match at.checked_duration_since(base) {
            Some(after) => unix_ms.saturating_add(ms(after)),
            None => unix_ms.saturating_sub(ms(base.duration_since(at))),
        }
    }

    /// Something new was acknowledged. Acknowledgements of several producers may come slightly out of order.
    pub fn acknowledged(&mut self, at: Instant, place: &Place) {
        let unix_ms = self.unix_ms(at);
        match self.primaries.iter_mut().find(|primary| primary.place == *place) {
            Some(primary) => primary.last_ack_unix_ms = primary.last_ack_unix_ms.max(unix_ms),
            None => self.primaries.push(Primary {
                place: place.clone(),
                first_ack_unix_ms: unix_ms,
                last_ack_unix_ms: unix_ms,
            }),
        }
        let last = match self.last.take() {
            Some((last, from)) if at > last => {
                self.gap(last, at, &from, Some(place));
                at
            }
            Some((last, _)) => last,
            None => at,
        };
        self.last = Some((last, place.clone()));
    }

    /// Nothing more comes although entries wait.
    pub fn given_up(&mut self, at: Instant) {
        if let Some((last, from)) = self.last.take() {
            self.gap(last, at, &from, None);
        }
    }

    fn gap(&mut self, began: Instant, end: Instant, from: &Place, to: Option<&Place>) {
        let length = end.saturating_duration_since(began);
        let ms = length.as_secs_f64() * 1000.0;
        let longer = self.longest.as_ref().is_none_or(|longest| ms > longest.ms);
        let listed = length > LISTED && self.listed.len() < MAX_LISTED;
        if longer || listed {
            let gap = Gap { began_unix_ms: self.unix_ms(began), ms, from: from.clone(), to: to.cloned() };
            if listed {
                self.listed.push(gap.clone());
            }
            if longer {
                self.longest = Some(gap);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_lead_from_the_last_acknowledgement_to_the_next() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let place = |site: &str, epoch| Place { site: site.to_owned(), epoch };
        let (a, b) = (place("site-a", 1), place("site-b", 2));
        let mut gaps = Gaps::new(start, 1_000_000);
        for ms in [0, 5, 20] {
            gaps.acknowledged(after(ms), &a);
        }
        gaps.acknowledged(after(18), &a);
        assert!(gaps.listed.is_empty());
        gaps.acknowledged(after(1020), &b);
        gaps.acknowledged(after(1030), &b);
        let expected = Gap { began_unix_ms: 1_000_020, ms: 1000.0, from: a.clone(), to: Some(b.clone()) };
        assert_eq!((gaps.longest.as_ref(), gaps.listed.len()), (Some(&expected), 1));
        gaps.given_up(after(1200));
        assert_eq!(gaps.listed.last().map(|gap| (gap.ms, gap.to.clone())), Some((170.0, None)));
        let times: Vec<_> = gaps.primaries.iter().map(|p| (p.first_ack_unix_ms, p.last_ack_unix_ms)).collect();
        assert_eq!(times, [(1_000_000, 1_000_020), (1_001_020, 1_001_030)]);
    }
}
