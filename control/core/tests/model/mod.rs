//! A little cluster without threads, clocks or sockets: several sites, each with a control process that runs the real
//! [`Local`] and, where it leads, the real [`Coordinator`], a shipper reduced to its promises, a replicated log reduced to
//! terms and majorities, and links that can be cut, slow or held.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a model for tests; each test uses a part of it"
)]

pub mod check;
pub mod control;
pub mod raft;
pub mod shipper;
pub mod wire;
pub mod world;

pub use world::World;
