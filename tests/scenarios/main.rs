//! What the product promises, tried on real processes: every scenario starts clusters of its own with `cfs dev up`.
//!
//! Those that take long are campaigns, and run only when they are asked for:
//! `CFS_LONG=1 CFS_ROUNDS=50 cargo test --release -p cfs --test scenarios -- --ignored --nocapture campaign`

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod active;
mod audit;
mod bad_input;
mod bit_rot;
mod bridge;
mod catch_up;
mod certificates;
mod cluster;
mod cold_start;
mod container;
mod crashes;
mod damage;
mod debug;
mod demo;
mod disk_full;
mod enrolment;
mod failover;
mod follow;
mod handover;
mod harness;
mod hooks;
mod idle;
mod import;
mod invitations;
mod load;
mod netns;
mod partition;
mod pause;
mod peers;
mod preflight;
mod probes;
mod process;
mod producers;
mod runbook;

mod prometheus;
mod renewal;
mod retention;
mod returns;
mod settings;
mod source;
mod split;
mod status;
mod switchover;
mod tree;
mod truth;
mod two_sites;
mod upgrade;
