//! A request that was refused, as an operator reads it.

use std::fmt;
use std::process::ExitCode;

use cfs_rpc::v1::Failed;

/// Exit code of a command line that makes no sense.
const EXIT_USAGE: u8 = 2;

/// What was refused, why, and what comes next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::commands) struct Refusal {
    /// Stable; in docs/status.md.
    pub(in crate::commands) code: Box<str>,
    pub(in crate::commands) what: String,
    pub(in crate::commands) why: String,
    pub(in crate::commands) next: String,
    /// What was changed all the same; empty: nothing.
    pub(in crate::commands) changed: Box<str>,
    /// An operation that goes on; 0: none.
    pub(in crate::commands) op: u64,
    pub(in crate::commands) usage: bool,
}

impl Refusal {
    /// One that this program decides on.
    pub(in crate::commands) fn new(
        code: &str,
        what: impl Into<String>,
        why: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { code: code.into(), what: what.into(), why: why.into(), next: next.into(), ..Self::default() }
    }

    /// A change that this user may not make.
    pub(in crate::commands) fn not_allowed() -> Self {
        Self::new(
            "CFS-E101",
            "nothing was changed",
            "only root or the service's user may change; run it with sudo",
            "sudo cfs admin replication ...",
        )
    }

    /// A question that this user may not ask.
    pub(in crate::commands) fn may_not_read(why: &str) -> Self {
        Self::new(
            "CFS-E104",
            "the control process does not answer this user",
            why,
            "members of the group `claudefs` may read: join it, or run it with sudo",
        )
    }

    /// Writes it to standard error; the code to exit with.
    pub(in crate::commands) fn report(&self) -> ExitCode {
        let code = if self.code.is_empty() { String::new() } else { format!(" [{}]", self.code) };
        anstream::eprintln!("error{code}: {self}");
        if self.usage { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
    }
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        let Failed { code, what, why, next, changed, op, usage } = failed;
        Self { code: code.into(), what, why, next, changed: changed.into(), op, usage }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head: Vec<&str> = [&*self.what, &*self.why].into_iter().filter(|text| !text.is_empty()).collect();
        f.write_str(&head.join(": "))?;
        if !self.changed.is_empty() {
            write!(f, "\n  changed: {}", self.changed)?;
        }
        if !self.next.is_empty() {
            write!(f, "\n  next: {}", self.next)?;
        }
        match self.op {
            0 => Ok(()),
            op => write!(f, "\n  operation {op} goes on; follow it with `{}`", follow_command(op)),
        }
    }
}

impl std::error::Error for Refusal {}

/// The command that shows how an operation goes on.
pub(in crate::commands) fn follow_command(op: u64) -> String {
    format!("cfs admin replication history --follow {op}")
}
