//! Why the group did not do what was asked.

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another node leads.
    #[error("this site does not lead the group: {}", leader.as_ref().map_or("nobody is known to".to_owned(), |l| format!("{l} does")))]
    NotLeader {
        /// Its site; `None`: unknown.
        leader: Option<String>,
    },
    /// No majority of voters answers.
    #[error("no majority of the voters answers")]
    NoQuorum,
    /// No answer in time: it may still come to pass.
    #[error("the group did not answer in time: the change may still come to pass")]
    Unknown,
    /// Leadership is just moving.
    #[error("leadership is moving to another site")]
    Moving,
    /// A change of members was refused.
    #[error("the members cannot be changed now: {0}")]
    Members(String),
    /// The command is larger than any message may be.
    #[error("the command has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// Leadership could not be moved.
    #[error("leadership cannot be moved to {site}: {why}")]
    CannotMove {
        /// Where to.
        site: String,
        /// Why not.
        why: String,
    },
    /// The node has stopped.
    #[error("this node has stopped: {0}")]
    Stopped(String),
}
