//! The file that says which entries were acknowledged.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::thread::JoinHandle;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Batches of entries between those who append and the file; a slow disk then makes appending wait.
const WAITING: usize = 4096;

/// An acknowledged entry: the creation of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Who appended it.
    pub producer: String,
    /// Its sequence number.
    pub seq: u64,
    /// The directory in which it creates a file.
    pub parent: u64,
    /// The file.
    pub inode: u64,
    /// When it was known to be acknowledged, in ms since 1970.
    pub unix_ms: u64,
    /// The site that acknowledged.
    pub site: String,
    /// The site's epoch.
    pub epoch: u64,
    /// The stream in which the acknowledgement's position is.
    pub stream: String,
    /// That position; the entry is there or before.
    pub lsn: u64,
}

/// Writes a record from a thread of its own.
#[derive(Debug)]
pub struct Recorder {
    entries: Sender<Vec<Entry>>,
    writing: JoinHandle<std::io::Result<()>>,
}

impl Recorder {
    /// Creates the file, which must not exist. Blocks.
    ///
    /// # Errors
    /// Those of the file system, with the file's name.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create_new(path).with_context(|| format!("cannot create the record {}", path.display()))?;
        let (entries, waiting) = channel(WAITING);
        Ok(Self { entries, writing: std::thread::spawn(move || write(waiting, file)) })
    }

    /// Where acknowledged entries are sent. Sending waits while the disk is behind, and fails when it failed. What was sent
    /// is in the file as soon as nothing more waits to be written.
    pub fn entries(&self) -> Sender<Vec<Entry>> {
        self.entries.clone()
    }

    /// Waits until all is written, which needs every sender to be dropped. Blocks.
    ///
    /// # Errors
    /// The first one of writing.
    pub fn finish(self) -> std::io::Result<()> {
        drop(self.entries);
        self.writing.join().unwrap_or_else(|_| Err(std::io::Error::other("the thread that writes the record ended")))
    }
}

fn write(mut waiting: Receiver<Vec<Entry>>, file: File) -> std::io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, file);
    while let Some(entries) = waiting.blocking_recv() {
        for entry in entries {
            serde_json::to_writer(&mut out, &entry)?;
            out.write_all(b"\n")?;
        }
        if waiting.is_empty() {
            out.flush()?;
        }
    }
    out.flush()
}

/// Calls `each` with every entry of a record. A last line without an end, as a killed benchmark leaves it, is left out.
/// Blocks.
///
/// # Errors
/// When the file cannot be read, or a line is no entry.
pub fn read(path: &Path, mut each: impl FnMut(Entry)) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("cannot read the record {}", path.display()))?;
    let mut lines = BufReader::with_capacity(1 << 20, file);
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        lines.read_line(&mut line).with_context(|| format!("cannot read the record {}", path.display()))?;
        if !line.ends_with('\n') {
            break;
        }
        let entry = serde_json::from_str(&line);
        each(entry.with_context(|| format!("line {number} of {} is no acknowledged entry", path.display()))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_and_half_a_line_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("record");
        let entry = |seq| Entry {
            producer: "p".into(),
            seq,
            parent: 7,
            inode: 100 + seq,
            unix_ms: 5,
            site: "site-a".into(),
            epoch: 1,
            stream: "1.1".into(),
            lsn: seq,
        };
        let recorder = Recorder::create(&path).expect("a record");
        recorder.entries().try_send(vec![entry(1), entry(2)]).expect("it writes");
        recorder.finish().expect("written");
        assert!(Recorder::create(&path).is_err(), "a record is never overwritten");
        let mut file = File::options().append(true).open(&path).expect("the record");
        file.write_all(b"{\"producer\":\"p\",\"se").expect("written");
        let mut found = Vec::new();
        read(&path, |entry| found.push(entry)).expect("readable");
        assert_eq!(found, [entry(1), entry(2)]);
        file.write_all(b"\n").expect("written");
        assert!(read(&path, |_| {}).is_err_and(|why| why.to_string().contains("line 3")));
    }
}
