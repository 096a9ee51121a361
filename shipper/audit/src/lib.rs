//! The audit trail of one site: what happened, one JSON object a line, each carrying the hash of the one before.
//!
//! A [`Trail`] appends and prunes; [`read`] reads, [`verify`](fn@verify) checks, both also while a trail is open elsewhere. The
//! format, and what a verifier trusts, is in `docs/audit.md`. Everything here blocks.

pub mod caps;
pub mod checkpoint;
mod disk;
pub mod event;
mod key;
pub mod known;
mod prune;
pub mod read;
pub mod record;
mod segment;
mod trail;
mod verify;

pub use checkpoint::{Checkpoint, Held};
pub use event::{Event, Kind, LostValue, Severity, Stamp};
pub use record::{Hash, Record};
pub use trail::{Error, Head, Opened, Options, Pruned, Trail};
pub use verify::{Problem, Report, verify};
