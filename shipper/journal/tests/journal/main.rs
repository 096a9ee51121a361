//! Tests of the journal as its users see it. They name the invariants of the design that they defend.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod crash;
mod damage;
mod disk;
mod faults;
mod follow;
mod golden;
mod history;
mod offline;
mod prepared;
mod remove;
