//! Which epochs were opened, and for whom.

use std::collections::BTreeMap;

use cfs_model::{Epoch, SiteId};
use serde::{Deserialize, Serialize};

use crate::caps::MAX_OPENED_EPOCHS;

/// The history of `Open`. An epoch belongs to one site for ever, or to [`SiteId::EVERY`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History(BTreeMap<Epoch, SiteId>);

/// Two histories disagree: two groups of control processes act for the same epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("epoch {epoch} was opened for site number {here} as known here and for {there} as told")]
pub struct Contradiction {
    /// The epoch.
    pub epoch: Epoch,
    /// Its site as known here.
    pub here: SiteId,
    /// Its site as told.
    pub there: SiteId,
}

/// What the history says of a batch's epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was opened for that site.
    Opened,
    /// Not known yet: wait to be told.
    Unknown,
    /// It was opened for somebody else.
    OpenedFor(SiteId),
}

impl History {
    /// Adds what another knows. Changes nothing if the two contradict each other. The oldest epochs are dropped
    /// beyond [`MAX_OPENED_EPOCHS`].
    pub fn merge(&mut self, other: impl IntoIterator<Item = (Epoch, SiteId)>) -> Result<bool, Contradiction> {
        let mut merged = self.0.clone();
        for (epoch, there) in other {
            let here = *merged.entry(epoch).or_insert(there);
            if here != there {
                return Err(Contradiction { epoch, here, there });
            }
        }
        while merged.len() > MAX_OPENED_EPOCHS {
            merged.pop_first();
        }
        let changed = merged != self.0;
        self.0 = merged;
        Ok(changed)
    }

    /// Whether `site` may have appended in `epoch`. Epochs older than all that is kept are taken as opened.
    pub fn verdict(&self, epoch: Epoch, site: SiteId) -> Verdict {
        match self.0.get(&epoch) {
            Some(owner) if [site, SiteId::EVERY].contains(owner) => Verdict::Opened,
            Some(owner) => Verdict::OpenedFor(*owner),
            None if self.0.len() == MAX_OPENED_EPOCHS && self.0.first_key_value().is_some_and(|(e, _)| epoch < *e) => {
                Verdict::Opened
            }
            None => Verdict::Unknown,
        }
    }

    /// The epoch opened last, as far as is known here; `Epoch(0)`: none.
    pub fn newest(&self) -> Epoch {
        self.0.last_key_value().map_or(Epoch(0), |(epoch, _)| *epoch)
    }

    /// All that is known, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (Epoch, SiteId)> + '_ {
        self.0.iter().map(|(epoch, site)| (*epoch, *site))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_one_site() {
        let mut history = History::default();
        assert_eq!(history.merge([(Epoch(1), SiteId(1)), (Epoch(2), SiteId(2))]), Ok(true));
        assert_eq!(history.merge([(Epoch(2), SiteId(2))]), Ok(false));
        let contradiction = Contradiction { epoch: Epoch(2), here: SiteId(2), there: SiteId(1) };
        assert_eq!(history.merge([(Epoch(3), SiteId(1)), (Epoch(2), SiteId(1))]), Err(contradiction));
        assert_eq!(history.verdict(Epoch(3), SiteId(1)), Verdict::Unknown, "a contradiction changes nothing");
        assert_eq!(history.verdict(Epoch(1), SiteId(1)), Verdict::Opened);
        assert_eq!((history.newest(), History::default().newest()), (Epoch(2), Epoch(0)));
        assert_eq!(history.verdict(Epoch(1), SiteId(2)), Verdict::OpenedFor(SiteId(1)));
    }

    #[test]
    fn an_epoch_that_is_shared_stays_so() {
        let mut history = History::default();
        assert_eq!(history.merge([(Epoch(1), SiteId(1)), (Epoch(2), SiteId::EVERY)]), Ok(true));
        assert_eq!([1, 2, 200].map(|site| history.verdict(Epoch(2), SiteId(site))), [Verdict::Opened; 3]);
        assert_eq!(history.verdict(Epoch(1), SiteId(2)), Verdict::OpenedFor(SiteId(1)), "the epoch before is not");
        let contradiction = Contradiction { epoch: Epoch(2), here: SiteId::EVERY, there: SiteId(1) };
        assert_eq!(history.merge([(Epoch(2), SiteId(1))]), Err(contradiction));
    }

    #[test]
    fn the_history_is_bounded() {
        let mut history = History::default();
        let all = (1..=MAX_OPENED_EPOCHS as u64 + 5).map(|e| (Epoch(e), SiteId(1)));
        assert_eq!(history.merge(all), Ok(true));
        assert_eq!(history.iter().count(), MAX_OPENED_EPOCHS);
        assert_eq!(history.verdict(Epoch(2), SiteId(1)), Verdict::Opened, "too old to be known");
    }
}
