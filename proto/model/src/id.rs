//! Names and numbers of sites, epochs and streams.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is wrong with an id that came from outside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The name is not a DNS label.
    #[error(
        "site name {0:?} is not usable: use 1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit"
    )]
    SiteName(String),
    /// The text is not `SITE.INCARNATION`.
    #[error("stream {0:?} is not usable: write it as SITE_NUMBER.INCARNATION, as in 1.1")]
    Stream(String),
    /// The text is not an epoch.
    #[error("epoch {0:?} is not usable: write it as GENERATION.FORCING_SITE.COUNTER, as in 0.0.7, or as COUNTER")]
    Epoch(String),
}

/// Number of a site, 1 to 255. 0 stands for "no site".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct SiteId(pub u8);

impl SiteId {
    /// As the owner of an opened epoch: every site that stores data appends in it (active-active).
    pub const EVERY: Self = Self(0);
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Name of a site: a lower-case DNS label, because it is also a name in the site's certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SiteName(String);

impl SiteName {
    /// Checks and wraps a name.
    pub fn new(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        let bytes = name.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        let edge = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
        if bytes.len() <= 63 && bytes.iter().all(inner) && edge(bytes.first()) && edge(bytes.last()) {
            Ok(Self(name))
        } else {
            Err(Error::SiteName(name))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SiteName {
    type Error = Error;
    fn try_from(name: String) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl FromStr for SiteName {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl From<SiteName> for String {
    fn from(name: SiteName) -> String {
        name.0
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

const COUNTER_BITS: u32 = 40;
const COUNTER_MASK: u64 = (1 << COUNTER_BITS) - 1;

macro_rules! packed_number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Packed, from the high bits: generation (16 bits), forcing site (8), counter (40); so the order of the
        /// number is the order of the triple. Generation and forcing site are 0 until a forced recovery.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl $name {
            /// Packs the triple; bits of `counter` above 40 are dropped.
            pub const fn new(generation: u16, forced_by: SiteId, counter: u64) -> Self {
                Self(((generation as u64) << 48) | ((forced_by.0 as u64) << COUNTER_BITS) | (counter & COUNTER_MASK))
            }

            /// How many forced recoveries came before.
            pub const fn generation(self) -> u16 {
                (self.0 >> 48) as u16
            }

            /// The site that forced this generation; 0 in generation 0.
            pub const fn forced_by(self) -> SiteId {
                SiteId((self.0 >> COUNTER_BITS) as u8)
            }

            /// The counter within the generation.
            pub const fn counter(self) -> u64 {
                self.0 & COUNTER_MASK
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.generation() == 0 && self.forced_by().0 == 0 {
                    write!(f, "{}", self.counter())
                } else {
                    write!(f, "{}.{}.{}", self.generation(), self.forced_by(), self.counter())
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

packed_number! {
    /// The fencing token: raised at each change of primary, and totally ordered.
    Epoch
}

packed_number! {
    /// Which life of a site's stream this is; a new one is allotted whenever the old one cannot be continued.
    Incarnation
}

impl FromStr for Epoch {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Epoch(text.to_owned());
        let parts: Vec<&str> = text.split('.').collect();
        let counter = |t: &str| t.parse::<u64>().ok().filter(|c| *c <= COUNTER_MASK).ok_or_else(bad);
        match parts.as_slice() {
            [c] => Ok(Self::new(0, SiteId(0), counter(c)?)),
            [g, s, c] => {
                Ok(Self::new(g.parse().map_err(|_| bad())?, SiteId(s.parse().map_err(|_| bad())?), counter(c)?))
            }
            _ => Err(bad()),
        }
    }
}

/// Position in a stream, from 1 and without gaps; 0 is "before the first entry".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before the first entry.
    pub const ZERO: Self = Self(0);

    /// The position `n` entries further on; sticks at the highest number.
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// The position after this one.
    pub const fn next(self) -> Self {
        self.plus(1)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The append-only log of one origin site and one incarnation. Text form: `SITE_NUMBER.INCARNATION`, where the
/// incarnation is its plain number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId {
    /// Whose entries these are.
    pub site: SiteId,
    /// Which life of that site's stream.
    pub incarnation: Incarnation,
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.site, self.incarnation.0)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StreamId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Stream(text.to_owned());
        let (site, incarnation) = text.split_once('.').ok_or_else(bad)?;
        Ok(Self {
            site: SiteId(site.parse().map_err(|_| bad())?),
            incarnation: Incarnation(incarnation.parse().map_err(|_| bad())?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_order_by_generation_then_forcing_site_then_counter() {
        let a = Epoch::new(0, SiteId(0), COUNTER_MASK);
        let b = Epoch::new(1, SiteId(1), 1);
        let c = Epoch::new(1, SiteId(2), 1);
        assert!(a < b && b < c);
        assert_eq!((c.generation(), c.forced_by(), c.counter()), (1, SiteId(2), 1));
        for e in [a, b, c] {
            assert_eq!(e.to_string().parse::<Epoch>(), Ok(e));
        }
    }

    #[test]
    fn site_names_are_dns_labels() {
        for good in ["a", "site-a", "0x"] {
            assert!(SiteName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "Site", "a.b", "a b", &"x".repeat(64)] {
            assert!(SiteName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn streams_read_back_what_they_print() {
        let stream = StreamId { site: SiteId(7), incarnation: Incarnation::new(2, SiteId(1), 3) };
        assert_eq!(stream.to_string().parse::<StreamId>(), Ok(stream));
        assert!("7".parse::<StreamId>().is_err());
        assert!("256.1".parse::<StreamId>().is_err());
    }
}
