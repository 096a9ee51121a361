//! Real shippers that a control process of the test's own governs. Invariants are numbered as in the design.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod acks;
mod failover;
mod lease;
mod site;
mod switchover;
