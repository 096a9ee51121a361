//! Files that only their owner may read, replaced in one step. Every function blocks.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Largest file with a key or certificates that is read.
pub const MAX_BYTES: u64 = 256 * 1024;

/// Creates `dir` and what is missing above it with mode 0700; an existing directory keeps its owner and is set to 0700.
///
/// # Errors
/// What the system said.
pub fn create_directory(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}

/// Writes `dir/name` with mode 0600 so that after a crash either the old or the new content is there, never a part:
/// temporary file, fsync, rename, fsync of the directory. On stable storage on return.
///
/// # Errors
/// What the system said; after an error either content may be the durable one.
pub fn replace(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.{}.tmp", std::process::id()));
    // One left behind by a crashed process of the same number would have the wrong mode and content.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let replaced = write_new(&temporary, content).and_then(|()| std::fs::rename(&temporary, dir.join(name)));
    if replaced.is_err() {
        // On a full disk there may be nothing to remove; the next call removes it otherwise.
        let _ = std::fs::remove_file(&temporary);
    }
    replaced?;
    File::open(dir)?.sync_all()
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Reads a whole file of at most [`MAX_BYTES`].
///
/// # Errors
/// What the system said, or that the file is larger.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("the file is larger than {MAX_BYTES} bytes")));
    }
    Ok(content)
}

/// Whether anybody but the owner may read or write the file.
///
/// # Errors
/// What the system said.
pub fn is_exposed(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o077 != 0)
}
