//! What a check has found, inode by inode.

use std::collections::{BTreeMap, BTreeSet};

use cfs_model::SiteName;
use cfs_rpc::v1;
use cfs_store::digest::bucket_of;
use cfs_store::verify::{Differing, Verified, wrong_here};

use super::MAX_NAMED;
use crate::descent::Difference;
use crate::node::Node;

/// Inodes whose registers are not what they should be.
#[derive(Debug, Default)]
pub(super) struct Findings {
    inodes: BTreeMap<u64, Found>,
    /// Those for which there was no more room.
    unnamed: u64,
    undecided: u64,
    damage_here: String,
    /// Buckets are wrong here, and nothing has led to their inodes yet.
    unlocated: bool,
    /// A comparison could not go down to inodes.
    failed: bool,
    /// Sites in whose store rows do not stand where their keys belong.
    disordered: BTreeSet<String>,
    /// Sites with which a comparison went down to inodes, this one included.
    compared: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Found {
    sites: BTreeSet<String>,
    damaged: BTreeSet<String>,
    why: String,
    /// The sum of this site's copy, where it is not known whose is right.
    here: Option<u128>,
    /// Sums of the copies that differ from it.
    copies: BTreeMap<String, u128>,
}

impl Found {
    /// Which copies are the same, when it is not known whose is right and some are: the way to take one of those.
    fn agreed(&self, inode: u64, own: &SiteName, compared: &BTreeSet<String>) -> Option<String> {
        let here = self.here.filter(|_| self.damaged.is_empty())?;
        let mut holders: BTreeMap<u128, Vec<&str>> = BTreeMap::from([(here, vec![own.as_str()])]);
        for site in compared.iter().filter(|site| *site != own.as_str()) {
            holders.entry(self.copies.get(site).copied().unwrap_or(here)).or_default().push(site);
        }
        let mut several = holders.values().filter(|sites| sites.len() > 1);
        let (Some(same), None) = (several.next(), several.next()) else { return None };
        let others: Vec<&str> = holders.values().filter(|sites| sites.len() == 1).flatten().copied().collect();
        let from = same.first()?;
        Some(format!(
            "; {} hold the same copy: `cfs admin replication resync --inode {inode} --from {from} --force` on {} takes it",
            same.join(" and "),
            others.join(" and ")
        ))
    }
}

impl Findings {
    /// The finding for an inode, if there is room for it.
    fn of(&mut self, inode: u64) -> Option<&mut Found> {
        if !self.inodes.contains_key(&inode) && self.inodes.len() >= MAX_NAMED {
            return None;
        }
        Some(self.inodes.entry(inode).or_default())
    }

    /// A site's own registers do not have the digest that it keeps.
    pub(super) fn damaged_here(&mut self, node: &Node, here: &Verified) {
        let site = node.site().to_string();
        self.unreadable(&site, here);
        self.compared.insert(site.clone());
        if here.is_sound() {
            return;
        }
        if here.misplaced > 0 {
            self.disordered.insert(site);
            self.unlocated = true;
            self.damage_here = misplaced(here);
            for inode in &here.astray {
                match self.of(*inode) {
                    Some(found) => {
                        found.damaged.insert(node.site().to_string());
                        found.why = "a row of it, or the one before, does not stand where its key belongs".to_owned();
                    }
                    None => self.unnamed += 1,
                }
            }
            return;
        }
        let buckets = here.wrong.len();
        self.damage_here = format!(
            "{buckets} of 1024 buckets of registers do not have the sum that was kept, {} registers do not decode",
            here.unreadable_count
        );
        // Until a peer is asked, only what does not decode has a name.
        let named: BTreeSet<u16> = here.unreadable.iter().map(|inode| bucket_of(*inode)).collect();
        self.unlocated |= here.wrong.iter().any(|bucket| !named.contains(bucket));
    }

    /// Whether rows of a site's store are not found where they belong.
    pub(super) fn is_disordered(&self, site: &str) -> bool {
        self.disordered.contains(site)
    }

    fn unreadable(&mut self, site: &str, verified: &Verified) {
        for inode in &verified.unreadable {
            match self.of(*inode) {
                Some(found) => {
                    found.damaged.insert(site.to_owned());
                    found.why = "a register does not decode".to_owned();
                }
                None => self.unnamed += 1,
            }
        }
    }

    /// What is derived of an inode is not what follows from its registers.
    pub(super) fn derived(&mut self, site: &str, inodes: &[u64], count: u64) {
        for inode in inodes {
            match self.of(*inode) {
                Some(found) => {
                    found.damaged.insert(site.to_owned());
                    if found.why.is_empty() {
                        found.why = "names, marks or index do not follow from the registers".to_owned();
                    }
                }
                None => self.unnamed += 1,
            }
        }
        self.unnamed += count.saturating_sub(inodes.len() as u64);
        if count > 0 && self.damage_here.is_empty() {
            self.damage_here = format!("{count} rows that are derived do not follow from the registers");
        }
    }

    /// What a comparison with one site found; makes its verdict say so. `unequal` are the buckets of which the two keep
    /// different sums.
    pub(super) fn compared(
        &mut self,
        own: &SiteName,
        (here, there): (&Verified, &Verified),
        unequal: &[u16],
        difference: Result<Difference, String>,
        verdict: &mut v1::SiteVerdict,
    ) {
        let site = verdict.site.clone();
        self.unreadable(&site, there);
        if there.misplaced > 0 {
            self.disordered.insert(site.clone());
        }
        let difference = match difference {
            Ok(difference) => {
                // It led to every inode in a bucket that is wrong here.
                self.unlocated = false;
                self.compared.insert(site.clone());
                if difference.count + difference.undecided == 0 && !here.wrong.is_empty() {
                    self.damage_here = format!(
                        "the registers are the same as those of {site}, but the digest that is kept is not theirs"
                    );
                }
                difference
            }
            Err(why) => {
                self.failed = true;
                // They were the same once, and nobody knows whether they are.
                if verdict.verdict == "MATCH" {
                    verdict.verdict = "NOT COMPARED".into();
                }
                verdict.why = join(&verdict.why, &format!("what differs could not be found: {why}"));
                Difference::default()
            }
        };
        for differing in &difference.inodes {
            let bucket = bucket_of(differing.inode);
            let wrong = (here.wrong.contains(&bucket), there.wrong.contains(&bucket));
            let judged = match wrong {
                (true, true) => both_wrong(here, unequal, &difference, differing),
                (here, there) => Some((here, there)),
            };
            let Some(found) = self.of(differing.inode) else {
                self.unnamed += 1;
                continue;
            };
            found.sites.insert(site.clone());
            found.copies.insert(site.clone(), differing.there);
            let why = match judged {
                Some((false, false)) => "the registers differ, and each site keeps a digest that fits its own",
                Some((here, there)) => {
                    found.damaged.extend(here.then(|| own.to_string()));
                    found.damaged.extend(there.then(|| site.clone()));
                    "the registers do not have the digest that was kept"
                }
                None => {
                    found.here = Some(differing.here);
                    "the registers differ, and both sites have damage in this inode or near it: whose copy is right is not \
                     known"
                }
            };
            if found.why.is_empty() {
                found.why = why.to_owned();
            }
        }
        self.unnamed += difference.count - difference.inodes.len() as u64;
        self.undecided = self.undecided.max(difference.undecided);
        let mut why = Vec::new();
        if there.misplaced > 0 {
            why.push(format!("{site}: {}", misplaced(there)));
        } else if !there.is_sound() {
            why.push(format!("the registers of {site} do not have the digest that it keeps: its file is damaged"));
        }
        if difference.count > 0 {
            why.push(format!("{} inodes differ", difference.count));
        }
        if !why.is_empty() {
            verdict.verdict = "DIFFER".into();
            verdict.why = why.join(", ");
        }
    }

    /// Puts the findings into the answer.
    pub(super) fn fill(self, own: &SiteName, reply: v1::ConsistencyReply) -> v1::ConsistencyReply {
        let count = self.inodes.len() as u64 + self.unnamed;
        let compared = self.compared;
        let differing = self.inodes.into_iter().map(|(inode, found)| v1::DifferingInode {
            inode,
            why: format!("{}{}", found.why, found.agreed(inode, own, &compared).unwrap_or_default()),
            sites: found.sites.into_iter().collect(),
            damaged: found.damaged.into_iter().collect(),
        });
        v1::ConsistencyReply {
            differing: differing.collect(),
            differing_count: count,
            undecided_count: self.undecided,
            damage_here: self.damage_here,
            names_complete: !self.unlocated && !self.failed && self.undecided == 0,
            disordered: self.disordered.into_iter().collect(),
            ..reply
        }
    }
}

/// What is said of a store in which rows are not found where they belong.
fn misplaced(store: &Verified) -> String {
    format!(
        "{} rows do not stand where their keys belong: near them nothing is found, and what is written goes astray",
        store.misplaced
    )
}

/// Of an inode in which two sites differ that are both damaged near it: whether the copy here is wrong, and whether the
/// other one is. `None` when the digest that both keep does not tell.
fn both_wrong(here: &Verified, unequal: &[u16], difference: &Difference, of: &Differing) -> Option<(bool, bool)> {
    let bucket = bucket_of(of.inode);
    let whole = difference.count == difference.inodes.len() as u64 && difference.undecided == 0;
    if !whole || unequal.contains(&bucket) {
        return None;
    }
    let there: Vec<Differing> = difference.inodes.iter().filter(|d| bucket_of(d.inode) == bucket).copied().collect();
    let is_here = wrong_here(here.excess_of(bucket), &there)?.contains(&of.inode);
    Some((is_here, !is_here))
}

fn join(first: &str, second: &str) -> String {
    if first.is_empty() { second.to_owned() } else { format!("{first}; {second}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(verdict: &str, difference: Result<Difference, String>) -> (v1::SiteVerdict, v1::ConsistencyReply) {
        let mut verdict =
            v1::SiteVerdict { site: "site-b".into(), verdict: verdict.into(), ..v1::SiteVerdict::default() };
        let mut findings = Findings::default();
        let (here, there) = (Verified::default(), Verified::default());
        findings.compared(&own(), (&here, &there), &[], difference, &mut verdict);
        (verdict, findings.fill(&own(), v1::ConsistencyReply::default()))
    }

    fn own() -> SiteName {
        SiteName::new("site-a").expect("a name")
    }

    /// What three sites say of inodes 2 and 3, which all are in one damaged bucket. This one's registers have `excess` too
    /// much.
    fn three(excess: u128, differences: [Vec<Differing>; 2]) -> Vec<v1::DifferingInode> {
        let here = Verified { wrong: vec![0], excess: vec![excess], ..Verified::default() };
        let mut findings = Findings::default();
        findings.compared.insert(own().to_string());
        for (site, inodes) in ["site-b", "site-c"].into_iter().zip(differences) {
            let mut verdict = v1::SiteVerdict { site: site.into(), ..v1::SiteVerdict::default() };
            let difference = Difference { count: inodes.len() as u64, inodes, ..Difference::default() };
            findings.compared(&own(), (&here, &here), &[], Ok(difference), &mut verdict);
        }
        findings.fill(&own(), v1::ConsistencyReply::default()).differing
    }

    fn differing(inode: u64, here: u128, there: u128) -> Differing {
        Differing { inode, here, there }
    }

    /// Two sites with damage in neighbours: of each inode the site is named whose copy is wrong, and not the other.
    #[test]
    fn of_damage_at_both_sites_no_more_is_said_than_is_known() {
        let known = three(4, [vec![differing(2, 9, 5), differing(3, 7, 8)], Vec::new()]);
        assert_eq!(known[0].damaged, ["site-a"], "{known:?}");
        assert_eq!(known[1].damaged, ["site-b"], "{known:?}");
        let unknown = three(1, [vec![differing(2, 9, 5)], vec![differing(2, 9, 6)]]);
        assert!(unknown[0].damaged.is_empty() && unknown[0].why.ends_with("is not known"), "{unknown:?}");
    }

    /// Where it is not known, a copy that two sites hold is proposed.
    #[test]
    fn a_copy_that_two_of_three_sites_hold_is_proposed() {
        let others = three(1, [vec![differing(2, 9, 5)], vec![differing(2, 9, 5)]]);
        assert!(others[0].why.contains("resync --inode 2 --from site-b --force` on site-a"), "{others:?}");
        let own = three(1, [vec![differing(2, 9, 5)], Vec::new()]);
        assert!(own[0].why.contains("resync --inode 2 --from site-a --force` on site-b"), "{own:?}");
    }

    #[test]
    fn a_store_out_of_order_is_to_be_rebuilt() {
        let there = Verified { misplaced: 2, ..Verified::default() };
        let mut verdict =
            v1::SiteVerdict { site: "site-b".into(), verdict: "MATCH".into(), ..v1::SiteVerdict::default() };
        let mut findings = Findings::default();
        let difference = Err("rows".to_owned());
        findings.compared(&own(), (&Verified::default(), &there), &[], difference, &mut verdict);
        assert!(verdict.verdict == "DIFFER" && verdict.why.contains("do not stand where"), "{verdict:?}");
        assert_eq!(findings.fill(&own(), v1::ConsistencyReply::default()).disordered, ["site-b"]);
    }

    /// Digests that were the same at some cursor are no proof once registers could not be looked at.
    #[test]
    fn what_could_not_be_looked_for_is_not_called_a_match() {
        let failed = || Err("the connection broke".to_owned());
        let (verdict, reply) = compared("MATCH", failed());
        assert_eq!(verdict.verdict, "NOT COMPARED");
        assert!(verdict.why.contains("could not be found: the connection broke"), "{verdict:?}");
        assert!(!reply.names_complete);
        // What differs differs all the same.
        let (verdict, reply) = compared("DIFFER", failed());
        assert!(verdict.verdict == "DIFFER" && verdict.why.contains("the connection broke"), "{verdict:?}");
        assert!(!reply.names_complete);

        let (verdict, reply) = compared("MATCH", Ok(Difference::default()));
        assert_eq!((verdict.verdict.as_str(), reply.names_complete), ("MATCH", true));
        let found = Difference { inodes: vec![differing(5, 1, 2)], count: 2, ..Difference::default() };
        let (verdict, reply) = compared("MATCH", Ok(found));
        assert_eq!((verdict.verdict.as_str(), reply.differing_count), ("DIFFER", 2));
    }
}
