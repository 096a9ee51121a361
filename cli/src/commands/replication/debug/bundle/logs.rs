//! What the daemons of this site have logged: their log files where `cfs dev` runs them, otherwise the system's journal.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use cfs_config::Config;
use jiff::Timestamp;

use super::archive::{Content, MAX_FILE_BYTES};
use super::machine::output_of;

/// Units whose lines are taken.
const UNITS: [&str; 4] = ["claudefs-control", "claudefs-shipper", "claudefs-repl", "claudefs"];
/// Files that `cfs dev` makes beside a site's configuration.
const FILES: [&str; 2] = ["control.log", "shipper.log"];
/// Lines of a unit, at most.
const LINES: &str = "100000";
/// `journalctl` may have a large journal to look through.
const LIMIT: Duration = Duration::from_secs(20);

/// Takes the newest lines since then; returns what could not be had.
pub(super) async fn take(config: &Config, since: Timestamp, content: &mut Content) -> Vec<(String, String)> {
    let beside = FILES.map(|name| (name, config.file.with_file_name(name)));
    if beside.iter().any(|(_, path)| path.is_file()) {
        let mut missing = Vec::new();
        for (name, path) in beside.iter().filter(|(_, path)| path.is_file()) {
            let read = path.clone();
            let read = tokio::task::spawn_blocking(move || end_of(&read)).await;
            match read.map_err(|error| error.to_string()).and_then(|read| read.map_err(|error| error.to_string())) {
                Ok(text) => content.add(format!("logs/{name}"), since_then(&text, since)),
                Err(why) => missing.push((format!("logs/{name}"), format!("{}: {why}", path.display()))),
            }
        }
        return missing;
    }
    of_journal(since, content).await
}

async fn of_journal(since: Timestamp, content: &mut Content) -> Vec<(String, String)> {
    let since = format!("@{}", since.as_second());
    let mut missing = Vec::new();
    for unit in UNITS {
        let args = ["--unit", unit, "--since", &since, "--lines", LINES, "--no-pager", "--quiet", "--utc"];
        let args = [&args[..], &["--output", "short-iso-precise"]].concat();
        match output_of("journalctl", &args, LIMIT, MAX_FILE_BYTES).await {
            Ok(text) if text.trim().is_empty() => {}
            Ok(text) => content.add(format!("logs/{unit}.log"), &text),
            Err(why) => {
                missing.push(("logs".to_owned(), why));
                break;
            }
        }
    }
    if missing.is_empty() && !content.entries().iter().any(|entry| entry.name.starts_with("logs/")) {
        missing.push(("logs".to_owned(), format!("the journal has no lines of {} since then", UNITS.join(", "))));
    }
    missing
}

/// The end of a file, as much as goes into a bundle. Blocks.
fn end_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let most = MAX_FILE_BYTES as u64;
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// From the first line on that is new enough. Lines without a time belong to the one before; a log without any times is taken whole.
fn since_then(text: &str, since: Timestamp) -> &str {
    let (mut at, mut has_older) = (0, false);
    for line in text.split_inclusive('\n') {
        let time = line.split_whitespace().next().and_then(|word| word.parse::<Timestamp>().ok());
        match time {
            Some(time) if time >= since => return &text[at..],
            Some(_) => has_older = true,
            None => {}
        }
        at += line.len();
    }
    if has_older { "" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_older_than_asked_for_are_left_out_with_what_continues_them() {
        let since: Timestamp = "2026-11-30T18:00:00Z".parse().expect("a time");
        let text = "2026-11-30T17:00:00.5Z  INFO old\n  more of it\n2026-11-30T18:00:01Z WARN new\n  continued\n";
        assert_eq!(since_then(text, since), "2026-11-30T18:00:01Z WARN new\n  continued\n");
        assert_eq!(since_then("2026-11-30T17:00:00Z old\n", since), "");
        assert_eq!(since_then("no times\nat all\n", since), "no times\nat all\n");
        assert_eq!(since_then("", since), "");
    }

    #[test]
    fn of_a_long_log_the_end_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("control.log");
        std::fs::write(&path, format!("{}the end\n", "x".repeat(MAX_FILE_BYTES))).expect("written");
        let text = end_of(&path).expect("read");
        assert!(text.len() == MAX_FILE_BYTES && text.ends_with("xthe end\n"));
    }
}
