//! The parts of `cfs demo`.

mod compare;
mod import;
mod live;
mod tamper;

pub use compare::{Comparison, compare};
pub use import::{Imported, import};
pub use live::{Change, make_changes};
pub use tamper::{Victim, choose as choose_victim, damage};
