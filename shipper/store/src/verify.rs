//! Finding what differs: whether the registers have the digest that is kept, and the way down from a bucket to inodes.

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
    /// Inodes of which a register does not decode, in the order found; cut at the limit asked for.
    pub unreadable: Vec<u64>,
    /// How many registers do not decode.
    pub unreadable_count: u64,
}

impl Verified {
    /// Whether nothing is damaged.
    pub const fn is_sound(&self) -> bool {
        self.wrong.is_empty() && self.unreadable_count == 0
    }
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
