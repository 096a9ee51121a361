//! Values on disk: JSON behind a byte for its format and a checksum.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::disk::Failure;

/// The format of every value.
pub(super) const VALUE_FORMAT: u8 = 1;
/// Format and checksum.
const HEAD_BYTES: usize = 1 + 8;

/// A value as it stands on disk.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; HEAD_BYTES];
    serde_json::to_writer(&mut bytes, value).map_err(|error| Failure::new(error.to_string()))?;
    let (head, json) = bytes.split_at_mut(HEAD_BYTES);
    head[0] = VALUE_FORMAT;
    head[1..].copy_from_slice(&xxhash_rust::xxh3::xxh3_64(json).to_le_bytes());
    Ok(bytes)
}

/// The JSON of a value that is sound.
pub(super) fn check(bytes: &[u8]) -> Result<&[u8], Failure> {
    match bytes.split_at_checked(HEAD_BYTES) {
        Some((head, _)) if head[0] != VALUE_FORMAT => Err(Failure::new(format!("its format {} is unknown", head[0]))),
        Some((head, json)) if head[1..] == xxhash_rust::xxh3::xxh3_64(json).to_le_bytes() => Ok(json),
        Some(_) => Err(Failure::new("its checksum is wrong")),
        None => Err(Failure::new("it is cut short")),
    }
}

/// Reads a value.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(check(bytes)?).map_err(|error| Failure::new(error.to_string()))
}
