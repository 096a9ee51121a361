//! What the product promises, tried on real processes: every scenario starts clusters of its own with `cfs dev up`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod bridge;
mod catch_up;
mod crashes;
mod damage;
mod demo;
mod disk_full;
mod follow;
mod harness;
mod import;
mod peers;
mod producers;
mod source;
mod status;
mod tree;
