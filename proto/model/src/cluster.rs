//! The name of a cluster.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is wrong with a cluster id that came from outside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cluster id {0:?} is not usable: write 32 lower-case hex digits as 8-4-4-4-12")]
pub struct Error(String);

/// Number drawn at random when a cluster is founded; it never changes and no two clusters share it. Its only text
/// form is 32 lower-case hex digits, grouped 8-4-4-4-12.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

/// Offsets of the dashes in the text form.
const DASHES: [usize; 4] = [8, 13, 18, 23];
const TEXT_LENGTH: usize = 36;

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(TEXT_LENGTH);
        for byte in self.0 {
            for nibble in [byte >> 4, byte & 15] {
                if DASHES.contains(&text.len()) {
                    text.push('-');
                }
                text.extend(char::from_digit(u32::from(nibble), 16));
            }
        }
        f.pad(&text)
    }
}

impl Serialize for ClusterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClusterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClusterId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error(text.chars().take(TEXT_LENGTH + 1).collect());
        if text.len() != TEXT_LENGTH {
            return Err(bad());
        }
        let mut id = [0u8; 16];
        let mut digits = 0;
        for (at, byte) in text.bytes().enumerate() {
            let value = match byte {
                b'-' if DASHES.contains(&at) => continue,
                b'0'..=b'9' if !DASHES.contains(&at) => byte - b'0',
                b'a'..=b'f' if !DASHES.contains(&at) => byte - b'a' + 10,
                _ => return Err(bad()),
            };
            if let Some(slot) = id.get_mut(digits / 2) {
                *slot = (*slot << 4) | value;
            }
            digits += 1;
        }
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_has_one_text_form() {
        let id = ClusterId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
        assert_eq!(id.to_string(), "00010203-0405-0607-0809-0a0b0c0d0eff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "000102030405060708090a0b0c0d0eff",
            "00010203-0405-0607-0809-0A0B0C0D0EFF",
            "0001020304-05-0607-0809-0a0b0c0d0eff",
            "00010203-0405-0607-0809-0a0b0c0d0ef-",
            "00010203-0405-0607-0809-0a0b0c0d0eff0",
            "00010203-0405-0607-0809-0a0b0c0d0eé",
        ] {
            assert!(bad.parse::<ClusterId>().is_err(), "{bad}");
        }
    }
}
