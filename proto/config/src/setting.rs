//! A value and where it came from.

use std::fmt;

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// The configuration file.
    File,
    /// This variable.
    Env(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.pad("default"),
            Self::File => f.pad("file"),
            Self::Env(name) => f.pad(&format!("env {name}")),
            Self::Flag => f.pad("flag"),
        }
    }
}

/// One key as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `SECTION.NAME`, or `peers[0].NAME`.
    pub key: String,
    /// The value as the file would say it.
    pub value: String,
    /// Who set it.
    pub origin: Origin,
}
