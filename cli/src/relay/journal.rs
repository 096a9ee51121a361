//! Lines of the system's journal, followed through `journalctl`.

use std::convert::Infallible;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use cfs_service::logs::{is_journal, prefixed};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

/// A record of the journal that is longer is left out, and said to be.
const MAX_RECORD_BYTES: usize = 256 * 1024;
/// Units may have begun to talk so long before the relay.
const EARLIER: Duration = Duration::from_secs(5);
/// After `journalctl` has ended it is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// Follows units.
pub(super) struct Follower {
    units: Vec<String>,
    keep: Option<PathBuf>,
    /// The last record that was printed.
    cursor: Option<String>,
    kept: Option<String>,
    began: SystemTime,
    source: Option<Source>,
}

struct Source {
    child: Child,
    lines: BufReader<ChildStdout>,
    record: Vec<u8>,
    too_long: bool,
}

impl Follower {
    /// Goes on where one with the same `keep` has ended.
    pub(super) fn new(units: Vec<String>, keep: Option<PathBuf>) -> Self {
        let cursor = keep.as_deref().and_then(|keep| std::fs::read_to_string(super::cursor_file(keep)).ok());
        let cursor = cursor.map(|cursor| cursor.trim().to_owned()).filter(|cursor| !cursor.is_empty());
        Self { units, keep, kept: cursor.clone(), cursor, began: SystemTime::now(), source: None }
    }

    /// Writes down how far lines were printed. Blocks briefly.
    pub(super) fn keep(&mut self) {
        let (Some(keep), Some(cursor)) = (&self.keep, &self.cursor) else { return };
        if self.kept.as_ref() == Some(cursor) {
            return;
        }
        match std::fs::write(super::cursor_file(keep), cursor) {
            Ok(()) => self.kept = Some(cursor.clone()),
            Err(error) => eprintln!("cannot write down in {} how far lines were printed: {error}", keep.display()),
        }
    }

    /// Prints lines as they come. May be dropped half-way without losing any.
    pub(super) async fn print_all(&mut self) -> Infallible {
        loop {
            let source = match &mut self.source {
                Some(source) => source,
                None => match self.open() {
                    Ok(source) => self.source.insert(source),
                    Err(error) => {
                        eprintln!("the journal cannot be followed: journalctl cannot be run: {error}");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            match source.next().await {
                Ok(Some(record)) => self.print(&record),
                ended => {
                    let status = source.child.try_wait().ok().flatten().map(|status| status.to_string());
                    let why = ended.err().map(|error| error.to_string()).or(status).unwrap_or_default();
                    eprintln!("journalctl has ended ({why}); it is started again");
                    self.source = None;
                    // The record after which it was to go on may have been rotated away.
                    self.cursor = self.cursor.take().filter(|cursor| self.kept.as_ref() != Some(cursor));
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn open(&self) -> io::Result<Source> {
        let mut command = Command::new("journalctl");
        // By itself it shows the current boot alone, and a container that hides its boot's number then shows nothing. What other
        // machines have sent here is none of ours.
        command.args(["--follow", "--merge", "--all", "--quiet", "--output=json"]);
        if let Ok(machine) = std::fs::read_to_string("/etc/machine-id") {
            command.arg(format!("_MACHINE_ID={}", machine.trim()));
        }
        command.arg("--output-fields=MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_PID");
        for unit in &self.units {
            command.arg(format!("--unit={unit}"));
        }
        match &self.cursor {
            Some(cursor) => command.args(["--no-tail", &format!("--after-cursor={cursor}")]),
            None => {
                let since = (self.began - EARLIER).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                command.args(["--no-tail", &format!("--since=@{}", since.as_secs())])
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("it has no output"))?;
        Ok(Source { child, lines: BufReader::new(stdout), record: Vec::new(), too_long: false })
    }

    fn print(&mut self, record: &[u8]) {
        let Ok(record) = serde_json::from_slice::<Value>(record) else {
            eprintln!("a record of the journal does not read, or is longer than {MAX_RECORD_BYTES} bytes");
            return;
        };
        let line = line(&record);
        let line = if is_journal(&io::stderr()) { prefixed(priority(&record), &line) } else { line };
        // One that cannot be printed is not worth an end.
        let _ = io::stderr().lock().write_all(&line);
        if let Some(cursor) = record["__CURSOR"].as_str() {
            self.cursor = Some(cursor.to_owned());
        }
    }
}

impl Source {
    /// The next record; `None` at the end. What was read of one stays if this is dropped half-way.
    async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let read = self.lines.fill_buf().await?;
            if read.is_empty() {
                return Ok(None);
            }
            let (part, ends) = match read.iter().position(|byte| *byte == b'\n') {
                Some(at) => (&read[..at], true),
                None => (read, false),
            };
            let length = part.len() + usize::from(ends);
            self.too_long |= self.record.len() + part.len() > MAX_RECORD_BYTES;
            if self.too_long {
                self.record.clear();
            } else {
                self.record.extend_from_slice(part);
            }
            self.lines.consume(length);
            if ends {
                self.too_long = false;
                return Ok(Some(std::mem::take(&mut self.record)));
            }
        }
    }
}

/// `IDENTIFIER[PID]: MESSAGE`, with an end of line.
fn line(record: &Value) -> Vec<u8> {
    let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
    let mut out = format!("{}[{}]: ", text("SYSLOG_IDENTIFIER"), text("_PID")).into_bytes();
    match &record["MESSAGE"] {
        // Bytes that are no text come as numbers.
        Value::Array(bytes) => {
            out.extend(bytes.iter().filter_map(Value::as_u64).filter_map(|byte| u8::try_from(byte).ok()));
        }
        message => out.extend_from_slice(message.as_str().unwrap_or_default().as_bytes()),
    }
    out.push(b'\n');
    out
}

fn priority(record: &Value) -> u8 {
    record["PRIORITY"].as_str().and_then(|text| text.parse().ok()).filter(|priority| *priority < 8).unwrap_or(6)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_becomes_a_line_that_names_its_process() {
        let record =
            json!({"MESSAGE": "WARN it is late", "PRIORITY": "4", "SYSLOG_IDENTIFIER": "cfs-control", "_PID": "7"});
        assert_eq!(line(&record), b"cfs-control[7]: WARN it is late\n");
        assert_eq!(priority(&record), 4);
        let bytes = json!({"MESSAGE": [104, 105, 255], "PRIORITY": "9", "SYSLOG_IDENTIFIER": "x", "_PID": "1"});
        assert_eq!(line(&bytes), b"x[1]: hi\xff\n");
        assert_eq!(priority(&bytes), 6);
    }

    /// Invariant 10: a record has a bound, and the one after it is read.
    #[tokio::test]
    async fn a_record_without_end_takes_no_memory() {
        let script = format!("head -c {} /dev/zero | tr '\\0' x; echo; echo '{{}}'", 3 * MAX_RECORD_BYTES);
        let mut child =
            Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().expect("a shell starts");
        let stdout = child.stdout.take().expect("its output");
        let mut source = Source { child, lines: BufReader::new(stdout), record: Vec::new(), too_long: false };
        let first = source.next().await.expect("it reads").expect("a record");
        assert!(first.len() <= MAX_RECORD_BYTES && source.record.capacity() <= 2 * MAX_RECORD_BYTES);
        assert_eq!(source.next().await.expect("it reads").as_deref(), Some(&b"{}"[..]));
        assert_eq!(source.next().await.expect("it reads"), None);
    }
}
