//! Tests of the store as its users see it, on both backends.

mod conformance;
mod convergence;
mod oracle;
mod pair;
mod stream;
mod world;
