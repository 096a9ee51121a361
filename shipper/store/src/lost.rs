//! Lost writes: the ones that neither won nor were covered.

use bytes::BufMut;
use cfs_model::{Incarnation, Lsn, SiteId, StreamId, Version};
use cfs_shipper_core::merge::{Dentry, Field, Life, Malformed, Register, Value, decode_version, encode_version};

/// What names a lost write, the same on every site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LostKey {
    /// The register that did not take it.
    pub register: Register,
    /// The stream of the entry.
    pub stream: StreamId,
    /// The entry's position there.
    pub lsn: Lsn,
}

/// The value that was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LostValue {
    /// That the inode is removed.
    Removed,
    /// That the inode lives.
    Live {
        /// Number of its kind.
        kind: u8,
        /// `st_rdev` of a device node.
        device: u64,
        /// Where a symbolic link points.
        target: Vec<u8>,
    },
    /// A mode, uid, gid or size.
    Number(u64),
    /// A time.
    Time {
        /// Since the Unix epoch.
        seconds: i64,
        /// Below 1e9.
        nanos: u32,
    },
    /// Extents, or the value of an extended attribute.
    Bytes(Vec<u8>),
    /// That an entry points to this inode of this kind.
    Entry(u64, u8),
    /// That an entry or extended attribute is gone.
    Tombstone,
}

/// One lost write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostEvent {
    /// Its name.
    pub key: LostKey,
    /// Its version.
    pub version: Version,
    /// What it would have set.
    pub value: LostValue,
    /// Whether a later write, whose author had seen it, has settled the matter.
    pub superseded: bool,
}

const KEY_TAIL_BYTES: usize = 17;
const SUPERSEDED: u8 = 1;

/// The row's key: the register, then stream and LSN big-endian.
pub(crate) fn encode_key(register: &[u8], stream: StreamId, lsn: Lsn, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(register);
    out.put_u8(stream.site.0);
    out.put_u64(stream.incarnation.0);
    out.put_u64(lsn.0);
}

pub(crate) fn is_superseded(value: &[u8]) -> bool {
    value.first() == Some(&SUPERSEDED)
}

/// The row's value: whether superseded, the version, the value as the register encodes it.
pub(crate) fn encode_value(version: &Version, value: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.put_u8(0);
    encode_version(version, out);
    out.extend_from_slice(value);
}

pub(crate) fn mark_superseded(value: &mut [u8]) {
    if let Some(flag) = value.first_mut() {
        *flag = SUPERSEDED;
    }
}

pub(crate) fn version_of(value: &[u8]) -> Result<Version, Malformed> {
    decode_version(&mut value.get(1..).ok_or(Malformed("lost write"))?)
}

pub(crate) fn register_of(key: &[u8]) -> Result<(Register, StreamId, Lsn), Malformed> {
    const WHAT: Malformed = Malformed("lost write's key");
    let split = key.len().checked_sub(KEY_TAIL_BYTES).ok_or(WHAT)?;
    let (register, tail) = key.split_at(split);
    let number = |b: &[u8]| b.try_into().map(u64::from_be_bytes).map_err(|_| WHAT);
    let stream = StreamId { site: SiteId(tail[0]), incarnation: Incarnation(number(&tail[1..9])?) };
    Ok((Register::decode(register)?, stream, Lsn(number(&tail[9..])?)))
}

pub(crate) fn decode(key: &[u8], row: &[u8]) -> Result<LostEvent, Malformed> {
    let (register, stream, lsn) = register_of(key)?;
    let mut rest = row.get(1..).ok_or(Malformed("lost write"))?;
    let version = decode_version(&mut rest)?;
    let value = decode_value(&register, rest)?;
    Ok(LostEvent { key: LostKey { register, stream, lsn }, version, value, superseded: is_superseded(row) })
}

/// Values are encoded as registers hold them, without the version.
fn decode_value(register: &Register, mut bytes: &[u8]) -> Result<LostValue, Malformed> {
    const WHAT: Malformed = Malformed("lost value");
    match register {
        Register::Field(_, field) => field_value(*field, &mut bytes),
        Register::Dentry(..) => Ok(match Dentry::decode_target(bytes)? {
            None => LostValue::Tombstone,
            Some((inode, kind)) => LostValue::Entry(inode, kind),
        }),
        Register::Xattr(..) => match bytes {
            [0] => Ok(LostValue::Tombstone),
            [1, value @ ..] => Ok(LostValue::Bytes(value.to_vec())),
            _ => Err(WHAT),
        },
    }
}

fn field_value(field: Field, bytes: &mut &[u8]) -> Result<LostValue, Malformed> {
    Value::decode(field, bytes).map(Into::into)
}

impl From<Value<'_>> for LostValue {
    fn from(value: Value<'_>) -> Self {
        match value {
            Value::Life(Life::Removed) => Self::Removed,
            Value::Life(Life::Live { kind, device, target }) => Self::Live { kind, device, target: target.to_vec() },
            Value::Number(n) => Self::Number(n),
            Value::Time { seconds, nanos } => Self::Time { seconds, nanos },
            Value::Bytes(bytes) => Self::Bytes(bytes.to_vec()),
        }
    }
}
