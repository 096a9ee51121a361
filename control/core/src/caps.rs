//! All limits of the control process's decisions, in one place (invariant 10). Units are in the names.

/// Opened epochs that are remembered, as at the shippers.
pub const MAX_OPENED_EPOCHS: usize = 10_000;
/// Finished changes of primary that are remembered.
pub const MAX_CHANGES: usize = 200;
/// Audit events that are kept in the replicated state.
pub const MAX_EVENTS: usize = 1000;
/// Sites of a cluster, witnesses included.
pub const MAX_SITES: usize = 32;
/// Longest text that a command carries: a reason, an evidence, an operator's name.
pub const MAX_TEXT_BYTES: usize = 2048;
/// Invitations that are remembered.
pub const MAX_INVITATIONS: usize = 32;
/// Longest that an invitation is good.
pub const MAX_INVITATION_MS: u64 = 60 * 60 * 1000;
/// Length of a SHA-256 in hexadecimal digits.
pub const INVITATION_HASH_BYTES: usize = 64;
/// Most voters; further sites are learners.
pub const MAX_VOTERS: usize = 5;
/// Bounds of the lease, in milliseconds.
pub const LEASE_RANGE_MS: std::ops::RangeInclusive<u64> = 300..=60_000;
/// The lease of a new cluster: long enough for a round trip of 150 ms and a busy link, short enough for a failover in
/// less than two seconds.
pub const DEFAULT_LEASE_MS: u64 = 1000;
