//! The journal on disk: streams of batches in segments, kept as they came.
//!
//! Files only: everything here blocks, and nothing knows a runtime. The format, byte for byte, and the rules of
//! recovery are in `docs/protocol/journal.md`.
//!
//! * [`Journal::open`] finds what was durable, cuts torn tails and refuses damage.
//! * [`Writer::append`] checks batches, writes them, makes them durable with one sync, and publishes them.
//! * [`Reader::next`] hands out durable batches and follows the writer.
//! * [`Journal::remove_front`] removes what is no longer needed; [`Journal::begin_after`] goes on behind a gap.
//! * [`dump`], [`verify`] and [`compare`] read a journal from outside, without changing it.

pub mod compare;
mod current;
mod damage;
pub mod dump;
mod files;
mod front;
mod journal;
mod offline;
pub mod open;
mod prepare;
pub mod read;
pub mod remove;
mod segment;
mod stream;
pub mod verify;
mod walk;
mod window;
pub mod write;
pub mod writer;

pub use damage::Damage;
pub use files::{File, Files, RealFiles};
pub use journal::{Journal, Options, StreamUsage, Usage};
pub use open::Recovered;
pub use read::Reader;
pub use remove::{Removed, SegmentInfo};
pub use stream::Position;
pub use write::Writer;
