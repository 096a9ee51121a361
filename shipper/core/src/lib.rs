//! What the shipper decides and the formats it reads and writes.
//!
//! Pure: `(state, event, now) → actions`. Nothing here reads a clock, touches a file or knows a runtime.

pub mod ack;
pub mod admit;
pub mod batch;
pub mod caps;
pub mod clock;
pub mod codec;
pub mod cursor;
pub mod history;
pub mod lag;
pub mod merge;
pub mod payload;
pub mod pending;
pub mod pull;
pub mod resume;
pub mod retention;
pub mod session;
