//! What leads out where sites are fenced: for a newer generation, or because an operator sealed them for another site. Whatever
//! was typed where, and in whatever order, every site names a command that works at the site for which it is named.

use std::collections::BTreeSet;

use cfs_model::Epoch;

/// A site, as it is known where the operator looks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stand {
    /// Its name.
    pub name: String,
    /// Its group; 0: it is in none.
    pub group: u64,
    /// The epoch that its group opened last.
    pub epoch: Epoch,
    /// Who is primary in its group; empty: nobody.
    pub primary: String,
    /// For whom an operator sealed it, and when by its wall clock.
    pub sealed: Option<(String, u64)>,
    /// It only votes.
    pub witness: bool,
    /// It does not answer: all of this is as it was last heard.
    pub silent: bool,
}

/// The command that makes a site primary without a majority, or against another side. It is given at that site.
pub fn force(site: &str) -> String {
    format!("on {site}: cfs admin replication failover --force --to {site}")
}

fn find<'a>(sites: &'a [Stand], name: &str) -> Option<&'a Stand> {
    sites.iter().find(|site| site.name == name)
}

fn sealed<'a>(sites: &'a [Stand], name: &str) -> Option<&'a (String, u64)> {
    find(sites, name)?.sealed.as_ref()
}

/// Whom operators want to be primary instead of `name`: the end of the chain of seals that begins there. Where sites were
/// sealed for each other in a circle, the last word counts.
fn wanted<'a>(sites: &'a [Stand], name: &'a str) -> &'a str {
    let (mut chain, mut seen) = (vec![name], BTreeSet::from([name]));
    while let Some((target, _)) = chain.last().and_then(|last| sealed(sites, last)) {
        if !seen.insert(target.as_str()) {
            let start = chain.iter().position(|site| *site == target.as_str()).unwrap_or(0);
            let said = chain.split_off(start);
            // The same at every site, also when two words were given within a millisecond.
            let last = said.into_iter().max_by_key(|site| (sealed(sites, site).map(|(_, at_ms)| *at_ms), *site));
            return last.and_then(|site| sealed(sites, site)).map_or(name, |(target, _)| target);
        }
        chain.push(target);
    }
    chain.last().copied().unwrap_or(name)
}

/// Makes `target` primary; if it is silent, or could not be, `here` as well.
fn force_or_here(here: &Stand, target: &str, sites: &[Stand]) -> String {
    let there = find(sites, target);
    if target == here.name || here.witness {
        return force(target);
    }
    match there {
        // A member of nothing has nothing to go on from.
        Some(there) if there.group == 0 && !there.silent => force(&here.name),
        Some(there) if !there.silent => force(target),
        _ => format!("{}; or, if {target} does not come back, {}", force(target), force(&here.name)),
    }
}

/// The command for an operator who looks at `here`, one of `sites`; `None`: no fence stands in the way there.
pub fn next(here: &str, older: bool, sites: &[Stand]) -> Option<String> {
    let here = find(sites, here)?;
    if here.sealed.is_some() && !older {
        return Some(force_or_here(here, wanted(sites, &here.name), sites));
    }
    if !older {
        // Its own group's primary may be sealed: nobody takes appends until whoever is wanted is made primary.
        let primary = find(sites, &here.primary).filter(|site| site.group == here.group && !site.silent)?;
        primary.sealed.as_ref()?;
        return Some(force_or_here(here, wanted(sites, &primary.name), sites));
    }
    let others = sites.iter().filter(|site| site.group != 0 && site.group != here.group && !site.primary.is_empty());
    let Some(newest) = others.filter(|site| site.epoch > here.epoch).max_by_key(|site| site.epoch) else {
        return Some("cfs admin replication split-brain status".to_owned());
    };
    let winner = newest.primary.as_str();
    if sealed(sites, winner).is_some() {
        return Some(force_or_here(here, wanted(sites, winner), sites));
    }
    let rejoin = format!("cfs admin replication rejoin --primary {winner}");
    let silent = find(sites, winner).is_none_or(|site| site.silent);
    Some(match silent && !here.witness {
        true => format!("{rejoin}; or, if {winner} does not come back, {}", force(&here.name)),
        false => rejoin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Epoch = Epoch(1);

    fn site(name: &str, group: u64, epoch: Epoch, primary: &str) -> Stand {
        Stand { name: name.into(), group, epoch, primary: primary.into(), ..Stand::default() }
    }

    fn sealed_for(stand: Stand, target: &str, at_ms: u64) -> Stand {
        Stand { sealed: Some((target.into(), at_ms)), ..stand }
    }

    fn a(group: u64, epoch: Epoch, primary: &str) -> Stand {
        site("site-a", group, epoch, primary)
    }

    fn b(group: u64, epoch: Epoch, primary: &str) -> Stand {
        site("site-b", group, epoch, primary)
    }

    #[test]
    fn nothing_is_said_where_nothing_is_fenced() {
        let sites = [a(1, FIRST, "site-a"), b(1, FIRST, "site-a")];
        assert_eq!(next("site-a", false, &sites), None);
        assert_eq!(next("site-b", false, &sites), None);
        assert_eq!(next("site-x", false, &sites), None);
    }

    #[test]
    fn a_sealed_site_names_whom_it_was_sealed_for() {
        let sites = [sealed_for(a(1, FIRST, "site-a"), "site-b", 5), b(1, FIRST, "site-a")];
        assert_eq!(next("site-a", false, &sites), Some(force("site-b")));
        // Who is in its group, by having rejoined it or from before, says the same.
        assert_eq!(next("site-b", false, &sites), Some(force("site-b")));
    }

    #[test]
    fn a_target_that_is_silent_is_not_the_only_way() {
        let down = Stand { silent: true, ..b(1, FIRST, "site-a") };
        let said = next("site-a", false, &[sealed_for(a(1, FIRST, "site-a"), "site-b", 5), down]).unwrap();
        assert!(said.starts_with(&force("site-b")) && said.ends_with(&force("site-a")), "{said}");
        // Nor one that has lost its state: there is nothing that it could go on from.
        let wiped = site("site-b", 0, Epoch(0), "");
        let sites = [sealed_for(a(1, FIRST, "site-a"), "site-b", 5), wiped];
        assert_eq!(next("site-a", false, &sites), Some(force("site-a")));
        // A witness cannot go on by itself.
        let witness = Stand { witness: true, ..sealed_for(site("site-w", 1, FIRST, "site-a"), "site-b", 5) };
        let down = Stand { silent: true, ..b(1, FIRST, "site-a") };
        assert_eq!(next("site-w", false, &[witness, down]), Some(force("site-b")));
    }

    #[test]
    fn of_two_that_were_sealed_for_each_other_the_last_word_counts_at_both() {
        let both = |at_a, at_b| {
            [sealed_for(a(1, FIRST, "site-a"), "site-b", at_a), sealed_for(b(1, FIRST, "site-a"), "site-a", at_b)]
        };
        for (at_a, at_b, target) in [(5, 9, "site-a"), (9, 5, "site-b"), (7, 7, "site-a")] {
            for here in ["site-a", "site-b"] {
                assert_eq!(next(here, false, &both(at_a, at_b)), Some(force(target)), "{here}: {at_a} {at_b}");
            }
        }
    }

    #[test]
    fn a_chain_of_seals_is_followed_to_its_end() {
        let c = site("site-c", 1, FIRST, "site-a");
        let sites =
            [sealed_for(a(1, FIRST, "site-a"), "site-b", 5), sealed_for(b(1, FIRST, "site-a"), "site-c", 4), c.clone()];
        for here in ["site-a", "site-b", "site-c"] {
            assert_eq!(next(here, false, &sites), Some(force("site-c")), "{here}");
        }
        let circle = [sites[0].clone(), sites[1].clone(), sealed_for(c, "site-b", 6)];
        for here in ["site-a", "site-b", "site-c"] {
            assert_eq!(next(here, false, &circle), Some(force("site-b")), "{here}: a stands outside of the circle");
        }
    }

    #[test]
    fn the_older_side_rejoins_the_newer_unless_that_was_sealed() {
        let forced = Epoch::new(1, cfs_model::SiteId(2), 1);
        let older = a(1, FIRST, "site-a");
        let newer = b(2, forced, "site-b");
        let rejoin = "cfs admin replication rejoin --primary site-b";
        assert_eq!(next("site-a", true, &[older.clone(), newer.clone()]).as_deref(), Some(rejoin));
        // Sealed for the older side: rejoining it would bring nobody a primary.
        let sites = [older.clone(), sealed_for(newer.clone(), "site-a", 5)];
        assert_eq!(next("site-a", true, &sites), Some(force("site-a")));
        assert_eq!(next("site-b", false, &sites), Some(force("site-a")));
        // Both sealed for the other, one of them forced in between.
        let sites = [sealed_for(older.clone(), "site-b", 4), sealed_for(newer.clone(), "site-a", 5)];
        for (here, older) in [("site-a", true), ("site-b", false)] {
            assert_eq!(next(here, older, &sites), Some(force("site-a")), "{here}");
        }
        let gone = Stand { silent: true, ..newer };
        let said = next("site-a", true, &[older.clone(), gone]).unwrap();
        assert!(said.starts_with(rejoin) && said.ends_with(&force("site-a")), "{said}");
        let said = next("site-a", true, &[older]).unwrap();
        assert_eq!(said, "cfs admin replication split-brain status", "it never names the site itself");
    }
}
