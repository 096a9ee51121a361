//! The operator's command line.
//!
//! Data goes to standard output and nothing else does; messages, progress and questions go to standard error.

pub mod args;
pub mod bench;
pub mod client;
pub mod commands;
pub mod context;
pub mod demo;
pub mod dev;
pub mod duration;
pub mod follow;
pub mod founding;
pub mod namespace;
pub mod op_json;
pub mod output;
pub mod path_text;
mod relay;
mod run;
pub mod stream_names;
pub mod tree;

pub use context::Context;
pub use run::main;
