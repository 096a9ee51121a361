//! Entries for a load: creates of files that did not exist, in one directory, made by patching a template.

use bytes::{Bytes, BytesMut};
use cfs_model::op::{self, InodeKind, Op, op::Kind};
use prost::Message;
use prost::encoding::encode_varint;

/// Digits of a name; every name is as long.
const NAME_DIGITS: usize = 12;
/// Inodes of a load have this bit set and the one above clear, so that every number takes nine bytes.
const INODE_BIT: u64 = 1 << 62;
const INODE_BYTES: usize = 9;
/// Bits of an inode's number that count the entries of one load.
const COUNTER_BITS: u32 = 36;

/// Why there are no entries of the size asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry of {asked} bytes cannot hold what creates a file: use --size {least} or more")]
pub struct Error {
    /// Bytes asked for.
    pub asked: usize,
    /// Bytes needed.
    pub least: usize,
}

/// Makes entries of one directory.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    inode_at: usize,
    name_at: usize,
    filling: std::ops::Range<usize>,
    next_inode: u64,
    next_name: u64,
    random: u64,
}

/// The number of an inode that a run makes: `run` is random, `first` counts what the run made before.
pub const fn inode(run: u32, first: u64) -> u64 {
    // 25 bits of the random number lie between the counter and the fixed bit.
    INODE_BIT | ((run as u64 & ((1 << 25) - 1)) << COUNTER_BITS) | (first & ((1 << COUNTER_BITS) - 1))
}

impl Template {
    /// Entries of at most `size` encoded bytes (at most two fewer), files of directory `parent` with inodes from
    /// `first_inode` on.
    ///
    /// # Errors
    /// When `size` is too small.
    pub fn new(parent: u64, first_inode: u64, size: usize) -> Result<Self, Error> {
        let least = encode(parent, first_inode, 0).len();
        if size < least {
            return Err(Error { asked: size, least });
        }
        // The lengths in front of what is filled grow with it.
        let mut fill = size - least;
        while fill > 0 && encode(parent, first_inode, fill).len() > size {
            fill -= 1;
        }
        let bytes = encode(parent, first_inode, fill);
        let mut encoded_inode = Vec::new();
        encode_varint(first_inode, &mut encoded_inode);
        let find = |what: &[u8]| bytes.windows(what.len()).position(|window| window == what).unwrap_or(0);
        let (inode_at, name_at) = (find(&encoded_inode), find(&[b'0'; NAME_DIGITS]));
        // Attributes come last in the operation, and extents last in those.
        let filling = bytes.len() - fill..bytes.len();
        let random = first_inode ^ 0x9e37_79b9_7f4a_7c15;
        Ok(Self { inode_at, name_at, filling, next_inode: first_inode, next_name: 0, random, bytes })
    }

    /// Bytes of one entry.
    pub fn entry_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The next `count` entries, in one allocation.
    pub fn take(&mut self, count: usize) -> Vec<Bytes> {
        let size = self.bytes.len();
        let mut all = BytesMut::with_capacity(count * size);
        for _ in 0..count {
            self.patch();
            all.extend_from_slice(&self.bytes);
        }
        let all = all.freeze();
        (0..count).map(|i| all.slice(i * size..(i + 1) * size)).collect()
    }

    fn patch(&mut self) {
        let mut inode = self.next_inode;
        for at in 0..INODE_BYTES {
            let more = if at + 1 < INODE_BYTES { 0x80 } else { 0 };
            self.bytes[self.inode_at + at] = (inode & 0x7f) as u8 | more;
            inode >>= 7;
        }
        let mut name = self.next_name;
        for digit in self.bytes[self.name_at..self.name_at + NAME_DIGITS].iter_mut().rev() {
            *digit = b'0' + (name % 10) as u8;
            name /= 10;
        }
        // Lists of extents are half addresses, which do not repeat, and half lengths and flags, which do.
        let (mut random, filling) = (self.random, self.filling.clone());
        for chunk in self.bytes[filling].chunks_mut(16) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let fresh = chunk.len().min(8);
            chunk[..fresh].copy_from_slice(&random.to_le_bytes()[..fresh]);
        }
        self.random = random;
        self.next_inode += 1;
        self.next_name += 1;
    }
}

fn encode(parent: u64, inode: u64, fill: usize) -> Vec<u8> {
    let attributes = op::Attributes {
        mode: Some(0o644),
        uid: Some(1000),
        gid: Some(1000),
        size: Some(4096),
        mtime: Some(op::Time { seconds: 1_767_225_600, nanos: 123_456_789 }),
        ctime: None,
        extents: (fill > 0).then(|| vec![0; fill].into()),
    };
    let name = vec![b'0'; NAME_DIGITS].into();
    let kind = InodeKind::File as i32;
    let create = op::Create { parent, name, inode, kind, attributes: Some(attributes), device: 0 };
    Op { kind: Some(Kind::Create(create)) }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use cfs_shipper_core::merge::validate;

    use super::*;

    fn decode(entry: &Bytes) -> op::Create {
        let op = Op::decode(entry.clone()).expect("an operation");
        validate(&op).expect("a valid operation");
        match op.kind {
            Some(Kind::Create(create)) => create,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn entries_are_distinct_creates_of_the_size_asked_for() {
        for size in [80, 127, 128, 129, 200, 300, 20_000] {
            let first = inode(u32::MAX, 0);
            let mut template = Template::new(7, first, size).expect("large enough");
            let mut entries = template.take(3);
            entries.extend(template.take(2));
            for (i, entry) in entries.iter().enumerate() {
                assert!((size - 2..=size).contains(&entry.len()), "{} of {size}", entry.len());
                let create = decode(entry);
                assert_eq!((create.parent, create.inode), (7, first + i as u64));
                assert_eq!(create.name, format!("{i:012}"));
                assert_eq!(create.attributes.and_then(|a| a.size), Some(4096));
            }
        }
    }

    #[test]
    fn entries_compress_by_half() {
        let entries = Template::new(7, inode(1, 0), 4096).expect("large enough").take(16);
        let raw: Vec<u8> = entries.iter().flatten().copied().collect();
        let mut out = Vec::new();
        cfs_shipper_core::codec::Codec::Lz4.compress(&raw, &mut out).expect("it compresses");
        let saved = 1.0 - out.len() as f64 / raw.len() as f64;
        assert!((0.3..0.6).contains(&saved), "{saved}");
    }

    #[test]
    fn what_is_too_small_says_how_much_is_needed() {
        let Err(error) = Template::new(7, inode(0, 0), 10) else { panic!("10 bytes are enough") };
        assert!(Template::new(7, inode(0, 0), error.least).is_ok());
    }
}
