//! What goes wrong with a cluster.

use std::io;
use std::path::PathBuf;

use super::record::RECORD;
use super::{faults, layout, ports, process, ready};

/// What went wrong with a cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("{dir} holds no cluster: make one with `cfs dev up --dir {dir}`", dir = dir.display())]
    Missing {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// The directory holds something else.
    #[error("{dir} is not empty and holds no {RECORD}: choose another directory, nothing there was touched", dir = dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
    },
    /// The record is damaged or of another version.
    #[error("{path} does not read ({why}): stop its processes by hand and remove the directory", path = path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The cluster has other sites.
    #[error("the cluster in {dir} has the sites {have}: leave out --sites and --witness, or choose another directory", dir = dir.display())]
    OtherSites {
        /// The directory.
        dir: PathBuf,
        /// Its sites.
        have: String,
    },
    /// The cluster has other ports.
    #[error("the cluster in {dir} has its ports from {have} on: leave out --base-port, or choose another directory", dir = dir.display())]
    OtherPorts {
        /// The directory.
        dir: PathBuf,
        /// Its first port.
        have: u16,
    },
    /// No such site.
    #[error("site {name:?} is unknown: this cluster has {have}")]
    NoSite {
        /// The name given.
        name: String,
        /// The sites there are.
        have: String,
    },
    /// The names given cannot be a cluster.
    #[error("{0}")]
    Sites(String),
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No ports.
    #[error(transparent)]
    Ports(#[from] ports::Error),
    /// Certificates or configuration could not be made.
    #[error(transparent)]
    Layout(#[from] layout::Error),
    /// A process could not be started or ended.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// The faults of links could not be changed.
    #[error(transparent)]
    Faults(#[from] faults::Error),
    /// Not every site became ready.
    #[error(transparent)]
    NotReady(#[from] ready::Error),
}

pub(super) fn file_error(path: PathBuf) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { path, source }
}
