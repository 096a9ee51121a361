//! The registers of one inode, packed in one value.

use bytes::BufMut;
use cfs_model::{Vector, Version};

use super::field::{Field, Life, Value};
use super::register::{Malformed, VERSION_BYTES, decode_version, encode_version};

/// One field's value and the entry that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot<'a> {
    /// The entry that wrote it.
    pub version: Version,
    /// The value.
    pub value: Value<'a>,
}

/// The fields of one inode, as stored, or as one operation writes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inode<'a> {
    slots: [Option<Slot<'a>>; 8],
}

impl<'a> Inode<'a> {
    /// What `field` holds, visible or not.
    pub const fn get(&self, field: Field) -> Option<&Slot<'a>> {
        self.slots[field as usize].as_ref()
    }

    /// Sets `field`.
    pub fn set(&mut self, field: Field, version: Version, value: Value<'a>) {
        self.slots[field as usize] = Some(Slot { version, value });
    }

    /// Whether no field is set.
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// The fields that are set, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Field, &Slot<'a>)> {
        Field::ALL.into_iter().filter_map(|field| Some((field, self.get(field)?)))
    }

    /// Whether the inode exists, and since which entry.
    pub fn life(&self) -> Option<(Version, Life<'a>)> {
        match self.get(Field::Life) {
            Some(Slot { version, value: Value::Life(life) }) => Some((*version, *life)),
            _ => None,
        }
    }

    /// The version of the current life, if the inode exists.
    pub fn live_since(&self) -> Option<Version> {
        match self.life() {
            Some((version, Life::Live { .. })) => Some(version),
            _ => None,
        }
    }

    /// Whether a register with `version` that belongs to this inode is shown: not when it was written before the
    /// current life, so that a number that is used again does not bring old attributes back.
    pub fn shows(&self, version: &Version) -> bool {
        self.live_since().is_some_and(|life| version.stamp >= life.stamp)
    }

    /// What `field` shows: nothing unless the inode lives and the value belongs to its current life.
    pub fn visible(&self, field: Field) -> Option<&Slot<'a>> {
        self.get(field).filter(|slot| self.shows(&slot.version))
    }

    /// Whether a `Forget` may remove something here: the inode is removed, or a field is hidden.
    pub fn has_forgettable(&self) -> bool {
        self.iter().any(|(field, slot)| field != Field::Life && !self.shows(&slot.version))
            || matches!(self.life(), Some((_, Life::Removed)))
    }

    /// Removes what `forgotten` covers and what is hidden for good: a removed life, and fields that the current life
    /// does not show. Whatever arrives later was written by a site that had applied `forgotten`, so nothing could show
    /// them again. Returns whether anything went.
    pub fn forget(&mut self, forgotten: &Vector) -> bool {
        let covered = |v: &Version| forgotten.covers_entry(v.stamp.stream(), v.lsn);
        let before = *self;
        for field in Field::ALL {
            let goes = before.get(field).is_some_and(|slot| {
                let hidden = match slot.value {
                    Value::Life(life) => life == Life::Removed,
                    _ => !before.shows(&slot.version),
                };
                hidden && covered(&slot.version)
            });
            if goes {
                self.slots[field as usize] = None;
            }
        }
        *self != before
    }

    /// Appends the one encoding of these fields; of no fields, nothing: the set of fields, the number of distinct
    /// versions, these in ascending order, for each field the index of its version (left out when there is but one),
    /// then the values.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut versions = [None::<Version>; 8];
        let mut distinct = 0;
        let mut present = 0;
        for (field, slot) in self.iter() {
            present |= field.bit();
            if !versions[..distinct].contains(&Some(slot.version)) {
                versions[distinct] = Some(slot.version);
                distinct += 1;
            }
        }
        if present == 0 {
            return;
        }
        versions[..distinct].sort_unstable();
        out.put_u8(present);
        out.put_u8(distinct as u8);
        for version in versions[..distinct].iter().flatten() {
            encode_version(version, out);
        }
        if distinct > 1 {
            for (_, slot) in self.iter() {
                let index = versions[..distinct].iter().position(|v| *v == Some(slot.version));
                out.put_u8(index.unwrap_or_default() as u8);
            }
        }
        for (_, slot) in self.iter() {
            slot.value.encode(out);
        }
    }

    /// Reads what [`Self::encode`] wrote, which must fill `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut out = Self::default();
        let [present, distinct, rest @ ..] = bytes else {
            return if bytes.is_empty() { Ok(out) } else { Err(Malformed("head")) };
        };
        let distinct = usize::from(*distinct);
        let fields = present.count_ones() as usize;
        if distinct == 0 || distinct > fields {
            return Err(Malformed("number of versions"));
        }
        let (mut versions, rest) = rest.split_at_checked(distinct * VERSION_BYTES).ok_or(Malformed("versions"))?;
        let mut table = [None; 8];
        for slot in &mut table[..distinct] {
            *slot = Some(decode_version(&mut versions)?);
        }
        let index_len = if distinct > 1 { fields } else { 0 };
        let (mut indexes, mut values) = rest.split_at_checked(index_len).ok_or(Malformed("indexes"))?;
        for field in Field::ALL.into_iter().filter(|f| present & f.bit() != 0) {
            let index = match indexes.split_first() {
                Some((index, rest)) => {
                    indexes = rest;
                    usize::from(*index)
                }
                None => 0,
            };
            let version = table.get(index).copied().flatten().ok_or(Malformed("index"))?;
            out.set(field, version, Value::decode(field, &mut values)?);
        }
        if values.is_empty() { Ok(out) } else { Err(Malformed("end")) }
    }
}
