//! Registers, their values, and the one encoding of each.

use bytes::{Buf, BufMut};
use cfs_model::{Epoch, Incarnation, Lsn, SiteId, Stamp, Version};

use super::field::Field;

/// Bytes of an encoded [`Version`].
pub const VERSION_BYTES: usize = 33;

/// Stored bytes that are not what this version of the code writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its {0} does not decode")]
pub struct Malformed(pub &'static str);

/// Appends epoch, clock, site, incarnation and LSN, little-endian.
pub fn encode_version(version: &Version, out: &mut Vec<u8>) {
    let Version { stamp, lsn } = version;
    let mut bytes = [0; VERSION_BYTES];
    bytes[..8].copy_from_slice(&stamp.epoch.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&stamp.clock.to_le_bytes());
    bytes[16] = stamp.site.0;
    bytes[17..25].copy_from_slice(&stamp.incarnation.0.to_le_bytes());
    bytes[25..].copy_from_slice(&lsn.0.to_le_bytes());
    out.extend_from_slice(&bytes);
}

/// Reads what [`encode_version`] wrote and moves `bytes` past it.
pub fn decode_version(bytes: &mut &[u8]) -> Result<Version, Malformed> {
    if bytes.len() < VERSION_BYTES {
        return Err(Malformed("version"));
    }
    let epoch = Epoch(bytes.get_u64_le());
    let clock = bytes.get_u64_le();
    let site = SiteId(bytes.get_u8());
    let incarnation = Incarnation(bytes.get_u64_le());
    let lsn = Lsn(bytes.get_u64_le());
    Ok(Version { stamp: Stamp { epoch, clock, site, incarnation }, lsn })
}

/// What a directory entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dentry {
    /// The entry that wrote it.
    pub version: Version,
    /// Inode and number of its kind; `None` is a tombstone.
    pub target: Option<(u64, u8)>,
}

impl Dentry {
    /// Appends the version, then 0, or 1 with inode and kind.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_version(&self.version, out);
        match self.target {
            None => out.put_u8(0),
            Some((inode, kind)) => {
                out.put_u8(1);
                out.put_u64_le(inode);
                out.put_u8(kind);
            }
        }
    }

    /// Reads what [`Self::encode`] wrote, which must fill `bytes`.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let version = decode_version(&mut bytes)?;
        Ok(Self { version, target: Self::decode_target(bytes)? })
    }

    /// Reads what follows the version.
    pub fn decode_target(bytes: &[u8]) -> Result<Option<(u64, u8)>, Malformed> {
        match bytes {
            [0] => Ok(None),
            [1, inode @ .., kind] => {
                let inode = inode.try_into().map_err(|_| Malformed("target"))?;
                Ok(Some((u64::from_le_bytes(inode), *kind)))
            }
            _ => Err(Malformed("target")),
        }
    }
}

/// What an extended attribute holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xattr<'a> {
    /// The entry that wrote it.
    pub version: Version,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

impl<'a> Xattr<'a> {
    /// Appends the version, then 0, or 1 with the value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_version(&self.version, out);
        match self.value {
            None => out.put_u8(0),
            Some(value) => {
                out.put_u8(1);
                out.extend_from_slice(value);
            }
        }
    }

    /// Reads what [`Self::encode`] wrote, which must fill `bytes`.
    pub fn decode(mut bytes: &'a [u8]) -> Result<Self, Malformed> {
        let version = decode_version(&mut bytes)?;
        let value = match bytes {
            [0] => None,
            [1, value @ ..] => Some(value),
            _ => return Err(Malformed("value")),
        };
        Ok(Self { version, value })
    }
}

/// The name of a register.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Register {
    /// One field of an inode.
    Field(u64, Field),
    /// The entry of this name in this directory.
    Dentry(u64, Vec<u8>),
    /// The extended attribute of this name on this inode.
    Xattr(u64, Vec<u8>),
}

impl Register {
    const FIELD: u8 = 1;
    const DENTRY: u8 = 2;
    const XATTR: u8 = 3;
    /// The longest encoding.
    pub const MAX_BYTES: usize = 1 + 8 + 1 + 255;

    /// The inode that it belongs to; of an entry, the directory.
    pub const fn inode(&self) -> u64 {
        match self {
            Self::Field(inode, _) | Self::Dentry(inode, _) | Self::Xattr(inode, _) => *inode,
        }
    }

    /// Appends the encoding: table, inode big-endian, then the field, or the name after its length; so no register's
    /// encoding begins another's.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Field(inode, field) => {
                out.put_u8(Self::FIELD);
                out.put_u64(*inode);
                out.put_u8(*field as u8);
            }
            Self::Dentry(inode, name) => Self::encode_named(Self::DENTRY, *inode, name, out),
            Self::Xattr(inode, name) => Self::encode_named(Self::XATTR, *inode, name, out),
        }
    }

    fn encode_named(table: u8, inode: u64, name: &[u8], out: &mut Vec<u8>) {
        out.put_u8(table);
        out.put_u64(inode);
        out.put_u8(name.len() as u8);
        out.extend_from_slice(name);
    }

    /// Reads what [`Self::encode`] wrote, which must fill `bytes`.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, Malformed> {
        const WHAT: Malformed = Malformed("register");
        if bytes.len() < 10 {
            return Err(WHAT);
        }
        let (table, inode, tail) = (bytes.get_u8(), bytes.get_u64(), bytes.get_u8());
        match table {
            Self::FIELD if bytes.is_empty() => Ok(Self::Field(inode, *Field::ALL.get(usize::from(tail)).ok_or(WHAT)?)),
            Self::DENTRY if bytes.len() == usize::from(tail) => Ok(Self::Dentry(inode, bytes.to_vec())),
            Self::XATTR if bytes.len() == usize::from(tail) => Ok(Self::Xattr(inode, bytes.to_vec())),
            _ => Err(WHAT),
        }
    }
}
