//! Compression of a batch's payload.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::caps::MAX_BATCH_RAW_BYTES;

/// How the payload of a batch is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Codec {
    /// Stored as it is.
    None,
    /// LZ4 block format.
    Lz4,
    /// Zstandard at a level from 1 to 19.
    Zstd(i8),
}

/// What went wrong with a codec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text names no codec.
    #[error("compression {0:?} is unknown: use none, lz4, zstd or zstd:LEVEL with LEVEL from 1 to 19")]
    Unknown(String),
    /// The number in a header names no codec.
    #[error("codec number {0} is unknown to this version")]
    UnknownNumber(u8),
    /// The header claims more than a batch may hold.
    #[error("payload claims {0} bytes decompressed, the limit is {MAX_BATCH_RAW_BYTES}")]
    TooLarge(usize),
    /// The compressed bytes are not valid, or do not decompress to the length claimed.
    #[error("payload does not decompress to the {0} bytes its header claims")]
    Corrupt(usize),
    /// The compressor failed.
    #[error("compression failed: {0}")]
    Compress(String),
}

impl Codec {
    /// Level of `zstd` without a level.
    pub const DEFAULT_ZSTD_LEVEL: i8 = 3;

    /// The number in a batch header; the level is not recorded, decompression does not need it.
    pub const fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd(_) => 2,
        }
    }

    /// The codec of a number in a batch header.
    pub const fn from_number(number: u8) -> Result<Self, Error> {
        match number {
            0 => Ok(Self::None),
            1 => Ok(Self::Lz4),
            2 => Ok(Self::Zstd(Self::DEFAULT_ZSTD_LEVEL)),
            n => Err(Error::UnknownNumber(n)),
        }
    }

    /// Compresses `raw` into `out`, which is cleared first. Returns the codec used: [`Codec::None`] when compression
    /// does not make it smaller. Contexts are kept for each thread.
    pub fn compress(self, raw: &[u8], out: &mut Vec<u8>) -> Result<Self, Error> {
        out.clear();
        let smaller = match self {
            Self::None => false,
            Self::Lz4 => {
                out.resize(lz4_flex::block::get_maximum_output_size(raw.len()), 0);
                let n = lz4_flex::block::compress_into(raw, out).map_err(|e| Error::Compress(e.to_string()))?;
                out.truncate(n);
                n < raw.len()
            }
            Self::Zstd(level) => {
                out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
                let n = ZSTD_COMPRESSOR
                    .with_borrow_mut(|slot| -> std::io::Result<usize> {
                        let level = i32::from(level);
                        let compressor = match slot {
                            Some((at, compressor)) if *at == level => compressor,
                            slot => &mut slot.insert((level, zstd::bulk::Compressor::new(level)?)).1,
                        };
                        compressor.compress_to_buffer(raw, out)
                    })
                    .map_err(|e| Error::Compress(e.to_string()))?;
                n < raw.len()
            }
        };
        if smaller {
            Ok(self)
        } else {
            out.clear();
            out.extend_from_slice(raw);
            Ok(Self::None)
        }
    }

    /// Decompresses `encoded`, which must yield exactly `raw_len` bytes. Nothing larger than
    /// [`MAX_BATCH_RAW_BYTES`] is ever allocated, whatever the bytes claim.
    pub fn decompress(self, encoded: &[u8], raw_len: usize) -> Result<Vec<u8>, Error> {
        if raw_len > MAX_BATCH_RAW_BYTES {
            return Err(Error::TooLarge(raw_len));
        }
        let corrupt = || Error::Corrupt(raw_len);
        let out = match self {
            Self::None => encoded.to_vec(),
            Self::Lz4 => {
                let mut out = vec![0; raw_len];
                let n = lz4_flex::block::decompress_into(encoded, &mut out).map_err(|_| corrupt())?;
                out.truncate(n);
                out
            }
            Self::Zstd(_) => {
                let mut out = Vec::with_capacity(raw_len);
                ZSTD_DECOMPRESSOR
                    .with_borrow_mut(|slot| -> std::io::Result<usize> {
                        let decompressor = match slot {
                            Some(decompressor) => decompressor,
                            slot => slot.insert(zstd::bulk::Decompressor::new()?),
                        };
                        decompressor.decompress_to_buffer(encoded, &mut out)
                    })
                    .map_err(|_| corrupt())?;
                out
            }
        };
        if out.len() == raw_len { Ok(out) } else { Err(corrupt()) }
    }
}

thread_local! {
    static ZSTD_COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
    static ZSTD_DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::Lz4 => f.pad("lz4"),
            Self::Zstd(Self::DEFAULT_ZSTD_LEVEL) => f.pad("zstd"),
            Self::Zstd(level) => f.pad(&format!("zstd:{level}")),
        }
    }
}

impl FromStr for Codec {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd(Self::DEFAULT_ZSTD_LEVEL)),
            other => other
                .strip_prefix("zstd:")
                .and_then(|level| level.parse().ok())
                .filter(|level| (1..=19).contains(level))
                .map(Self::Zstd)
                .ok_or_else(|| Error::Unknown(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Codec {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Codec> for String {
    fn from(codec: Codec) -> String {
        codec.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Codec; 4] = [Codec::None, Codec::Lz4, Codec::Zstd(1), Codec::Zstd(19)];

    #[test]
    fn every_codec_returns_what_it_was_given() -> Result<(), Error> {
        let compressible = b"metadata ".repeat(1000);
        let incompressible: Vec<u8> = (0u32..300).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for codec in ALL {
            for raw in [&compressible[..], &incompressible, b""] {
                let mut out = Vec::new();
                let used = codec.compress(raw, &mut out)?;
                assert!(out.len() <= raw.len(), "a batch never grows");
                assert_eq!(used.decompress(&out, raw.len())?, raw);
            }
        }
        Ok(())
    }

    /// Invariant 10: a bomb costs no more than the cap.
    #[test]
    fn decompression_stops_at_the_claimed_length_and_at_the_cap() -> Result<(), Error> {
        let zeros = vec![0; MAX_BATCH_RAW_BYTES];
        for codec in [Codec::Lz4, Codec::Zstd(3)] {
            let mut bomb = Vec::new();
            codec.compress(&zeros, &mut bomb)?;
            assert!(bomb.len() < 32 * 1024);
            assert_eq!(codec.decompress(&bomb, 1000), Err(Error::Corrupt(1000)));
            let too_large = MAX_BATCH_RAW_BYTES + 1;
            assert_eq!(codec.decompress(&bomb, too_large), Err(Error::TooLarge(too_large)));
        }
        Ok(())
    }

    #[test]
    fn names_read_back() {
        for codec in ALL {
            assert_eq!(codec.to_string().parse(), Ok(codec));
        }
        for bad in ["", "gzip", "zstd:0", "zstd:20", "zstd:x"] {
            assert!(bad.parse::<Codec>().is_err(), "{bad}");
        }
    }
}
