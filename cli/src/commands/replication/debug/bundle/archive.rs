//! The file that a bundle is: files in one folder, redacted, packed and compressed.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::redact::Redactor;

/// Largest file in it; of a longer one the end stays.
pub(super) const MAX_FILE_BYTES: usize = 16 * 1024 * 1024;
/// Files in it, at most.
const MAX_FILES: usize = 2000;
const LEVEL: i32 = 3;

/// One file of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Below the bundle's folder.
    pub(super) name: String,
    pub(super) text: String,
}

/// What is to be packed: text without secrets.
#[derive(Debug, Default)]
pub(super) struct Content {
    redactor: Redactor,
    entries: Vec<Entry>,
}

impl Content {
    /// Takes a file. Of one that is too long the end stays, which says so.
    pub(super) fn add(&mut self, name: impl Into<String>, text: &str) {
        if self.entries.len() >= MAX_FILES {
            return;
        }
        let from = text.len().saturating_sub(MAX_FILE_BYTES);
        let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        let cut = if from > 0 { format!("[{from} bytes before this were left out]\n") } else { String::new() };
        let text = cut + &self.redactor.text(&text[from..]);
        self.entries.push(Entry { name: name.into(), text });
    }

    pub(super) fn redactor(&mut self) -> &mut Redactor {
        &mut self.redactor
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// Writes the archive, mode 0600, and syncs it. `first` leads. Returns its length. Blocks.
///
/// # Errors
/// There is such a file already, or what the system said; no part of it is left then.
pub(super) fn write(path: &Path, folder: &str, first: &Entry, content: &Content, at_s: u64) -> anyhow::Result<u64> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::AlreadyExists => "exists: choose another name with --file".to_owned(),
            _ => format!("cannot be made: {error}; choose another place with --file"),
        };
        anyhow::anyhow!("the bundle {} {what}", path.display())
    })?;
    let written = pack(file, folder, std::iter::once(first).chain(content.entries()), at_s);
    let written = written.and_then(|file| {
        file.sync_all()?;
        Ok(file.metadata()?.len())
    });
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written
        .with_context(|| format!("the bundle {} cannot be written; choose another place with --file", path.display()))
}

fn pack<'a>(file: File, folder: &str, entries: impl Iterator<Item = &'a Entry>, at_s: u64) -> io::Result<File> {
    let packed = zstd::stream::write::Encoder::new(BufWriter::new(file), LEVEL)?;
    let mut archive = tar::Builder::new(packed);
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(entry.text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(at_s);
        archive.append_data(&mut header, PathBuf::from(folder).join(&entry.name), entry.text.as_bytes())?;
    }
    let mut out = archive.into_inner()?.finish()?;
    out.flush()?;
    out.into_inner().map_err(io::IntoInnerError::into_error)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_is_packed_is_redacted_private_and_replaces_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("bundle.tar.zst");
        let mut content = Content::default();
        content.add("logs/a.log", "token=abc\n");
        let first = Entry { name: "manifest.json".into(), text: "{}\n".into() };
        let length = write(&path, "bundle", &first, &content, 1_764_527_926).expect("written");
        let meta = std::fs::metadata(&path).expect("it is there");
        assert_eq!((meta.len(), meta.mode() & 0o777), (length, 0o600));
        let read = zstd::stream::read::Decoder::new(File::open(&path).expect("it opens")).expect("zstd");
        let mut archive = tar::Archive::new(read);
        let found: Vec<(String, String)> = archive
            .entries()
            .expect("tar")
            .map(|entry| {
                let mut entry = entry.expect("an entry");
                let mut text = String::new();
                entry.read_to_string(&mut text).expect("text");
                (entry.path().expect("a path").display().to_string(), text)
            })
            .collect();
        let wanted = [("bundle/manifest.json", "{}\n"), ("bundle/logs/a.log", "token=[redacted]\n")];
        assert_eq!(found, wanted.map(|(name, text)| (name.to_owned(), text.to_owned())));
        let error = write(&path, "bundle", &first, &content, 0).expect_err("it exists");
        assert!(error.to_string().contains("--file"), "{error}");
        assert_eq!(std::fs::metadata(&path).expect("it is there").len(), length, "it was replaced");
    }

    #[test]
    fn of_a_long_file_the_end_stays() {
        let mut content = Content::default();
        content.add("long", &format!("{}é{}", "a".repeat(1000), "b".repeat(MAX_FILE_BYTES - 1)));
        let text = &content.entries()[0].text;
        assert!(text.starts_with("[1002 bytes before this were left out]\nbbb"), "{}", &text[..60]);
    }
}
