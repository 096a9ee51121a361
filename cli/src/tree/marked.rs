//! Where to look for changes.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

/// Names that may be marked before the whole tree is compared instead.
const MAX_MARKED: usize = 100_000;
/// What changed: directories, and names in them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// Names by directory.
    pub names: HashMap<u64, HashSet<Bytes>>,
    /// Events were lost: anything may have changed.
    pub everything: bool,
    count: usize,
}

impl Marked {
    /// Marks a name.
    pub fn mark(&mut self, directory: u64, name: Bytes) {
        if self.everything {
            return;
        }
        self.count += usize::from(self.names.entry(directory).or_default().insert(name));
        if self.count > MAX_MARKED {
            self.lose();
        }
    }

    /// Anything may have changed.
    pub(super) fn lose(&mut self) {
        *self = Self { everything: true, ..Self::default() };
    }

    /// Whether nothing is marked.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && !self.everything
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_marked_once() {
        let mut marked = Marked::default();
        assert!(marked.is_empty());
        for _ in 0..2 {
            marked.mark(1, Bytes::from_static(b"a"));
        }
        assert_eq!((marked.names[&1].len(), marked.count, marked.everything), (1, 1, false));
    }

    /// Invariant 10: beyond a bound everything is compared instead.
    #[test]
    fn too_many_names_are_everything() {
        let mut marked = Marked::default();
        for n in 0..=MAX_MARKED {
            marked.mark(1, Bytes::from(n.to_string()));
        }
        assert!(marked.everything && marked.names.is_empty());
        marked.mark(1, Bytes::from_static(b"a"));
        assert!(marked.names.is_empty());
    }
}
