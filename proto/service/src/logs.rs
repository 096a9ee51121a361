//! Log lines on standard error. Where that is the journal of systemd, each begins with its priority and has no time of its
//! own: the journal gives it one, and `journalctl -p warning` works. Beside them, [`crate::trace`] tells whoever listens.

use std::io::{self, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use cfs_config::{Config, LogFormat};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::trace;

/// The filter in force.
struct InForce {
    text: Mutex<String>,
    handle: reload::Handle<EnvFilter, Registry>,
    quiet: &'static [&'static str],
}

static IN_FORCE: OnceLock<InForce> = OnceLock::new();

/// Begins to log as the configuration says. Modules in `quiet` say nothing unless its filter names them. A second call in
/// one process changes nothing.
pub fn start(config: &Config, quiet: &'static [&'static str]) {
    let text = &config.log.filter;
    let filter = parse(text, quiet).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match (is_journal(&io::stderr()), config.log.format) {
        (false, LogFormat::Text) => fmt::layer().with_writer(io::stderr).with_target(false).with_ansi(false).boxed(),
        (false, LogFormat::Json) => fmt::layer().with_writer(io::stderr).with_target(false).json().boxed(),
        (true, LogFormat::Text) => {
            fmt::layer().with_writer(Prefixed).with_target(false).with_ansi(false).without_time().boxed()
        }
        (true, LogFormat::Json) => fmt::layer().with_writer(Prefixed).with_target(false).without_time().json().boxed(),
    };
    // Each has a filter of its own: what is traced need not be logged.
    let layers = tracing_subscriber::registry().with(lines.with_filter(filter)).with(trace::taps().layer());
    if layers.try_init().is_ok() {
        let _ = IN_FORCE.set(InForce { text: Mutex::new(text.clone()), handle, quiet });
    }
}

/// Puts another filter in force. Returns whether it differs from the one before.
///
/// # Errors
/// What is wrong with it; the one in force stays.
pub fn filter(text: &str) -> Result<bool, String> {
    let Some(in_force) = IN_FORCE.get() else { return Ok(false) };
    let mut before = in_force.text.lock().unwrap_or_else(PoisonError::into_inner);
    if *before == text {
        return Ok(false);
    }
    let filter = parse(text, in_force.quiet)?;
    in_force.handle.reload(filter).map_err(|error| error.to_string())?;
    text.clone_into(&mut before);
    Ok(true)
}

fn parse(text: &str, quiet: &[&str]) -> Result<EnvFilter, String> {
    let mut filter = EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    for module in quiet.iter().filter(|module| !text.contains(**module)) {
        if let Ok(directive) = format!("{module}=off").parse() {
            filter = filter.add_directive(directive);
        }
    }
    Ok(filter)
}

/// Whether a stream is the one that systemd connected to its journal.
pub fn is_journal(stream: &impl std::os::fd::AsFd) -> bool {
    let Ok(told) = std::env::var("JOURNAL_STREAM") else { return false };
    let Some((device, inode)) = told.split_once(':') else { return false };
    let stat = rustix::fs::fstat(stream);
    stat.is_ok_and(|stat| stat.st_dev.to_string() == device && stat.st_ino.to_string() == inode)
}

/// The journal's number for a level.
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

struct Prefixed;

struct Lines {
    priority: u8,
}

impl MakeWriter<'_> for Prefixed {
    type Writer = Lines;

    fn make_writer(&self) -> Lines {
        Lines { priority: priority(Level::INFO) }
    }

    fn make_writer_for(&self, meta: &Metadata<'_>) -> Lines {
        Lines { priority: priority(*meta.level()) }
    }
}

impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // In one write, so that lines of several threads do not mix.
        io::stderr().lock().write_all(&prefixed(self.priority, event))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

/// Every line of the event with its priority before it.
pub fn prefixed(priority: u8, event: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(event.len() + 8);
    for line in event.split_inclusive(|byte| *byte == b'\n') {
        out.extend_from_slice(format!("<{priority}>").as_bytes());
        out.extend_from_slice(line);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_priority() {
        assert_eq!(prefixed(priority(Level::WARN), b"one\ntwo\n"), b"<4>one\n<4>two\n");
        assert_eq!(prefixed(3, b"cut"), b"<3>cut");
        assert_eq!(prefixed(3, b""), b"");
    }

    #[test]
    fn a_quiet_module_speaks_when_it_is_named() {
        let shown = |text| parse(text, &["openraft"]).map(|filter| filter.to_string());
        assert!(shown("info").is_ok_and(|filter| filter.contains("openraft=off")));
        assert!(shown("info,openraft=debug").is_ok_and(|filter| !filter.contains("off")));
        assert!(shown("info,cfs=louder").is_err());
    }

    #[test]
    fn a_file_is_no_journal() {
        let file = tempfile::tempfile().expect("a file");
        assert!(!is_journal(&file));
    }
}
