//! What a daemon and the service manager that runs it tell each other: readiness, signs of life, signals, log lines. And what a
//! daemon tells whoever [traces](trace) it.
//!
//! Without a service manager nothing is told, and logs are lines on standard error.

pub mod certificates;
pub mod debug;
pub mod logs;
pub mod manager;
pub mod reload;
pub mod signals;
pub mod trace;
pub mod usage;
pub mod watchdog;
mod window;

pub use signals::{Signal, Signals};
pub use watchdog::Watchdog;
pub use window::Window;
