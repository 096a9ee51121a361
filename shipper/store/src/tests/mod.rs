//! Tests of the store as its users see it, on both backends.

mod conflicts;
mod conformance;
mod convergence;
mod oracle;
mod pair;
mod repair;
mod stream;
mod world;
