//! Why a command was not applied.

/// A command that was not applied.
#[derive(Debug)]
pub(crate) struct Undone {
    /// For people.
    pub(crate) why: String,
    /// It reached no leader: another site leads, or will in a moment.
    pub(crate) moved: bool,
}
