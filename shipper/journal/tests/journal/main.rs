//! Tests of the journal as its users see it. They name the invariants of the design that they defend.

mod crash;
mod damage;
mod disk;
mod faults;
mod follow;
mod golden;
mod history;
mod offline;
mod prepared;
