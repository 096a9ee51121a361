//! The order to rebuild a site's data: journal and store are put aside and copied anew. It is a file, because the shipper that
//! carries it out may be down when it is given, and because it has to outlast every crash on the way. Every function blocks.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cfs_model::Vector;
use serde::{Deserialize, Serialize};

use crate::private_file;

/// Name of the file, in the shipper's directory.
pub const FILE: &str = "rebuild.json";

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It was given; the next start of the shipper puts the data aside.
    Asked,
    /// They are aside, and the site copies.
    Moved,
    /// The same, but what it has copied is of no use: the next start of the shipper removes that and copies anew.
    Again,
    /// The site holds everything, and the old data are kept.
    Kept,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// How far it is.
    pub stage: Stage,
    /// When it was given, in ms since the Unix epoch.
    pub at_ms: u64,
    /// The site that the operator named.
    pub through: String,
    /// Why the old data are kept at the end; empty: they are removed.
    pub keep_why: String,
    /// What the site held and others hold too: it counts for nothing before it holds that again.
    pub held: Vector,
    /// What is put aside, and where.
    pub moves: Vec<(PathBuf, PathBuf)>,
}

impl Order {
    /// A new one, for these directories.
    pub fn new(directories: &[&Path], through: &str, keep_why: &str, held: Vector, at_ms: u64) -> Self {
        let moves = directories.iter().map(|from| (from.to_path_buf(), beside(from, at_ms))).collect();
        Self { stage: Stage::Asked, at_ms, through: through.into(), keep_why: keep_why.into(), held, moves }
    }

    /// The order in the shipper's `directory`; `None`: there is none.
    ///
    /// # Errors
    /// What the system said, or that it does not read.
    pub fn read(directory: &Path) -> io::Result<Option<Self>> {
        match private_file::read(&directory.join(FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives the order, or says how far it is. On stable storage on return.
    ///
    /// # Errors
    /// What the system said.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        private_file::replace(directory, FILE, &serde_json::to_vec_pretty(self).map_err(io::Error::other)?)
    }

    /// Puts the data aside. May be repeated after a crash anywhere in it.
    ///
    /// # Errors
    /// What the system said; the next try goes on.
    pub fn put_aside(&self) -> io::Result<()> {
        for (from, to) in &self.moves {
            // What is there already was moved before a crash; what is at the old place now is new.
            if !to.exists() && from.exists() {
                std::fs::rename(from, to)?;
            }
            if let Some(folder) = to.parent() {
                std::fs::File::open(folder)?.sync_all()?;
            }
        }
        Ok(())
    }

    /// Removes what was copied since the old data are aside. May be repeated after a crash anywhere in it.
    ///
    /// # Errors
    /// What the system said; the next try goes on.
    pub fn discard_copy(&self) -> io::Result<()> {
        for (place, _) in &self.moves {
            gone(std::fs::remove_dir_all(place))?;
        }
        Ok(())
    }

    /// Ends the order: the old data and the file go. May be repeated.
    ///
    /// # Errors
    /// What the system said; the next try goes on.
    pub fn remove(&self, directory: &Path) -> io::Result<()> {
        for (_, aside) in &self.moves {
            gone(std::fs::remove_dir_all(aside))?;
        }
        gone(std::fs::remove_file(directory.join(FILE)))?;
        std::fs::File::open(directory)?.sync_all()
    }

    /// Where the old data are, for people.
    pub fn aside(&self) -> String {
        self.moves.iter().map(|(_, to)| to.display().to_string()).collect::<Vec<_>>().join(" and ")
    }
}

/// What was to be removed may be gone already.
fn gone(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn beside(directory: &Path, at_ms: u64) -> PathBuf {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(format!(".before-rebuild-{at_ms}"));
    directory.with_file_name(name)
}

/// Whether these directories can be put aside, with room for `store_bytes` and the reserve beside them. `Err` says why not.
///
/// # Errors
/// What is in the way.
pub fn check(directories: &[&Path], store_bytes: u64, reserve_bytes: u64) -> Result<(), String> {
    for directory in directories.iter().filter(|directory| directory.exists()) {
        let folder = directory.parent().unwrap_or(directory);
        let system = |error: io::Error| format!("{}: {error}", directory.display());
        if directory.is_symlink() {
            return Err(format!(
                "{} is a symbolic link, and a new directory in its place may be on another disk: put where it leads into the \
                 configuration (paths), restart, then again",
                directory.display()
            ));
        }
        let (own, above) = (directory.metadata().map_err(system)?, folder.metadata().map_err(system)?);
        if own.dev() != above.dev() {
            return Err(format!(
                "{} is a mount of its own and cannot be put aside: move what is in it away by hand",
                directory.display()
            ));
        }
        if rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_err() {
            return Err(format!("{} may not be written to, so nothing can be put aside in it", folder.display()));
        }
        let stat = rustix::fs::statvfs(folder).map_err(|error| system(error.into()))?;
        let size = stat.f_blocks * stat.f_frsize;
        // As the shipper has it: a reserve never takes more of a small disk.
        room(stat.f_bavail * stat.f_frsize, store_bytes, reserve_bytes.min(size / 10))
            .map_err(|why| format!("{}: {why}", folder.display()))?;
    }
    Ok(())
}

/// Whether a new store fits beside the old one.
fn room(free: u64, store: u64, reserve: u64) -> Result<(), String> {
    if free >= store.saturating_add(reserve) {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(format!(
        "the disk has {} MiB free; a new store beside the old one takes {} MiB, and {} MiB stay in reserve",
        free >> 20,
        mib(store),
        mib(reserve)
    ))
}

/// What a directory takes on disk; what cannot be read counts as nothing.
pub fn bytes_of(directory: &Path) -> u64 {
    let mut left = vec![directory.to_owned()];
    let mut bytes = 0;
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => left.push(entry.path()),
                Ok(meta) => bytes += meta.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(state: &Path) -> (PathBuf, PathBuf) {
        let (journal, meta) = (state.join("journal"), state.join("meta"));
        for dir in [&journal, &meta] {
            std::fs::create_dir(dir).unwrap();
            std::fs::write(dir.join("old"), b"x").unwrap();
        }
        (journal, meta)
    }

    /// A kill may come between any two steps: what is aside stays aside, and what is new is not taken for the old.
    #[test]
    fn putting_aside_goes_on_after_a_kill_anywhere() {
        for killed_after in 0..=2 {
            let dir = tempfile::tempdir().unwrap();
            let (journal, meta) = made(dir.path());
            let order = Order::new(&[&journal, &meta], "site-a", "", Vector::new(), 7);
            order.write(dir.path()).unwrap();
            for (from, to) in order.moves.iter().take(killed_after) {
                std::fs::rename(from, to).unwrap();
            }
            let again = Order::read(dir.path()).unwrap().expect("it outlasts the kill");
            assert_eq!(again, order);
            again.put_aside().unwrap();
            assert!(!journal.exists() && !meta.exists());
            // The new directories are there, and the kill came before that was noted.
            std::fs::create_dir(&journal).unwrap();
            again.put_aside().unwrap();
            assert!(journal.exists() && dir.path().join("journal.before-rebuild-7/old").exists());
            again.remove(dir.path()).unwrap();
            again.remove(dir.path()).unwrap();
            let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, ["journal"], "the old data and the order are gone");
        }
    }

    #[test]
    fn there_must_be_room_for_both() {
        assert_eq!(room(30, 20, 10), Ok(()));
        let why = room((30 << 20) - 1, 20 << 20, 10 << 20).unwrap_err();
        assert!(why.contains("29 MiB free") && why.contains("takes 20 MiB"), "{why}");
        let dir = tempfile::tempdir().unwrap();
        let (journal, meta) = made(dir.path());
        assert_eq!(check(&[&journal, &meta], 0, 0), Ok(()));
        let why = check(&[&journal, &meta], u64::MAX, 0).unwrap_err();
        assert!(why.contains("MiB free"), "{why}");
        assert!(bytes_of(dir.path()) > 0);
    }

    #[test]
    fn a_link_is_not_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, meta) = made(dir.path());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&meta, &link).unwrap();
        let why = check(&[&journal, &link], 0, 0).unwrap_err();
        assert!(why.contains("link is a symbolic link"), "{why}");
    }

    #[test]
    fn a_mount_is_not_put_aside() {
        let why = check(&[Path::new("/proc")], 0, 0).unwrap_err();
        assert!(why.contains("/proc is a mount of its own"), "{why}");
    }
}
