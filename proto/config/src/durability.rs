//! When an append is acknowledged.

use std::fmt;
use std::str::FromStr;

/// Where an entry must be on stable storage before its producer is told so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// On the primary.
    #[default]
    Local,
    /// On the primary and on so many other sites, at least one.
    Remote(u8),
}

/// The text names no durability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("durability {0:?} is unknown: use local, or remote(K) with K from 1 to {max}", max = Durability::MAX_COPIES)]
pub struct Error(String);

impl Durability {
    /// Most other sites that can be asked for: there are 255 sites at most.
    pub const MAX_COPIES: u8 = 254;

    /// How many other sites must hold an entry.
    pub const fn copies(self) -> usize {
        match self {
            Self::Local => 0,
            Self::Remote(copies) => copies as usize,
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.pad("local"),
            Self::Remote(copies) => f.pad(&format!("remote({copies})")),
        }
    }
}

impl FromStr for Durability {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "local" {
            return Ok(Self::Local);
        }
        text.strip_prefix("remote(")
            .and_then(|rest| rest.strip_suffix(')')?.parse().ok())
            .filter(|copies| (1..=Self::MAX_COPIES).contains(copies))
            .map(Self::Remote)
            .ok_or_else(|| Error(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_reads_back_what_it_prints() {
        for durability in [Durability::Local, Durability::Remote(1), Durability::Remote(254)] {
            assert_eq!(durability.to_string().parse(), Ok(durability));
        }
        for bad in ["", "remote", "remote(0)", "remote(255)", "remote(1", "Local", "remote(-1)"] {
            assert!(bad.parse::<Durability>().is_err(), "{bad}");
        }
    }
}
