//! What an import did, and what it could not do.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::disk::TroubleKind;
use crate::output::Document;
use crate::path_text;

/// Troubles that are named one by one; more are counted.
const MAX_NAMED: u64 = 20;

/// Counts of one import.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The tree.
    pub tree: String,
    /// Entries seen in the tree, the root included.
    pub seen: u64,
    /// Operations appended and acknowledged.
    pub entries_appended: u64,
    /// Inodes made.
    pub created: u64,
    /// Inodes and names changed.
    pub updated: u64,
    /// Names removed.
    pub removed: u64,
    /// Entries and attributes that could not be read or replicated.
    pub skipped: u64,
    /// Entries that went away while they were read.
    pub vanished: u64,
    /// Times that the whole tree was compared again.
    pub rescans: u64,
    /// How long it took.
    pub seconds: f64,
    #[serde(skip)]
    named: u64,
}

impl Summary {
    /// Nothing done yet for this tree.
    pub fn new(tree: &Path) -> Self {
        Self { tree: tree.display().to_string(), ..Self::default() }
    }

    /// Counts what could not be read, and names it on standard error; only the first ones, so that a broken disk does
    /// not bury everything else.
    pub fn trouble(&mut self, path: &[u8], kind: &TroubleKind) {
        let what = match kind {
            TroubleKind::Vanished => {
                self.vanished += 1;
                return;
            }
            TroubleKind::Unreadable(why) => format!("cannot read {}: {why}", path_text::for_terminal(path)),
            TroubleKind::Unsupported(why) => format!("{}: {why}", path_text::for_terminal(path)),
        };
        self.skip(&what);
    }

    /// Counts something that is not replicated.
    pub fn skip(&mut self, what: &str) {
        self.skipped += 1;
        self.named += 1;
        if self.named <= MAX_NAMED {
            anstream::eprintln!("warning: {what}");
        } else if self.named == MAX_NAMED + 1 {
            anstream::eprintln!("warning: there is more; further ones are only counted");
        }
    }

    /// Ends the counting, and says on standard error what is missing.
    pub fn finish(&mut self, took: Duration) {
        self.seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
        if self.vanished > 0 {
            anstream::eprintln!("warning: {} entries went away while they were read", self.vanished);
        }
        if self.skipped > 0 {
            anstream::eprintln!(
                "error: {} entries or attributes could not be replicated and are missing or old in the journal (see above); \
                 make them readable and import again",
                self.skipped
            );
        }
    }

    /// Whether everything that exists was replicated.
    pub const fn is_complete(&self) -> bool {
        self.skipped == 0
    }
}

impl Document for Summary {
    const SCHEMA: &'static str = "cfs.import/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let rate = if self.seconds > 0.0 { self.entries_appended as f64 / self.seconds } else { 0.0 };
        writeln!(out, "tree              {}", self.tree)?;
        writeln!(out, "entries seen      {}", self.seen)?;
        writeln!(out, "entries appended  {} ({rate:.0} a second)", self.entries_appended)?;
        writeln!(out, "created           {}", self.created)?;
        writeln!(out, "updated           {}", self.updated)?;
        writeln!(out, "removed           {}", self.removed)?;
        writeln!(out, "skipped           {}", self.skipped)?;
        writeln!(out, "vanished          {}", self.vanished)?;
        if self.rescans > 0 {
            writeln!(out, "rescans           {}", self.rescans)?;
        }
        writeln!(out, "seconds           {:.3}", self.seconds)
    }
}
