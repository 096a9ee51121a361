//! What a check has found, inode by inode.

use std::collections::{BTreeMap, BTreeSet};

use cfs_model::SiteName;
use cfs_rpc::v1;
use cfs_store::digest::bucket_of;
use cfs_store::verify::Verified;

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
}

#[derive(Debug, Default)]
struct Found {
    sites: BTreeSet<String>,
    damaged: BTreeSet<String>,
    why: String,
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
        self.unreadable(&node.site().to_string(), here);
        if here.is_sound() {
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

    /// What a comparison with one site found; makes its verdict say so.
    pub(super) fn compared(
        &mut self,
        own: &SiteName,
        (here, there): (&Verified, &Verified),
        difference: Result<Difference, String>,
        verdict: &mut v1::SiteVerdict,
    ) {
        let site = verdict.site.clone();
        self.unreadable(&site, there);
        let difference = match difference {
            Ok(difference) => {
                // It led to every inode in a bucket that is wrong here.
                self.unlocated = false;
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
        for inode in &difference.inodes {
            let bucket = bucket_of(*inode);
            let (here, there) = (here.wrong.contains(&bucket), there.wrong.contains(&bucket));
            let Some(found) = self.of(*inode) else {
                self.unnamed += 1;
                continue;
            };
            found.sites.insert(site.clone());
            if here {
                found.damaged.insert(own.to_string());
            }
            if there {
                found.damaged.insert(site.clone());
            }
            if found.why.is_empty() {
                found.why = match (here, there) {
                    (false, false) => "the registers differ, and each site keeps a digest that fits its own",
                    _ => "the registers do not have the digest that was kept",
                }
                .to_owned();
            }
        }
        self.unnamed += difference.count - difference.inodes.len() as u64;
        self.undecided = self.undecided.max(difference.undecided);
        let mut why = Vec::new();
        if !there.is_sound() {
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
    pub(super) fn fill(self, reply: v1::ConsistencyReply) -> v1::ConsistencyReply {
        let count = self.inodes.len() as u64 + self.unnamed;
        let differing = self.inodes.into_iter().map(|(inode, found)| v1::DifferingInode {
            inode,
            sites: found.sites.into_iter().collect(),
            damaged: found.damaged.into_iter().collect(),
            why: found.why,
        });
        v1::ConsistencyReply {
            differing: differing.collect(),
            differing_count: count,
            undecided_count: self.undecided,
            damage_here: self.damage_here,
            names_complete: !self.unlocated && !self.failed && self.undecided == 0,
            ..reply
        }
    }
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
        findings.compared(&SiteName::new("site-a").expect("a name"), (&here, &there), difference, &mut verdict);
        (verdict, findings.fill(v1::ConsistencyReply::default()))
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
        let found = Difference { inodes: vec![5], count: 2, ..Difference::default() };
        let (verdict, reply) = compared("MATCH", Ok(found));
        assert_eq!((verdict.verdict.as_str(), reply.differing_count), ("DIFFER", 2));
    }
}
