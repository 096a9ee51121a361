//! Finding what differs: whether the registers have the digest that is kept, and the way down from a bucket to inodes.

use std::collections::BTreeSet;

use cfs_model::Vector;

/// Children of a place.
pub const FAN_OUT: usize = 64;
/// Where a place holds no more inodes than this, they are listed instead of summed up.
pub const MAX_LISTED: usize = 64;
/// The deepest place: it holds one inode.
pub const MAX_DEPTH: usize = 9;
/// Places asked for in one read.
pub const MAX_PLACES: usize = 64;

/// Whether the registers of a store have the digest that it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// What had been applied when the check ended.
    pub applied: Vector,
    /// The running sum of each bucket at that moment.
    pub buckets: Vec<u128>,
    /// Rows read.
    pub rows: u64,
    /// Buckets whose registers do not have the sum that was kept, in order.
    pub wrong: Vec<u16>,
    /// For each of these, what its registers add up to beyond the sum that was kept.
    pub excess: Vec<u128>,
    /// Inodes of which a register does not decode, in the order found; cut at the limit asked for.
    pub unreadable: Vec<u64>,
    /// How many registers do not decode.
    pub unreadable_count: u64,
    /// Rows that do not stand where their keys belong: what is looked up or written near them goes astray, so that no inode
    /// can be repaired alone. When nothing else is wrong, only the order of the rows is looked at.
    pub misplaced: u64,
    /// Some of the inodes that such rows stand under, and next to, in order.
    pub astray: Vec<u64>,
}

impl Verified {
    /// Whether nothing is damaged.
    pub const fn is_sound(&self) -> bool {
        self.wrong.is_empty() && self.unreadable_count == 0 && self.misplaced == 0
    }

    /// What the registers of a bucket add up to beyond the sum that was kept.
    pub fn excess_of(&self, bucket: u16) -> u128 {
        let at = self.wrong.iter().position(|wrong| *wrong == bucket);
        at.and_then(|at| self.excess.get(at)).copied().unwrap_or_default()
    }
}

/// An inode in which two stores differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Differing {
    /// Its number.
    pub inode: u64,
    /// The sum of its registers here; 0 where there are none.
    pub here: u128,
    /// The same in the other store.
    pub there: u128,
}

/// Beyond this many inodes it is not tried which of them are wrong.
pub const MAX_TRIED: usize = 16;

/// Which of all the inodes of a bucket in which two stores differ are wrong here: with the other store's copies of exactly
/// these, the registers would have the sum that is kept here, of which they have `excess` too much now. So those copies are
/// right, and of the other inodes the ones here are. `None` when no choice fits, or there are more than [`MAX_TRIED`].
pub fn wrong_here(excess: u128, differing: &[Differing]) -> Option<BTreeSet<u64>> {
    if differing.len() > MAX_TRIED {
        return None;
    }
    let chosen =
        |choice: u32| differing.iter().enumerate().filter(move |(at, _)| choice & (1 << at) != 0).map(|(_, d)| d);
    let fits = |choice: &u32| {
        let sum = chosen(*choice).fold(0u128, |sum, d| sum.wrapping_add(d.here).wrapping_sub(d.there));
        sum == excess
    };
    let choice = (0..1u32 << differing.len()).find(fits)?;
    Some(chosen(choice).map(|d| d.inode).collect())
}

/// A part of a bucket: the inodes whose number has these six bits at each level. The bucket itself is the empty place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place(Vec<u8>);

impl Place {
    /// The place for these levels; `None` if they are too many, or a level has no such child.
    pub fn new(levels: &[u8]) -> Option<Self> {
        let fits = levels.len() <= MAX_DEPTH && levels.iter().all(|level| usize::from(*level) < FAN_OUT);
        fits.then(|| Self(levels.to_vec()))
    }

    /// The child of this number; `None` below the deepest place.
    pub fn child(&self, number: u8) -> Option<Self> {
        let mut levels = self.0.clone();
        levels.push(number);
        Self::new(&levels)
    }

    /// The levels.
    pub fn levels(&self) -> &[u8] {
        &self.0
    }

    /// Whether an inode of the bucket is in this place.
    pub fn holds(&self, inode: u64) -> bool {
        self.0.iter().enumerate().all(|(level, child)| child_of(level, inode) == *child)
    }

    /// Which child of this place an inode is in.
    pub fn child_with(&self, inode: u64) -> u8 {
        child_of(self.0.len(), inode)
    }
}

/// First the twelve bits that neighbours in a bucket differ in, then those above the bucket's own, lowest first: so the
/// inodes of a dense range spread evenly at every level.
const fn child_of(level: usize, inode: u64) -> u8 {
    let shift = match level {
        0 => 6,
        1 => 0,
        deeper => 22 + 6 * (deeper as u32 - 2),
    };
    if shift >= u64::BITS { 0 } else { (inode >> shift) as u8 & (FAN_OUT as u8 - 1) }
}

/// What is in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Sums of the children that hold anything, by number.
    Children(Vec<(u8, u128)>),
    /// The inodes with the sum of each one's registers, in order.
    Inodes(Vec<(u64, u128)>),
}

/// What is in places of one bucket, all of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// What had been applied.
    pub applied: Vector,
    /// Whether other stores at this position have the same: see [`crate::Position::comparable`].
    pub comparable: bool,
    /// One for each place asked for.
    pub places: Vec<Content>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differing(inode: u64, here: u128, there: u128) -> Differing {
        Differing { inode, here, there }
    }

    /// Each of two stores is damaged in another inode of one bucket: the sum kept tells which copy is right.
    #[test]
    fn of_two_damaged_stores_each_right_copy_is_known() {
        let sums = [10, 20, 30, 40].map(|inode| (inode, u128::from(inode) << 64 | 0x9e37_79b9_7f4a_7c15));
        for damaged in 0..16u32 {
            let all = sums.iter().enumerate().map(|(at, (inode, right))| {
                let wrong = right ^ (0x55 << (at * 9));
                let (here, there) = if damaged & (1 << at) != 0 { (wrong, *right) } else { (*right, wrong) };
                differing(*inode, here, there)
            });
            let all: Vec<Differing> = all.collect();
            let held = all.iter().fold(0u128, |sum, d| sum.wrapping_add(d.here));
            let kept = sums.iter().fold(0u128, |sum, (_, right)| sum.wrapping_add(*right));
            let wrong: BTreeSet<u64> =
                (0..4).filter(|at| damaged & (1 << at) != 0).map(|at| sums[at as usize].0).collect();
            assert_eq!(wrong_here(held.wrapping_sub(kept), &all), Some(wrong), "{damaged:b}");
        }
    }

    #[test]
    fn what_no_choice_explains_is_not_known() {
        assert_eq!(wrong_here(5, &[differing(2, 9, 7)]), None, "both are wrong");
        assert_eq!(wrong_here(0, &[]), Some(BTreeSet::new()));
        let many: Vec<Differing> = (0..=MAX_TRIED as u64).map(|inode| differing(inode, 1, 0)).collect();
        assert_eq!(wrong_here(1, &many), None);
    }
}
