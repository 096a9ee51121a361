//! When an append may be acknowledged.

use std::collections::{BTreeMap, VecDeque};

use cfs_model::{Lsn, SiteId};

/// Who counts for an acknowledgement: this site and so many other members. All rules in force apply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// Grows with every change of the rules.
    pub id: u64,
    /// Other members that must hold an entry.
    pub copies: usize,
    /// The sites that count, the primary's among them.
    pub members: Vec<SiteId>,
}

impl Rule {
    /// How far `copies` other members hold the own stream; `None` if fewer count at all.
    fn held(&self, own: SiteId, copies: usize, others: &BTreeMap<SiteId, Lsn>) -> Option<Lsn> {
        if copies == 0 {
            return Some(Lsn(u64::MAX));
        }
        let members = self.members.iter().filter(|member| **member != own);
        let mut held: Vec<Lsn> = members.filter_map(|member| others.get(member).copied()).collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        held.get(copies - 1).copied()
    }

    /// The same where nobody knows what was asked for, but that it was not less than `promised`. Nothing of that was
    /// acknowledged under a rule with fewer members.
    fn held_as_promised(&self, own: SiteId, promised: usize, others: &BTreeMap<SiteId, Lsn>) -> Option<Lsn> {
        let possible = self.members.iter().filter(|member| **member != own).count() >= promised;
        self.held(own, if possible { self.copies.max(promised) } else { self.copies }, others)
    }
}

/// How far the own stream is acknowledged: what is durable here and, for every rule, at the rule's number of other
/// members, or at `asked` of them if that is more. `None` if nothing is, not even what an older stream holds.
///
/// `others` holds the durable position of each other site that counts; one whose floor is above the current epoch does
/// not, nor one that lacks what was applied here when the epoch was opened. Without a rule only `asked = 0` is acknowledged.
pub fn acknowledged(
    durable_here: Lsn,
    own: SiteId,
    rules: &[Rule],
    asked: usize,
    others: &BTreeMap<SiteId, Lsn>,
) -> Option<Lsn> {
    if rules.is_empty() && asked > 0 {
        return None;
    }
    rules.iter().try_fold(durable_here, |through, rule| {
        rule.held(own, rule.copies.max(asked), others).map(|held| through.min(held))
    })
}

/// What was acknowledged in one epoch, by the number of copies that was asked for.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Something may have been acknowledged in the same epoch by an earlier process or in an earlier incarnation; of
    /// the present stream, up to here.
    before: Option<Lsn>,
    furthest: BTreeMap<usize, Lsn>,
}

impl Given {
    /// Nothing yet by this process. `before`: others may have acknowledged in the same epoch, of this stream up to there.
    pub const fn after(before: Option<Lsn>) -> Self {
        Self { before, furthest: BTreeMap::new() }
    }

    /// Everything up to `lsn` is acknowledged to somebody who asked for `asked` copies.
    pub fn record(&mut self, asked: usize, lsn: Lsn) {
        let furthest = self.furthest.entry(asked).or_default();
        *furthest = lsn.max(*furthest);
    }

    /// The highest rule such that everything given meets it and all earlier ones; 0: none. `promised` is the smallest
    /// number of copies that may have been asked for; 0: nobody asked for any.
    pub fn confirmed(&self, own: SiteId, rules: &[Rule], promised: usize, others: &BTreeMap<SiteId, Lsn>) -> u64 {
        let meets = |rule: &&Rule| {
            let held = |asked: usize| rule.held(own, rule.copies.max(asked), others).unwrap_or_default();
            self.before
                .is_none_or(|before| rule.held_as_promised(own, promised, others).is_some_and(|lsn| lsn >= before))
                && self.furthest.iter().all(|(asked, lsn)| *lsn == Lsn::ZERO || held(*asked) >= *lsn)
        };
        let mut sorted: Vec<&Rule> = rules.iter().collect();
        sorted.sort_unstable_by_key(|rule| rule.id);
        sorted.into_iter().take_while(meets).last().map_or(0, |rule| rule.id)
    }
}

/// The acks that one session owes, in the order of LSNs; they leave in that order.
#[derive(Debug, Default)]
pub struct Owed(VecDeque<(u64, Lsn)>);

impl Owed {
    /// Everything up to `seq` is in the stream at `lsn` or before.
    pub fn push(&mut self, seq: u64, lsn: Lsn) {
        match self.0.back_mut() {
            Some(last) if last.1 >= lsn => last.0 = last.0.max(seq),
            _ => self.0.push_back((seq, lsn)),
        }
    }

    /// Takes all that `acknowledged` covers: the highest sequence and its LSN.
    pub fn take(&mut self, acknowledged: Lsn) -> Option<(u64, Lsn)> {
        let covered = self.0.partition_point(|(_, lsn)| *lsn <= acknowledged);
        self.0.drain(..covered).next_back()
    }

    /// Whether no ack is owed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
#[path = "ack_tests.rs"]
mod tests;
