//! What follows from the registers and should hold, but is not merged.

/// Findings and counts. Each list is cut at the limit asked for; the counts are not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StructureReport {
    /// Inodes that exist.
    pub inodes: u64,
    /// Of these, directories.
    pub directories: u64,
    /// Live directory entries.
    pub entries: u64,
    /// Live inodes that no entry points to.
    pub orphans: Vec<u64>,
    /// How many orphans.
    pub orphan_count: u64,
    /// Directories with a name but without a way to the root: renames that crossed, or a parent that is gone.
    pub detached: Vec<u64>,
    /// How many detached directories.
    pub detached_count: u64,
    /// Entries `(parent, name, inode)` that point to an inode which does not exist, or is of another kind.
    pub dangling: Vec<(u64, Vec<u8>, u64)>,
    /// How many dangling entries.
    pub dangling_count: u64,
    /// Entries `(parent, name, inode)` in what does not exist, or is no directory: made while it was removed elsewhere.
    pub homeless: Vec<(u64, Vec<u8>, u64)>,
    /// How many homeless entries.
    pub homeless_count: u64,
    /// Directories with more than one name.
    pub multiply_named: Vec<u64>,
    /// How many of these.
    pub multiply_named_count: u64,
    /// Inodes for which what the store derives from registers - names, marks of lost writes, the index of tombstones -
    /// is not what follows from them: the file was damaged.
    pub derived: Vec<u64>,
    /// How many such findings.
    pub derived_count: u64,
    /// Inodes with a register that does not decode; what follows from it is not known.
    pub unreadable: Vec<u64>,
    /// How many such registers.
    pub unreadable_count: u64,
}

impl StructureReport {
    /// Whether there is nothing to repair.
    pub const fn is_sound(&self) -> bool {
        self.orphan_count == 0
            && self.detached_count == 0
            && self.dangling_count == 0
            && self.homeless_count == 0
            && self.multiply_named_count == 0
            && !self.is_damaged()
    }

    /// Whether something is wrong that no entry has written.
    pub const fn is_damaged(&self) -> bool {
        self.derived_count > 0 || self.unreadable_count > 0
    }
}
