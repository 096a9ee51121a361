//! The parts of `cfs demo`.

use std::time::Duration;

mod catch_up;
mod compare;
mod import;
mod live;
mod load;
mod narrator;
mod outcome;
mod primary;
mod tamper;

pub use catch_up::Watcher;
pub use compare::{Comparison, compare};
pub use import::{Imported, import};
pub use live::{Change, make_changes};
pub use load::{Load, Written};
pub use narrator::Narrator;
pub use outcome::{DIFFERENT, Failover, IDENTICAL, Outcome, Rejoin, Switchover};
pub use primary::{await_automatic, phases, switch_over};
pub use tamper::{Victim, choose as choose_victim, damage};

/// How long anything may take that normally takes seconds: machines are busy sometimes.
const LIMIT: Duration = Duration::from_secs(60);

/// Whether a path of the store is the entry `name` of the root directory, or lies below it.
fn is_in(path: &[u8], name: &str) -> bool {
    let below = path.strip_prefix(b"/").and_then(|path| path.strip_prefix(name.as_bytes()));
    below.is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_name_is_another_one() {
        for path in ["/.load", "/.load/1"] {
            assert!(is_in(path.as_bytes(), ".load"), "{path}");
        }
        for path in ["/", "/.loads", "/a/.load", "/.loa"] {
            assert!(!is_in(path.as_bytes(), ".load"), "{path}");
        }
    }
}
