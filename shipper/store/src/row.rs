//! Stored rows: a register's encoding, and around it what is derived and not part of the digest.

use bytes::{Buf, BufMut};
use cfs_shipper_core::merge::{Dentry, Inode, Malformed, Xattr};

use crate::table::{Error, Table};

/// Key of an inode's row.
pub(crate) const fn inode_key(inode: u64) -> [u8; 8] {
    inode.to_be_bytes()
}

/// Key of an entry or extended attribute: the inode, then the name.
pub(crate) fn named_key(inode: u64, name: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.put_u64(inode);
    out.extend_from_slice(name);
}

/// Key of a further name of an inode: the inode, its parent, then the name.
pub(crate) fn link_key(inode: u64, parent: u64, name: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.put_u64(inode);
    out.put_u64(parent);
    out.extend_from_slice(name);
}

/// Splits a key that starts with an inode's number.
pub(crate) fn split_key(table: Table, key: &[u8]) -> Result<(u64, &[u8]), Error> {
    key.split_first_chunk::<8>()
        .map(|(inode, rest)| (u64::from_be_bytes(*inode), rest))
        .ok_or_else(|| Error::corrupt(table, key, "its key is too short"))
}

/// A row of entries or extended attributes: whether lost writes of it wait, then the register; nothing more when the
/// register itself is gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NamedRow<'a> {
    pub(crate) has_lost: bool,
    pub(crate) register: &'a [u8],
}

impl<'a> NamedRow<'a> {
    pub(crate) fn decode(table: Table, key: &[u8], row: &'a [u8]) -> Result<Self, Error> {
        match row {
            [flag @ (0 | 1), register @ ..] => Ok(Self { has_lost: *flag == 1, register }),
            _ => Err(Error::corrupt(table, key, "its flag does not decode")),
        }
    }

    pub(crate) fn dentry(&self, key: &[u8]) -> Result<Option<Dentry>, Error> {
        if self.register.is_empty() {
            return Ok(None);
        }
        Dentry::decode(self.register).map(Some).map_err(|e| Error::corrupt(Table::Dentries, key, e))
    }

    pub(crate) fn xattr(&self, key: &[u8]) -> Result<Option<Xattr<'a>>, Error> {
        if self.register.is_empty() {
            return Ok(None);
        }
        Xattr::decode(self.register).map(Some).map_err(|e| Error::corrupt(Table::Xattrs, key, e))
    }
}

/// The names of an inode: how many, and one of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Links<'a> {
    pub(crate) count: u32,
    pub(crate) first: Option<(u64, &'a [u8])>,
}

/// A row of inodes: set of fields of which lost writes wait, length of the fields, the fields, the names.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct InodeRow<'a> {
    pub(crate) lost: u8,
    /// The fields as encoded: what the digest covers.
    pub(crate) record: &'a [u8],
    pub(crate) links: Links<'a>,
}

const INODE_HEAD_BYTES: usize = 1 + 4;

impl<'a> InodeRow<'a> {
    pub(crate) fn decode(key: &[u8], row: &'a [u8]) -> Result<Self, Error> {
        Self::split(row).map_err(|e| Error::corrupt(Table::Inodes, key, e))
    }

    fn split(mut row: &'a [u8]) -> Result<Self, Malformed> {
        if row.len() < INODE_HEAD_BYTES {
            return Err(Malformed("head"));
        }
        let lost = row.get_u8();
        let len = row.get_u32_le() as usize;
        let (record, mut tail) = row.split_at_checked(len).ok_or(Malformed("fields"))?;
        if tail.len() < 4 {
            return Err(Malformed("number of names"));
        }
        let count = tail.get_u32_le();
        let first = match tail {
            [] => None,
            [_, _, _, _, _, _, _, _, name @ ..] => Some((tail.get_u64_le(), name)),
            _ => return Err(Malformed("name")),
        };
        Ok(Self { lost, record, links: Links { count, first } })
    }

    pub(crate) fn inode(&self, key: &[u8]) -> Result<Inode<'a>, Error> {
        Inode::decode(self.record).map_err(|e| Error::corrupt(Table::Inodes, key, e))
    }
}

/// Writes a row to `out`; answers where in it the fields are.
pub(crate) fn encode_inode(
    lost: u8,
    inode: &Inode<'_>,
    links: &Links<'_>,
    out: &mut Vec<u8>,
) -> std::ops::Range<usize> {
    out.clear();
    out.put_u8(lost);
    out.put_u32_le(0);
    inode.encode(out);
    let record = INODE_HEAD_BYTES..out.len();
    out[1..INODE_HEAD_BYTES].copy_from_slice(&(record.len() as u32).to_le_bytes());
    out.put_u32_le(links.count);
    if let Some((parent, name)) = links.first {
        out.put_u64_le(parent);
        out.extend_from_slice(name);
    }
    record
}
