//! All limits of the trail, in one place (invariant 10). Units are in the names.

/// Longest line of the trail, its line break included. The largest value of a register, 256 KiB, fits in Base64.
pub const MAX_RECORD_BYTES: usize = 512 * 1024;
/// Longest free text in a record.
pub const MAX_TEXT_BYTES: usize = 4096;
/// Size at which a segment is closed, unless an eighth of the retention is less.
pub const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// A segment is closed at this size at the earliest, however small the retention.
pub const MIN_SEGMENT_BYTES: u64 = 64 * 1024;
/// Checkpoints that are kept of one trail: the newest.
pub const MAX_CHECKPOINTS: usize = 1024;
/// Longest line of a file with checkpoints.
pub const MAX_CHECKPOINT_BYTES: usize = 1024;
/// Findings that `verify` lists; further ones are counted.
pub const MAX_PROBLEMS: usize = 100;
/// Most records that a reader keeps for `--tail`.
pub const MAX_TAIL: usize = 100_000;
/// Bytes of records that a reader keeps for `--tail`.
pub const MAX_TAIL_BYTES: usize = 64 * 1024 * 1024;
/// Names of events that are remembered beside the lost writes of the store: decisions and late entries, the newest.
pub const MAX_KNOWN_OTHERS: usize = 16_384;
