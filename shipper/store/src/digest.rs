//! The digest of all registers: the same for the same registers, in whatever order they were written.

use cfs_model::Vector;
use xxhash_rust::xxh3::xxh3_128;

use crate::table::Table;

/// Buckets of a digest.
pub const BUCKETS: usize = 1024;
/// Buckets in one row of the table.
pub const BUCKETS_PER_ROW: usize = 16;
/// How many batch boundaries [`crate::Store::digest_history`] remembers.
pub const HISTORY: usize = 4096;
/// Neighbours share a bucket, so that appends touch few rows and a bucket can be listed by ranges.
const BUCKET_SHIFT: u32 = 12;

/// The bucket of everything that belongs to an inode: its fields, its extended attributes, and for a directory its
/// entries.
pub const fn bucket_of(inode: u64) -> u16 {
    ((inode >> BUCKET_SHIFT) % BUCKETS as u64) as u16
}

/// The first inode at or above `from` that a bucket may hold; `None` beyond the last.
pub(crate) const fn next_in_bucket(bucket: u16, from: u64) -> Option<u64> {
    let stripe = from >> BUCKET_SHIFT;
    let ahead = (bucket as u64).wrapping_sub(stripe) % BUCKETS as u64;
    if ahead == 0 {
        return Some(from);
    }
    match stripe.checked_add(ahead) {
        Some(stripe) if stripe <= u64::MAX >> BUCKET_SHIFT => Some(stripe << BUCKET_SHIFT),
        _ => None,
    }
}

/// A digest and the cursors it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// What had been applied.
    pub applied: Vector,
    /// Sum of the buckets.
    pub root: u128,
    /// One sum for each bucket.
    pub buckets: Vec<u128>,
}

impl Digest {
    /// The buckets in which two digests differ.
    pub fn differing(&self, other: &Self) -> Vec<u16> {
        let pairs = self.buckets.iter().zip(&other.buckets);
        pairs.zip(0u16..).filter(|((a, b), _)| a != b).map(|(_, i)| i).collect()
    }
}

/// The running digest beside the one that the registers have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recomputed {
    /// As kept while applying.
    pub running: Digest,
    /// As computed from the registers at the same moment.
    pub registers: Digest,
}

impl Recomputed {
    /// Whether the two agree. If not, the file was damaged.
    pub fn agrees(&self) -> bool {
        self.running == self.registers
    }
}

/// The hash of one register's row: table, length of the key, key and value.
pub(crate) fn hash(table: Table, key: &[u8], value: &[u8], scratch: &mut Vec<u8>) -> u128 {
    scratch.clear();
    scratch.push(table as u8);
    scratch.extend_from_slice(&(key.len() as u16).to_le_bytes());
    scratch.extend_from_slice(key);
    scratch.extend_from_slice(value);
    xxh3_128(scratch)
}

/// The sums while they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) buckets: Box<[u128; BUCKETS]>,
    pub(crate) root: u128,
    /// Rows changed since [`Sums::take_touched`].
    touched: u64,
}

impl Default for Sums {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), root: 0, touched: 0 }
    }
}

impl Sums {
    pub(crate) fn add(&mut self, inode: u64, hash: u128) {
        let bucket = usize::from(bucket_of(inode));
        self.buckets[bucket] = self.buckets[bucket].wrapping_add(hash);
        self.root = self.root.wrapping_add(hash);
        self.touched |= 1 << (bucket / BUCKETS_PER_ROW);
    }

    /// Sets the sum of one bucket.
    pub(crate) fn set(&mut self, bucket: u16, sum: u128) {
        let bucket = usize::from(bucket);
        self.root = self.root.wrapping_sub(self.buckets[bucket]).wrapping_add(sum);
        self.buckets[bucket] = sum;
        self.touched |= 1 << (bucket / BUCKETS_PER_ROW);
    }

    pub(crate) fn sub(&mut self, inode: u64, hash: u128) {
        self.add(inode, hash.wrapping_neg());
    }

    /// The rows changed since the last call, with their encoding.
    pub(crate) fn take_touched(&mut self) -> Vec<(u8, [u8; BUCKETS_PER_ROW * 16])> {
        let touched = std::mem::take(&mut self.touched);
        let rows = (0..(BUCKETS / BUCKETS_PER_ROW) as u8).filter(|row| touched & (1 << row) != 0);
        rows.map(|row| {
            let mut bytes = [0; BUCKETS_PER_ROW * 16];
            let first = usize::from(row) * BUCKETS_PER_ROW;
            for (chunk, bucket) in bytes.chunks_exact_mut(16).zip(&self.buckets[first..]) {
                chunk.copy_from_slice(&bucket.to_le_bytes());
            }
            (row, bytes)
        })
        .collect()
    }

    /// Reads one row; answers whether it is one.
    pub(crate) fn load_row(&mut self, key: &[u8], value: &[u8]) -> bool {
        let [row] = key else { return false };
        let first = usize::from(*row) * BUCKETS_PER_ROW;
        if first >= BUCKETS || value.len() != BUCKETS_PER_ROW * 16 {
            return false;
        }
        for (chunk, bucket) in value.chunks_exact(16).zip(&mut self.buckets[first..]) {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(chunk);
            *bucket = u128::from_le_bytes(bytes);
            self.root = self.root.wrapping_add(*bucket);
        }
        true
    }

    pub(crate) fn digest(&self, applied: &Vector) -> Digest {
        Digest { applied: applied.clone(), root: self.root, buckets: self.buckets.to_vec() }
    }
}
