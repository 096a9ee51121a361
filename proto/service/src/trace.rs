//! What the process does at this moment, for whoever listens: events also below the level of its log.
//!
//! While nobody listens no event is even looked at: the level of this layer is off. Each listener has a queue of its own.
//! What finds no room in it is dropped and counted, so that a slow reader delays nobody and knows what it missed.

mod modules;
mod text;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, Filter};

pub use modules::{FRIENDLY, OWN, Wanted};

/// Listeners at the same time.
pub const MAX_LISTENERS: usize = 4;
/// Lines that wait for one of them.
pub const QUEUE: usize = 4096;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it happened, on the wall clock.
    pub at: SystemTime,
    /// How much it matters.
    pub level: Level,
    /// The module that tells it.
    pub target: &'static str,
    /// The message, then the fields as `name=value`; one line, of a bounded length.
    pub text: String,
}

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// An event.
    Line(Line),
    /// So many lines that were wanted found no room before the next one.
    Lost(u64),
}

/// There are as many listeners as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_LISTENERS} traces of this process run already: end one of them first")]
pub struct Full;

/// Where one listener's lines go.
struct Tap {
    wanted: Wanted,
    lines: mpsc::Sender<(u64, Line)>,
    lost: AtomicU64,
}

impl Tap {
    fn offer(&self, line: &Line) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if self.lines.try_send((lost, line.clone())).is_err() {
            self.lost.fetch_add(lost.saturating_add(1), Ordering::Relaxed);
        }
    }
}

/// All listeners of a process.
#[derive(Default)]
pub struct Taps(ArcSwap<Vec<Arc<Tap>>>);

impl fmt::Debug for Taps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taps").field("listeners", &self.0.load().len()).finish()
    }
}

static TAPS: OnceLock<Arc<Taps>> = OnceLock::new();

/// Those of this process. Nobody hears anything before its log was started.
pub fn taps() -> &'static Arc<Taps> {
    TAPS.get_or_init(Arc::default)
}

impl Taps {
    /// Begins to listen; ends when the listener is dropped.
    ///
    /// # Errors
    /// [`Full`]; nothing has changed then.
    pub fn listen(self: &Arc<Self>, wanted: Wanted) -> Result<Listener, Full> {
        let (sender, lines) = mpsc::channel(QUEUE);
        let tap = Arc::new(Tap { wanted, lines: sender, lost: AtomicU64::new(0) });
        let before = self.0.rcu(|taps| {
            let mut taps = Vec::clone(taps);
            if taps.len() < MAX_LISTENERS {
                taps.push(tap.clone());
            }
            taps
        });
        if before.len() >= MAX_LISTENERS {
            return Err(Full);
        }
        // Whether a place in the code is of interest is remembered there.
        tracing::callsite::rebuild_interest_cache();
        Ok(Listener { taps: self.clone(), tap, lines, next: None })
    }

    fn remove(&self, tap: &Arc<Tap>) {
        self.0.rcu(|taps| taps.iter().filter(|other| !Arc::ptr_eq(other, tap)).cloned().collect::<Vec<_>>());
        tracing::callsite::rebuild_interest_cache();
    }

    fn wants(&self, meta: &Metadata<'_>) -> bool {
        meta.is_event() && self.0.load().iter().any(|tap| tap.wanted.covers(meta.target(), *meta.level()))
    }

    /// The layer that feeds them, behind its filter.
    pub fn layer<S>(self: &Arc<Self>) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    {
        Feed(self.clone()).with_filter(Demand(self.clone()))
    }
}

/// Hands events to whoever wants them.
struct Feed(Arc<Taps>);

impl<S: Subscriber> Layer<S> for Feed {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        let taps = self.0.0.load();
        let mut line: Option<Line> = None;
        for tap in taps.iter().filter(|tap| tap.wanted.covers(meta.target(), *meta.level())) {
            let made =
                || Line { at: SystemTime::now(), level: *meta.level(), target: meta.target(), text: text::of(event) };
            tap.offer(line.get_or_insert_with(made));
        }
    }
}

/// Lets through what somebody wants.
struct Demand(Arc<Taps>);

impl<S> Filter<S> for Demand {
    fn enabled(&self, meta: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.0.wants(meta)
    }

    fn callsite_enabled(&self, meta: &'static Metadata<'static>) -> Interest {
        if self.0.wants(meta) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let most = self.0.0.load().iter().map(|tap| LevelFilter::from_level(tap.wanted.level())).max();
        Some(most.unwrap_or(LevelFilter::OFF))
    }
}

/// One that listens.
pub struct Listener {
    taps: Arc<Taps>,
    tap: Arc<Tap>,
    lines: mpsc::Receiver<(u64, Line)>,
    next: Option<Line>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("wanted", &self.tap.wanted).finish_non_exhaustive()
    }
}

impl Listener {
    /// The next line, or how many are missing before it. May be dropped half-way without losing any.
    pub async fn next(&mut self) -> Heard {
        if let Some(line) = self.next.take() {
            return Heard::Line(line);
        }
        let (lost, line) = match self.lines.try_recv() {
            Ok(one) => one,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                // Nothing may come after what was lost.
                let lost = self.tap.lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    return Heard::Lost(lost);
                }
                match self.lines.recv().await {
                    Some(one) => one,
                    // The tap that it holds sends.
                    None => std::future::pending().await,
                }
            }
        };
        if lost > 0 {
            self.next = Some(line);
            return Heard::Lost(lost);
        }
        Heard::Line(line)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.taps.remove(&self.tap);
    }
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;
