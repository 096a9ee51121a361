//! Learns from the kernel which names of which directories changed.
//!
//! Events say only where to look: whatever is journalled comes from a comparison of the disk with the store. So an
//! event too many costs a look, and what events cannot say (they were lost, or a directory is not watched) is made up
//! for by comparing everything again.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use inotify::{Event, EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use rustix::io::Errno;
use tokio::sync::Notify;

use super::ROOT_NAME;
use super::compare::Child;
use super::disk::Directory;
use super::marked::Marked;

/// Bytes of events that are read at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// Pause after events could not be read.
const PAUSE: Duration = Duration::from_secs(1);

const EVENTS: WatchMask = WatchMask::CREATE
    .union(WatchMask::DELETE)
    .union(WatchMask::MOVE)
    .union(WatchMask::ATTRIB)
    .union(WatchMask::MODIFY)
    .union(WatchMask::CLOSE_WRITE)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::ONLYDIR);

/// Where a directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The directory that it is in; 0 for the root.
    pub parent: u64,
    /// Its name there.
    pub name: Bytes,
}

struct Watched {
    place: Place,
    watch: Option<WatchDescriptor>,
    /// It was read after it was watched.
    read: bool,
    pass: u64,
}

#[derive(Default)]
struct State {
    directories: HashMap<u64, Watched>,
    by_watch: HashMap<WatchDescriptor, u64>,
    marked: Marked,
    pass: u64,
    /// Directories that could not be watched.
    unwatched: u64,
}

/// Watches directories.
pub struct Watcher {
    watches: Watches,
    state: Mutex<State>,
    changed: Notify,
}

impl Watcher {
    /// Starts to watch, nothing so far. A thread reads the events.
    ///
    /// # Errors
    /// Those of the system; a limit on instances is named.
    pub fn start() -> anyhow::Result<Arc<Self>> {
        let inotify = Inotify::init().map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::MFILE) => anyhow::anyhow!(
                "too many programs follow file systems as this user: raise fs.inotify.max_user_instances with sysctl"
            ),
            _ => anyhow::Error::from(error).context("cannot follow changes"),
        })?;
        let watcher =
            Arc::new(Self { watches: inotify.watches(), state: Mutex::new(State::default()), changed: Notify::new() });
        let weak = Arc::downgrade(&watcher);
        std::thread::Builder::new().name("events".to_owned()).spawn(move || read_events(inotify, &weak))?;
        Ok(watcher)
    }

    /// Watches a directory that is at this place.
    pub fn watch(&self, directory: &Directory, inode: u64, parent: u64, name: Bytes) {
        // Locked before the watch exists, so that its first event finds it.
        let mut state = self.lock();
        let added = self.watches.clone().add(directory.proc_path(), EVENTS);
        let watch = match added {
            Ok(watch) => {
                state.by_watch.insert(watch.clone(), inode);
                Some(watch)
            }
            Err(error) => {
                if Errno::from_io_error(&error) == Some(Errno::NOSPC) {
                    state.unwatched += 1;
                    if state.unwatched == 1 {
                        say_limit();
                    }
                }
                None
            }
        };
        let pass = state.pass;
        state.directories.insert(inode, Watched { place: Place { parent, name }, watch, read: true, pass });
    }

    /// Whether the directory is watched at this place: then nothing in it can have changed unnoticed.
    pub fn is_watched_at(&self, inode: u64, parent: u64, name: &[u8]) -> bool {
        self.lock().directories.get(&inode).is_some_and(|watched| {
            watched.watch.is_some() && watched.read && watched.place.parent == parent && watched.place.name == name
        })
    }

    /// Where a directory was found last.
    pub fn place(&self, inode: u64) -> Option<Place> {
        self.lock().directories.get(&inode).map(|watched| watched.place.clone())
    }

    /// These directories were found in `parent`.
    pub fn moved(&self, parent: u64, children: &[Child]) {
        let mut state = self.lock();
        for child in children {
            if let Some(watched) = state.directories.get_mut(&child.inode) {
                watched.place = Place { parent, name: child.name.clone() };
            }
        }
    }

    /// Marks a name as if an event had told of it.
    pub fn mark(&self, directory: u64, name: Bytes) {
        self.lock().marked.mark(directory, name);
        self.changed.notify_one();
    }

    /// The directory that was found here was not there any more when it was to be read: wherever it is found next, it is
    /// read.
    pub fn missed(&self, inode: u64, place: Place) {
        let mut state = self.lock();
        if let Some(watched) = state.directories.get_mut(&inode) {
            watched.read = false;
        }
        state.marked.mark(place.parent, place.name);
        self.changed.notify_one();
    }

    /// Anything may have changed.
    pub fn lose(&self) {
        self.lock().marked.lose();
        self.changed.notify_one();
    }

    /// Directories were met in `parent` that were met elsewhere before: both places are looked at once more.
    pub fn look_again(&self, parent: u64, children: &[Child]) {
        if children.is_empty() {
            return;
        }
        let mut state = self.lock();
        for child in children {
            let place = state.directories.get(&child.inode).map(|watched| watched.place.clone());
            state.marked.mark(parent, child.name.clone());
            if let Some(place) = place {
                state.marked.mark(place.parent, place.name);
            }
        }
        self.changed.notify_one();
    }

    /// The names that lead from the root to a directory, with the numbers of what they lead to; the root's own way is
    /// empty. `None` if it is not known.
    pub fn way(&self, mut inode: u64) -> Option<Vec<(Bytes, u64)>> {
        let state = self.lock();
        let mut way = Vec::new();
        loop {
            let place = &state.directories.get(&inode)?.place;
            if place.parent == 0 {
                way.reverse();
                return Some(way);
            }
            way.push((place.name.clone(), inode));
            inode = place.parent;
            // Places are updated one after another: for a moment they may form a ring.
            if way.len() > state.directories.len() {
                return None;
            }
        }
    }

    /// A pass over the whole tree begins.
    pub fn begin_pass(&self) {
        let mut state = self.lock();
        state.pass += 1;
        state.unwatched = 0;
    }

    /// It ended: directories that it did not meet are not there any more.
    pub fn end_pass(&self) {
        let mut state = self.lock();
        let pass = state.pass;
        let left: Vec<u64> = state.directories.iter().filter(|(_, w)| w.pass < pass).map(|(inode, _)| *inode).collect();
        self.forget(&mut state, &left);
    }

    /// A directory left the tree, with everything below it.
    pub fn left(&self, top: u64) {
        let mut state = self.lock();
        let below: Vec<u64> = state.directories.keys().copied().filter(|inode| is_below(&state, *inode, top)).collect();
        self.forget(&mut state, &below);
    }

    fn forget(&self, state: &mut State, inodes: &[u64]) {
        for inode in inodes {
            if let Some(watch) = state.directories.remove(inode).and_then(|watched| watched.watch) {
                state.by_watch.remove(&watch);
                // The kernel removes the watch itself when the directory is deleted.
                let _ = self.watches.clone().remove(watch);
            }
        }
    }

    /// Waits until something is marked.
    pub async fn changed(&self) {
        while self.lock().marked.is_empty() {
            self.changed.notified().await;
        }
    }

    /// What was marked since the last call.
    pub fn take(&self) -> Marked {
        std::mem::take(&mut self.lock().marked)
    }

    fn note(&self, event: &Event<&std::ffi::OsStr>) {
        let mut state = self.lock();
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            state.marked.lose();
            return;
        }
        if event.mask.contains(EventMask::IGNORED) {
            if let Some(inode) = state.by_watch.remove(&event.wd)
                && let Some(watched) = state.directories.get_mut(&inode)
                && watched.watch.as_ref() == Some(&event.wd)
            {
                watched.watch = None;
            }
            return;
        }
        let Some(inode) = state.by_watch.get(&event.wd).copied() else { return };
        match event.name {
            Some(name) => state.marked.mark(inode, Bytes::copy_from_slice(name.as_bytes())),
            None => {
                let place = state.directories.get(&inode).map(|watched| watched.place.clone());
                let place = place.unwrap_or(Place { parent: 0, name: ROOT_NAME });
                state.marked.mark(place.parent, place.name);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_below(state: &State, mut inode: u64, top: u64) -> bool {
    let mut steps = 0;
    while inode != top {
        match state.directories.get(&inode) {
            Some(watched) if steps <= state.directories.len() => inode = watched.place.parent,
            _ => return false,
        }
        steps += 1;
    }
    true
}

fn say_limit() {
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").unwrap_or_default();
    anstream::eprintln!(
        "warning: the kernel watches no more than {} directories for a user: changes in the others are seen only when \
         the whole tree is compared again; raise fs.inotify.max_user_watches with sysctl",
        limit.trim()
    );
}

/// Reads until nobody watches any more; ends then with the next event.
fn read_events(mut inotify: Inotify, watcher: &Weak<Watcher>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let events = inotify.read_events_blocking(&mut buffer);
        let Some(watcher) = watcher.upgrade() else { return };
        match events {
            Ok(events) => events.for_each(|event| watcher.note(&event)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                anstream::eprintln!("warning: events cannot be read ({error}), comparing the whole tree instead");
                watcher.lock().marked.lose();
                std::thread::sleep(PAUSE);
            }
        }
        watcher.changed.notify_one();
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
