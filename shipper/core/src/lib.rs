//! What the shipper decides and the formats it reads and writes.
//!
//! Pure: `(state, event, now) → actions`. Nothing here reads a clock, touches a file or knows a runtime.

pub mod batch;
pub mod caps;
pub mod codec;
pub mod payload;
