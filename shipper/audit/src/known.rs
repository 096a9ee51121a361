//! Which events were recorded before, also those whose records have been pruned: so that what is derived again from the
//! store after a crash is recorded exactly once.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use crate::caps::MAX_KNOWN_OTHERS;
use crate::disk;
use crate::record::{Hash, from_hex, hex};
use crate::segment::{self, Line, Lines, Segment};

const FILE: &str = "known";
/// Names that are derived, the same whenever and wherever they are.
const PREFIXES: [&str; 4] = ["lost-", "superseded-", "late-", "decision-"];

/// Names of events.
#[derive(Debug, Default)]
pub struct Known {
    names: HashSet<[u8; 16]>,
}

fn digest(event: &str) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&Hash::of(&[event.as_bytes()]).0[..16]);
    out
}

fn is_derived(event: &str) -> bool {
    PREFIXES.iter().any(|prefix| event.starts_with(prefix))
}

impl Known {
    /// What is recorded in `dir`, or was. Reads the whole trail; takes 16 bytes and a little for each name.
    ///
    /// # Errors
    /// What the system said.
    pub fn load(dir: &Path) -> io::Result<Self> {
        Self::load_those(dir, "")
    }

    /// The same, of names that begin with `prefix` alone.
    ///
    /// # Errors
    /// What the system said.
    pub fn load_those(dir: &Path, prefix: &str) -> io::Result<Self> {
        let mut known = Self::default();
        for (letter, name) in folded(dir)? {
            if prefix.is_empty() || prefix.starts_with(letter) {
                known.names.insert(name);
            }
        }
        for segment in segment::list(dir)? {
            each(&segment, |event| {
                if event.starts_with(prefix) {
                    known.names.insert(digest(event));
                }
            })?;
        }
        Ok(known)
    }

    /// Whether it is known.
    pub fn contains(&self, event: &str) -> bool {
        self.names.contains(&digest(event))
    }

    /// Takes a name; whether it is new.
    pub fn insert(&mut self, event: &str) -> bool {
        self.names.insert(digest(event))
    }
}

/// Calls `then` with each derived name in a segment.
fn each(segment: &Segment, mut then: impl FnMut(&str)) -> io::Result<()> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        event: std::borrow::Cow<'a, str>,
    }
    let mut lines = Lines::open(&segment.path, 0, None)?;
    while let Some(line) = lines.next()? {
        if let Line::Whole(line) = line
            && let Ok(named) = serde_json::from_slice::<Named<'_>>(line)
            && is_derived(&named.event)
        {
            then(&named.event);
        }
    }
    Ok(())
}

/// The names of pruned records: the first letter of each name, and its digest.
fn folded(dir: &Path) -> io::Result<Vec<(char, [u8; 16])>> {
    let file = match std::fs::File::open(dir.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut out = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        let parsed = std::str::from_utf8(&line).ok().and_then(|line| {
            let (letter, digits) = line.split_once(' ')?;
            Some((letter.chars().next()?, from_hex(digits)?.try_into().ok()?))
        });
        // A torn line at the end is written again: its segment is still there.
        out.extend(parsed);
    }
    Ok(out)
}

fn text(names: impl IntoIterator<Item = (char, [u8; 16])>) -> Vec<u8> {
    names.into_iter().map(|(letter, name)| format!("{letter} {}\n", hex(&name))).collect::<String>().into_bytes()
}

/// Keeps the names of segments that are about to go; durable on return.
pub(crate) fn fold(dir: &Path, segments: &[Segment]) -> io::Result<()> {
    let mut all = folded(dir)?;
    let mut seen: HashSet<[u8; 16]> = all.iter().map(|(_, name)| *name).collect();
    for segment in segments {
        each(segment, |event| {
            let name = digest(event);
            if seen.insert(name) {
                all.extend(event.chars().next().map(|letter| (letter, name)));
            }
        })?;
    }
    disk::replace(&dir.join(FILE), &text(all))
}

/// Forgets the names of lost writes that the store no longer has, and all but the newest of the others; `live` are the
/// names that the store can derive. Durable on return.
///
/// # Errors
/// What the system said.
pub fn compact(dir: &Path, live: &Known) -> io::Result<()> {
    let all = folded(dir)?;
    let of_store = |letter: char| matches!(letter, 'l' | 's');
    let others = all.iter().filter(|(letter, _)| !of_store(*letter)).count();
    let mut skip = others.saturating_sub(MAX_KNOWN_OTHERS);
    let before = all.len();
    let kept: Vec<(char, [u8; 16])> = all
        .into_iter()
        .filter(|(letter, name)| {
            if of_store(*letter) {
                return live.names.contains(name);
            }
            let keep = skip == 0;
            skip = skip.saturating_sub(1);
            keep
        })
        .collect();
    if kept.len() == before {
        return Ok(());
    }
    disk::replace(&dir.join(FILE), &text(kept))
}
