//! Says how far an import is: a bar on a terminal, otherwise a line every few seconds.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::count::Count;

/// How often a line is printed off a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(3);

/// Progress over a tree whose size becomes known meanwhile.
pub struct Progress {
    count: Arc<Count>,
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Instant,
    done: u64,
}

impl Progress {
    /// Starts at nothing.
    pub fn new(count: Arc<Count>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(count.get().0);
            let template = "{bar:30} {percent:>3}% {human_pos}/{human_len} entries, {per_sec}, {eta} left {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let now = Instant::now();
        Self { count, bar, started: now, last_line: now, done: 0 }
    }

    /// So many entries more are dealt with.
    pub fn advance(&mut self, entries: u64) {
        self.done += entries;
        let (total, complete) = self.count.get();
        let total = total.max(self.done);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(self.done);
            bar.set_message(if complete { "" } else { "(still counting)" });
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            anstream::eprintln!("{}", self.line(total, complete));
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, total: u64, complete: bool) -> String {
        let rate = self.done as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        let left = (total - self.done) as f64 / rate.max(0.001);
        let percent = self.done * 100 / total.max(1);
        let counting = if complete { "" } else { " (still counting)" };
        format!("{} of {total} entries, {percent}%, {rate:.0} a second, {left:.0} s left{counting}", self.done)
    }
}
