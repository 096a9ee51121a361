//! The metadata store: what the entries of all streams add up to.
//!
//! [`Store`] says what a store does; [`HeedStore`] keeps it on disk and [`MemoryStore`] in memory, with the same
//! result. Registers and their merge are `cfs_shipper_core::merge`'s; the encodings are in `docs/protocol/store.md`.

pub mod apply;
mod backend;
pub mod digest;
mod engine;
pub mod lmdb;
pub mod lost;
mod memory;
pub mod pace;
pub mod repair;
mod row;
pub mod snapshot;
mod store;
pub mod structure;
pub mod table;
#[cfg(test)]
mod tests;
pub mod verify;
pub mod view;

pub use engine::Engine;
pub use store::{Position, ProducerState, Store};

/// A store in a directory, on LMDB.
pub type HeedStore = Engine<lmdb::Lmdb>;
/// A store that vanishes with the process.
pub type MemoryStore = Engine<memory::Memory>;
