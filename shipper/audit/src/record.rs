//! One line of the trail, and the hash that binds it to the one before.
//!
//! A line is a JSON object that ends with `,"hash":"` and 64 hex digits: the SHA-256 of everything before that comma. The
//! object holds the hash of the line before, so a line cannot be removed, edited or put elsewhere unnoticed.

use std::fmt;

use jiff::Timestamp;
use ring::digest;
use serde::{Deserialize, Serialize};

use crate::caps::MAX_RECORD_BYTES;
use crate::event::Event;

/// A SHA-256; in JSON 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Of all these bytes, one after another.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(part);
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        Self(out)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = from_hex(&text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("not 64 hex digits"))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)] as char, DIGITS[usize::from(b & 15)] as char]).collect()
}

pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: &u8| char::from(*c).to_digit(16).filter(|_| !c.is_ascii_uppercase());
    let pairs = text.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| Some((digit(&pair[0])? << 4 | digit(&pair[1])?) as u8)).collect()
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number, from 1.
    pub seq: u64,
    /// The hash of the record before; of the first one, that of the trail's own name.
    pub prev: Hash,
    /// When it was recorded, by the wall clock.
    pub time: Timestamp,
    /// The site in whose trail it is.
    pub recorded_by: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

const HASH_KEY: &[u8] = b",\"hash\":\"";
/// The end of a line: key, 64 digits, quote, brace.
const TAIL_BYTES: usize = HASH_KEY.len() + 64 + 2;

/// Why a line is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// No hash at its end.
    #[error("it is not a record: it does not end with a hash")]
    NoHash,
    /// The hash is of something else.
    #[error("its content is not what its hash says")]
    Hash,
    /// The hash fits and the content does not parse.
    #[error("its content does not parse: {0}")]
    Content(String),
}

/// What chains a record, without the rest of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub seq: u64,
    /// The hash of the one before.
    pub prev: Hash,
    /// Its own hash.
    pub hash: Hash,
}

impl Record {
    /// Its line, with the line break, and its hash. `None` when it is longer than [`MAX_RECORD_BYTES`].
    pub fn encode(&self) -> Option<(Vec<u8>, Hash)> {
        let mut line = serde_json::to_vec(self).ok()?;
        line.pop();
        let hash = Hash::of(&[&line]);
        line.extend_from_slice(HASH_KEY);
        line.extend_from_slice(hex(&hash.0).as_bytes());
        line.extend_from_slice(b"\"}\n");
        (line.len() <= MAX_RECORD_BYTES).then_some((line, hash))
    }

    /// Reads a line without its line break, whose hash must fit.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(line: &[u8]) -> Result<(Self, Hash), Bad> {
        let (body, hash) = split(line)?;
        let mut json = body.to_vec();
        json.push(b'}');
        let record = serde_json::from_slice(&json).map_err(|error| Bad::Content(error.to_string()))?;
        Ok((record, hash))
    }
}

/// The part of a line that its hash covers, and the hash, which fits.
fn split(line: &[u8]) -> Result<(&[u8], Hash), Bad> {
    let (body, hash) = claimed(line)?;
    if Hash::of(&[body]) == hash { Ok((body, hash)) } else { Err(Bad::Hash) }
}

/// The same, whether the hash fits or not.
pub(crate) fn claimed(line: &[u8]) -> Result<(&[u8], Hash), Bad> {
    let at = line.len().checked_sub(TAIL_BYTES).ok_or(Bad::NoHash)?;
    let (body, tail) = line.split_at(at);
    let digits = tail.strip_prefix(HASH_KEY).and_then(|rest| rest.strip_suffix(b"\"}")).ok_or(Bad::NoHash)?;
    let digits = std::str::from_utf8(digits).ok().and_then(from_hex).ok_or(Bad::NoHash)?;
    Ok((body, Hash(digits.try_into().map_err(|_| Bad::NoHash)?)))
}

/// What chains a line, read without the rest of it; its hash must fit.
///
/// # Errors
/// What is wrong with it.
pub fn link(line: &[u8]) -> Result<Link, Bad> {
    #[derive(Deserialize)]
    struct Chain {
        seq: u64,
        prev: Hash,
    }
    let (body, hash) = split(line)?;
    let mut json = body.to_vec();
    json.push(b'}');
    let chain: Chain = serde_json::from_slice(&json).map_err(|error| Bad::Content(error.to_string()))?;
    Ok(Link { seq: chain.seq, prev: chain.prev, hash })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Kind, Severity};

    fn record() -> Record {
        let event = Event::new(Kind::Conflict, Severity::Conflict, "line\nbreak").inode(7).with("register", "mode");
        let time = Timestamp::from_second(1_700_000_000).unwrap();
        Record { seq: 3, prev: Hash([7; 32]), time, recorded_by: "site-a".into(), event }
    }

    #[test]
    fn a_record_is_one_line_and_reads_back() {
        let (line, hash) = record().encode().unwrap();
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        let (read, read_hash) = Record::decode(&line[..line.len() - 1]).unwrap();
        assert_eq!((read, read_hash), (record(), hash));
        assert_eq!(link(&line[..line.len() - 1]).unwrap(), Link { seq: 3, prev: Hash([7; 32]), hash });
        let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((json["inode_id"].as_u64(), json["kind"].as_str()), (Some(7), Some("conflict")));
    }

    #[test]
    fn every_flipped_byte_shows() {
        let (line, _) = record().encode().unwrap();
        for at in 0..line.len() - 1 {
            let mut bad = line[..line.len() - 1].to_vec();
            bad[at] ^= 1;
            assert!(Record::decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn hex_is_strict() {
        assert_eq!(from_hex("00ff"), Some(vec![0, 255]));
        for bad in ["0", "0g", "FF"] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
    }
}
