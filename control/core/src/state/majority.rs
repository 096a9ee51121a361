//! Who votes, and how many sites it takes.

use std::collections::BTreeSet;

use cfs_model::SiteId;

use super::{Site, State};
use crate::caps;

impl State {
    /// Who should vote. The number is odd, or 2 while the vote of a cluster of two moves. Sites that are known from before a
    /// forced recovery do not take part before they have joined this group.
    pub fn wanted_voters(&self) -> BTreeSet<SiteId> {
        let joined = |site: &&Site| site.node != 0;
        let witness: Vec<SiteId> =
            self.sites.values().filter(joined).filter(|site| site.witness).map(|site| site.id).collect();
        let mut data: Vec<SiteId> = self.data_sites().filter(joined).map(|site| site.id).collect();
        // The primary's vote first, then the order of numbers.
        data.sort_by_key(|id| (Some(*id) != self.primary, *id));
        match (data.len(), witness.first()) {
            (0, _) | (1, _) => data.into_iter().collect(),
            (2, Some(witness)) => data.into_iter().chain([*witness]).collect(),
            (2, None) => {
                let home = self.vote_home.filter(|home| data.contains(home)).or(self.primary);
                home.or_else(|| data.first().copied()).into_iter().collect()
            }
            (4, Some(witness)) => data.into_iter().chain([*witness]).collect(),
            (n, _) => {
                let odd = if n % 2 == 0 { n - 1 } else { n };
                data.into_iter().take(odd.min(caps::MAX_VOTERS)).collect()
            }
        }
    }

    /// Whether the primary role moves by itself, and if not, why.
    pub fn automatic(&self) -> Result<(), String> {
        if !self.auto_failover {
            return Err("automatic failover is switched off".to_owned());
        }
        let data = self.data_sites().count();
        if data < 2 {
            return Err("there is only one data site".to_owned());
        }
        if self.wanted_voters().len() < 3 {
            let absent: Vec<&str> =
                self.sites.values().filter(|site| site.node == 0).map(|site| site.name.as_str()).collect();
            if !absent.is_empty() {
                return Err(format!(
                    "not rejoined since the forced recovery: {}; until then one site votes alone, and nobody takes over from it",
                    absent.join(", ")
                ));
            }
            let primary = self.primary.map_or_else(|| "SITE".to_owned(), |id| self.name_of(id));
            return Err(format!(
                "there are two data sites and no witness: the loss of one leaves no majority. Add a witness: \
                 `cfs admin replication enroll --witness --primary {primary}` on it"
            ));
        }
        if self.open_split().is_some() {
            return Err(
                "another group acts for this cluster: see `cfs admin replication split-brain status`".to_owned()
            );
        }
        Ok(())
    }

    /// Whether an entry may have been acknowledged because of a copy at another site.
    pub fn promises_copies(&self) -> bool {
        self.promised > 0 || self.rules.iter().any(|rule| rule.copies > 0)
    }

    /// Whether these sealed sites, the old primary apart, miss nothing that was acknowledged: an acknowledged entry is at
    /// `copies` of a rule's other members, so of them all but `copies - 1` must have sealed. `Err` names those that did not.
    ///
    /// With local durability an acknowledged entry may be at the primary alone, and any seal is as good as another. While
    /// every data site appends, each is the primary of its own entries and counts as any other.
    pub fn seals_suffice(&self, sealed: &BTreeSet<SiteId>) -> Result<(), BTreeSet<SiteId>> {
        let mut missing = BTreeSet::new();
        for rule in &self.rules {
            let others: BTreeSet<SiteId> =
                rule.members.iter().filter(|id| Some(**id) != self.primary || self.is_shared()).copied().collect();
            let copies = [rule.copies, self.promised].into_iter().filter(|copies| *copies > 0).min();
            let Some(copies) = copies else { continue };
            let needed = (others.len() + usize::from(!self.is_shared())).saturating_sub(usize::from(copies));
            if others.intersection(sealed).count() < needed {
                missing.extend(others.difference(sealed));
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    }

    /// Whether these sites, the primary apart, hold between them everything that was acknowledged: every acknowledgement waited
    /// for other sites, and these cannot all lack what any of them waited for.
    pub fn hold_all_acknowledged(&self, heard: &BTreeSet<SiteId>) -> bool {
        let waited = !self.rules.is_empty() && self.rules.iter().all(|rule| rule.copies > 0);
        waited && self.seals_suffice(heard).is_ok()
    }
}
