//! Lines of several processes of one machine in the order in which they were told.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::commands::replication::history::moment_us;
use crate::output::Row;

/// A line waits for so long for earlier ones of another process.
pub(super) const HOLD: Duration = Duration::from_millis(150);
/// More than this do not wait.
pub(super) const MOST_WAITING: usize = 8192;

/// A line of one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    /// Since the Unix epoch.
    pub(super) at_ns: i64,
    /// `control` or `shipper`.
    pub(super) process: &'static str,
    /// Empty where lines are missing.
    pub(super) level: String,
    pub(super) target: String,
    pub(super) text: String,
    /// So many lines are missing here, because they came faster than they were read.
    pub(super) lost: u64,
}

impl Row for Line {
    const SCHEMA: &'static str = "cfs.trace/1";

    fn heading() -> String {
        String::new()
    }

    fn line(&self) -> String {
        let (at, process) = (moment_us(self.at_ns), self.process);
        match self.lost {
            0 => format!("{at} {process} {:>5} {}: {}", self.level, self.target, self.text),
            1 => format!("{at} {process}  LOST one line: it came faster than it was read"),
            lost => format!("{at} {process}  LOST {lost} lines: they came faster than they were read"),
        }
    }
}

/// Holds lines for a moment, so that they leave in the order of their times. All of one process are in order already.
#[derive(Debug, Default)]
pub(super) struct Merge {
    /// By time, then by arrival; with when they arrived.
    waiting: BTreeMap<(i64, u64), (Duration, Line)>,
    arrived: u64,
}

impl Merge {
    /// Takes a line that arrived `now`; returns the first one if too many wait.
    pub(super) fn push(&mut self, line: Line, now: Duration) -> Option<Line> {
        self.arrived += 1;
        self.waiting.insert((line.at_ns, self.arrived), (now, line));
        (self.waiting.len() > MOST_WAITING).then(|| self.waiting.pop_first())?.map(|(_, (_, line))| line)
    }

    /// The next line that has waited long enough.
    pub(super) fn ready(&mut self, now: Duration) -> Option<Line> {
        let first = self.waiting.first_entry()?;
        (first.get().0 + HOLD <= now).then(|| first.remove().1)
    }

    /// The next line, however long it has waited.
    pub(super) fn rest(&mut self) -> Option<Line> {
        self.waiting.pop_first().map(|(_, (_, line))| line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at_ns: i64, process: &'static str) -> Line {
        Line { at_ns, process, level: "DEBUG".into(), target: "t".into(), text: at_ns.to_string(), lost: 0 }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn lines_of_two_processes_come_in_the_order_of_their_times() {
        let mut merge = Merge::default();
        for (at, process, arrived) in [(10, "control", 0), (30, "control", 1), (20, "shipper", 90), (40, "shipper", 91)]
        {
            assert_eq!(merge.push(line(at, process), ms(arrived)), None);
        }
        assert_eq!(merge.ready(ms(100)), None, "an earlier one may come yet");
        let ready: Vec<i64> = std::iter::from_fn(|| merge.ready(ms(151))).map(|line| line.at_ns).collect();
        assert_eq!(ready, [10], "the next one has not waited long enough");
        let ready: Vec<i64> = std::iter::from_fn(|| merge.ready(ms(240))).map(|line| line.at_ns).collect();
        assert_eq!(ready, [20, 30]);
        assert_eq!((merge.rest().map(|line| line.at_ns), merge.rest()), (Some(40), None));
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut merge = Merge::default();
        for at in 0..MOST_WAITING {
            assert_eq!(merge.push(line(at as i64, "shipper"), ms(0)), None);
        }
        assert_eq!(merge.push(line(-1, "control"), ms(0)).map(|line| line.at_ns), Some(-1));
        assert_eq!(merge.waiting.len(), MOST_WAITING);
    }

    #[test]
    fn a_line_names_its_time_its_process_and_what_is_missing() {
        let told = line(1_764_527_926_123_456_789, "control").line();
        assert_eq!(told, "2025-11-30T18:38:46.123456Z control DEBUG t: 1764527926123456789");
        let lost = Line { lost: 7, ..line(0, "shipper") }.line();
        assert_eq!(lost, "1970-01-01T00:00:00.000000Z shipper  LOST 7 lines: they came faster than they were read");
    }
}
