//! Files that only their owner may read, replaced in one step. Every function blocks.
//!
//! What root makes in a directory of another user is given to that user: the service reads what an operator installs.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Largest file with a key or certificates that is read.
pub const MAX_BYTES: u64 = 256 * 1024;

/// Creates `dir` and what is missing above it with mode 0700; an existing directory keeps its owner and is set to 0700.
///
/// # Errors
/// What the system said.
pub fn create_directory(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        if let Some(above) = dir.parent().filter(|above| !above.as_os_str().is_empty() && !above.exists()) {
            create_directory(above)?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        give_to_owner_of_folder(dir)?;
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}

/// Writes `dir/name` with mode 0600, owned by the directory's owner where we may, so that after a crash either the old or the new content is there, never a part:
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
    let replaced = write_new(dir, &temporary, content).and_then(|()| std::fs::rename(&temporary, dir.join(name)));
    if replaced.is_err() {
        // On a full disk there may be nothing to remove; the next call removes it otherwise.
        let _ = std::fs::remove_file(&temporary);
    }
    replaced?;
    File::open(dir)?.sync_all()
}

fn write_new(dir: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if rustix::process::geteuid().is_root() {
        // What root writes for a service must be the service's.
        let owner = std::fs::metadata(dir)?;
        std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.write_all(content)?;
    give_to_owner_of_folder(path)?;
    file.sync_all()
}

/// Gives what root has just made to the owner of the folder that it is in.
fn give_to_owner_of_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = std::fs::metadata(folder)?;
    if folder.uid() == 0 || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, Some(folder.uid()), Some(folder.gid()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_root_makes_in_a_folder_of_a_service_belongs_to_the_service() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: it takes root to give a file away");
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::chown(dir.path(), Some(4242), Some(4343)).expect("root may");
        let tls = dir.path().join("deep/tls");
        create_directory(&tls).expect("made");
        replace(&tls, "key.pem", b"secret").expect("written");
        for path in [dir.path().join("deep"), tls.clone(), tls.join("key.pem")] {
            let meta = std::fs::metadata(&path).expect("it is there");
            assert_eq!((meta.uid(), meta.gid()), (4242, 4343), "{}", path.display());
            assert_eq!(meta.mode() & 0o077, 0, "{}", path.display());
        }
    }
}
