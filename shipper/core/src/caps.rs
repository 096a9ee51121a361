//! All limits of the shipper, in one place (invariant 10). Units are in the names.

/// Longest encoded operation in an entry.
pub const MAX_ENTRY_BYTES: usize = 256 * 1024;
/// Longest name of a directory entry or extended attribute, as in Linux.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest target of a symbolic link, as in Linux.
pub const MAX_TARGET_BYTES: usize = 4096;
/// Longest value of an extended attribute, as in Linux.
pub const MAX_XATTR_BYTES: usize = 64 * 1024;
/// Longest producer name.
pub const MAX_PRODUCER_BYTES: usize = 128;
/// Producers that a site remembers; beyond it the one idle for longest is forgotten.
pub const MAX_PRODUCERS: usize = 4096;

/// Entries in one batch, whatever `batch-size` says.
pub const MAX_BATCH_ENTRIES: u32 = 65_536;
/// Payload of one batch before compression. A batch is closed before it would grow past this.
pub const MAX_BATCH_RAW_BYTES: usize = 4 * 1024 * 1024;
/// Payload of one batch after compression: an incompressible payload is stored as it is.
pub const MAX_BATCH_ENCODED_BYTES: usize = MAX_BATCH_RAW_BYTES;
/// A whole batch: header and payload.
pub const MAX_BATCH_BYTES: usize = crate::batch::MAX_HEADER_BYTES + MAX_BATCH_ENCODED_BYTES;

/// Entries waiting for the group commit, over all producers.
pub const MAX_QUEUED_ENTRIES: usize = 32_768;
/// Bytes waiting for the group commit, over all producers.
pub const MAX_QUEUED_BYTES: usize = 8 * 1024 * 1024;
/// Entries in one `Append` message.
pub const MAX_APPEND_ENTRIES: usize = 4096;
/// Bytes of one `Append` message.
pub const MAX_APPEND_BYTES: usize = 2 * 1024 * 1024;

/// Bytes that a source may send to one receiver beyond what the receiver has made durable.
pub const MAX_CREDIT_BYTES: usize = 32 * 1024 * 1024;
/// Batches in one message between sites.
pub const MAX_BATCHES_PER_FRAME: usize = 256;
/// Bytes of batches that a source gathers into one message; a single larger batch still goes alone.
pub const FRAME_TARGET_BYTES: usize = 512 * 1024;
/// Longest gRPC message between sites.
pub const MAX_FRAME_BYTES: usize = MAX_BATCH_BYTES + FRAME_TARGET_BYTES + 64 * 1024;

/// Registers that are compared before one side of a split is chosen; beyond it they are not counted.
pub const MAX_CONTESTED_REGISTERS: usize = 100_000;
/// Writes of registers in one message for it.
pub const MAX_LOSING_WRITES: usize = 4096;

/// Rows of a store that a source gathers into one part of a copy; a single larger row still goes alone.
pub const COPY_PART_BYTES: usize = 512 * 1024;
/// Parts of a copy that a source sends beyond what the receiver has installed.
pub const MAX_COPY_PARTS_AHEAD: u64 = 4;
/// Copies that one site gives at a time.
pub const MAX_COPIES_GIVEN: usize = 4;

/// Entries in one transaction of the store.
pub const MAX_TRANSACTION_ENTRIES: usize = 4096;
/// Raw payload bytes in one transaction of the store.
pub const MAX_TRANSACTION_BYTES: usize = 4 * 1024 * 1024;

/// Registers of one inode in one message of a repair, about.
pub const REPAIR_PART_BYTES: usize = 1024 * 1024;

/// How far the stream's clock may be ahead of the site's own time before the origin refuses to append: 24 h.
pub const MAX_CLOCK_AHEAD_NS: u64 = 24 * 3600 * 1_000_000_000;
/// Opened epochs that are remembered.
pub const MAX_OPENED_EPOCHS: usize = 10_000;
/// Marks in a timeline of one stream.
pub const MAX_LAG_MARKS: usize = 1024;
