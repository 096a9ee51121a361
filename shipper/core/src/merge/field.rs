//! The fields of an inode and the one encoding of their values.

use bytes::BufMut;
use prost::encoding::{decode_varint, encode_varint};

use super::register::Malformed;

/// The registers of one inode, in the order of their encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Field {
    /// Whether it exists, and what cannot change while it does.
    Life = 0,
    /// Permission bits.
    Mode = 1,
    /// Owner.
    Uid = 2,
    /// Group.
    Gid = 3,
    /// Size in bytes.
    Size = 4,
    /// Time of the last change of content.
    Mtime = 5,
    /// Time of the last change of attributes.
    Ctime = 6,
    /// Opaque description of where the content is.
    Extents = 7,
}

impl Field {
    /// Every field, in order.
    pub const ALL: [Self; 8] =
        [Self::Life, Self::Mode, Self::Uid, Self::Gid, Self::Size, Self::Mtime, Self::Ctime, Self::Extents];

    /// This field's bit in a set of fields.
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The name that operators see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Life => "life",
            Self::Mode => "mode",
            Self::Uid => "uid",
            Self::Gid => "gid",
            Self::Size => "size",
            Self::Mtime => "mtime",
            Self::Ctime => "ctime",
            Self::Extents => "extents",
        }
    }
}

/// Whether an inode exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life<'a> {
    /// It was removed. The number may live again.
    Removed,
    /// It exists.
    Live {
        /// Number of its kind, as in `cfs.v1.InodeKind`.
        kind: u8,
        /// `st_rdev` of a device node, otherwise 0.
        device: u64,
        /// Where a symbolic link points, otherwise empty.
        target: &'a [u8],
    },
}

/// The value of one field of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Of [`Field::Life`].
    Life(Life<'a>),
    /// Of mode, uid, gid and size.
    Number(u64),
    /// Of the times.
    Time {
        /// Since the Unix epoch.
        seconds: i64,
        /// Below 1e9.
        nanos: u32,
    },
    /// Of the extents.
    Bytes(&'a [u8]),
}

const fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

const fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

fn take_varint(bytes: &mut &[u8], what: &'static str) -> Result<u64, Malformed> {
    decode_varint(bytes).map_err(|_| Malformed(what))
}

fn take_slice<'a>(bytes: &mut &'a [u8], what: &'static str) -> Result<&'a [u8], Malformed> {
    let len = usize::try_from(take_varint(bytes, what)?).map_err(|_| Malformed(what))?;
    let (slice, rest) = bytes.split_at_checked(len).ok_or(Malformed(what))?;
    *bytes = rest;
    Ok(slice)
}

impl<'a> Value<'a> {
    /// Appends the encoding: numbers as varints, seconds zigzag, bytes after their length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Life(Life::Removed) => out.put_u8(0),
            Self::Life(Life::Live { kind, device, target }) => {
                out.put_u8(1);
                out.put_u8(kind);
                encode_varint(device, out);
                encode_varint(target.len() as u64, out);
                out.extend_from_slice(target);
            }
            Self::Number(n) => encode_varint(n, out),
            Self::Time { seconds, nanos } => {
                encode_varint(zigzag(seconds), out);
                encode_varint(u64::from(nanos), out);
            }
            Self::Bytes(bytes) => {
                encode_varint(bytes.len() as u64, out);
                out.extend_from_slice(bytes);
            }
        }
    }

    /// Reads the value of `field` and moves `bytes` past it.
    pub fn decode(field: Field, bytes: &mut &'a [u8]) -> Result<Self, Malformed> {
        let what = field.name();
        Ok(match field {
            Field::Life => Self::Life(decode_life(bytes)?),
            Field::Mode | Field::Uid | Field::Gid | Field::Size => Self::Number(take_varint(bytes, what)?),
            Field::Mtime | Field::Ctime => {
                let seconds = unzigzag(take_varint(bytes, what)?);
                let nanos = u32::try_from(take_varint(bytes, what)?).map_err(|_| Malformed(what))?;
                Self::Time { seconds, nanos }
            }
            Field::Extents => Self::Bytes(take_slice(bytes, what)?),
        })
    }
}

fn decode_life<'a>(bytes: &mut &'a [u8]) -> Result<Life<'a>, Malformed> {
    const WHAT: &str = "life";
    let (tag, rest) = bytes.split_first().ok_or(Malformed(WHAT))?;
    *bytes = rest;
    match tag {
        0 => Ok(Life::Removed),
        1 => {
            let (kind, rest) = bytes.split_first().ok_or(Malformed(WHAT))?;
            *bytes = rest;
            let device = take_varint(bytes, WHAT)?;
            Ok(Life::Live { kind: *kind, device, target: take_slice(bytes, WHAT)? })
        }
        _ => Err(Malformed(WHAT)),
    }
}
