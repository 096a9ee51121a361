//! What a version of the programs knows, as a number that all of them tell each other.

use serde::{Deserialize, Serialize};

/// Raised by every release that adds what an older one could not read or act upon. Releases whose levels are next to each
/// other work together; what only the newer one knows waits until no older one is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Level(pub u32);

impl Level {
    /// The first. Programs of that level did not tell theirs.
    pub const FIRST: Self = Self(1);
    /// From here on every data site may take appends in one epoch (active-active), and `partition_policy` says what a
    /// site that is cut off does then.
    pub const ACTIVE_ACTIVE: Self = Self(2);
    /// Of this version.
    pub const THIS: Self = Self(2);
    /// The lowest that this version works with: the one before.
    pub const OLDEST: Self = Self(Self::THIS.0 - 1);

    /// A level as a message tells it; 0 is one of the first level.
    pub const fn told(number: u32) -> Self {
        if number == 0 { Self::FIRST } else { Self(number) }
    }

    /// Whether `who`, which acts as this level, understands a cluster that works at `cluster`.
    ///
    /// # Errors
    /// It does not: what it acts as, and what to do.
    pub fn reaches(self, cluster: Self, who: &str) -> Result<(), String> {
        if self >= cluster {
            return Ok(());
        }
        Err(format!(
            "the cluster works at level {cluster}, {who} acts as level {self}: install a version of it that knows that level, and \
             look at cluster.level in its configuration"
        ))
    }
}

impl Default for Level {
    fn default() -> Self {
        Self::FIRST
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The levels of a program that takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// What it acts as.
    pub acts_as: Level,
    /// The lowest that it works with.
    pub oldest: Level,
}

impl Levels {
    /// Of this version, where it acts as an earlier one or as itself.
    pub const fn acting_as(level: Level) -> Self {
        Self { acts_as: level, oldest: Level::OLDEST }
    }

    /// As a message tells them.
    pub const fn told(acts_as: u32, oldest: u32) -> Self {
        Self { acts_as: Level::told(acts_as), oldest: Level::told(oldest) }
    }

    /// Whether both understand all that the other may say.
    ///
    /// # Errors
    /// Which of the two is too old, and what to do, with `they` for the other.
    pub fn meet(self, they: &str, theirs: Self) -> Result<(), String> {
        if theirs.acts_as < self.oldest {
            return Err(format!(
                "{they} runs a version of level {}, this site works with level {} and later: upgrade {they} first, release by \
                 release",
                theirs.acts_as, self.oldest
            ));
        }
        if self.acts_as < theirs.oldest {
            return Err(format!(
                "{they} runs a version of level {} that works with level {} and later, this site acts as level {}: upgrade \
                 this site first, release by release (`cluster.level` in its configuration may hold it back)",
                theirs.acts_as, theirs.oldest, self.acts_as
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_meet_and_others_are_told_who_is_too_old() {
        let of = |level: u32| Levels { acts_as: Level(level), oldest: Level(level - 1) };
        let (second, third, fourth) = (of(2), of(3), of(4));
        assert_eq!((second.meet("b", third), third.meet("a", second)), (Ok(()), Ok(())));
        let refused = second.meet("b", fourth).expect_err("two levels apart");
        assert!(refused.contains("upgrade this site first"), "{refused}");
        let refused = fourth.meet("a", second).expect_err("two levels apart");
        assert!(refused.contains("upgrade a first"), "{refused}");
    }

    #[test]
    fn one_that_tells_nothing_is_of_the_first_level() {
        assert_eq!(Levels::told(0, 0), Levels { acts_as: Level::FIRST, oldest: Level::FIRST });
        // Acting as an earlier version keeps those out that no longer work with it.
        let held = Levels::acting_as(Level::FIRST);
        assert!(held.meet("b", Levels::told(2, 1)).is_ok() && held.meet("b", Levels::told(3, 2)).is_err());
    }
}
